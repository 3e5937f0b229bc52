"""Suggestions: a function of the search's seed, their number, and the outcomes that were known when they were due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cass_tune.errors import UsageError
from cass_tune.results import Record
from cass_tune.search import population
from cass_tune.search.design import Design, Draw
from cass_tune.search.settings import SearchSettings
from cass_tune.search.space import ask

if TYPE_CHECKING:
    import optuna


def draw(design: Design, number: int, suggestions: Sequence[Record], outcomes: Mapping[int, Record]) -> Draw:
    """Return a suggestion.

    It is made from the outcomes of the first `Design.known`; later ones count as running, also where they have ended
    already.

    Args:
        design: of the search.
        number: of the suggestion.
        suggestions: those before it.
        outcomes: what became of them, by number.

    Raises:
        UsageError: the space fails, is empty or contradicts a rule.
    """
    if design.settings.is_population and number >= design.settings.parallel:
        found = population.continued(design, number, suggestions, outcomes)
        if found:
            return found
    drawn = _asked(design, number, suggestions, outcomes)
    return population.first(drawn, number, design) if design.settings.is_population else drawn


def _asked(design: Design, number: int, suggestions: Sequence[Record], outcomes: Mapping[int, Record]) -> Draw:
    """Return what Optuna's sampler makes of what is known."""
    from cass_tune.search import history

    known = design.known(number)
    trials = [
        history.frozen(record, outcomes[record["number"]] if record["number"] < known else None)
        for record in suggestions[:number]
    ]
    study = history.study(len(design.settings.objectives), trials, _sampler(design.settings, design.seed(number)))
    return design.drawn(study.ask())


def random_draws(design: Design, count: int) -> list[Draw]:
    """Return trials that the space allows, drawn at random: for what a search will take before it has run.

    In a population, those of later generations are those of the first, trained on.
    """
    import optuna

    from cass_tune.search import history

    settings = design.settings
    sampler = optuna.samplers.RandomSampler(seed=design.seed(-1))
    study = history.study(len(settings.objectives), sampler=sampler)
    if not settings.is_population:
        return [design.drawn(study.ask()) for _ in range(count)]
    members = [design.drawn(study.ask()) for _ in range(min(count, settings.parallel))]
    return [population.first(members[number % settings.parallel], number, design) for number in range(count)]


def changes(design: Design, suggestion: Mapping[str, Any]) -> str:
    """Return in what the space differs from what an earlier suggestion recorded of it, or an empty text."""
    import optuna

    from cass_tune.search import history

    fixed: Any = optuna.trial.FixedTrial(suggestion["params"])
    try:
        fields = ask(design.space, fixed)
    except UsageError as error:
        return f"it cannot be asked again ({error})"
    asked = history.params_record(fixed)
    for name, found in asked["distributions"].items():
        before = suggestion["distributions"].get(name)
        if found != before:
            return f"{name} is now of {found}, before of {before}"
    before = suggestion["fields"]
    return "" if fields == before else f"with the same parameters it sets {fields}, before {before}"


def _sampler(settings: SearchSettings, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    if settings.algorithm == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=settings.startup_trials, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)
