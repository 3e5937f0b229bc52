"""Suggestions: a function of the search's seed, their number, and the outcomes that were known when they were due."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cass_tune.config import Trial
from cass_tune.errors import UsageError
from cass_tune.identity import digest
from cass_tune.pruning import Goal
from cass_tune.results import Record
from cass_tune.search.settings import GPU_HOURS, SearchSettings
from cass_tune.search.space import Space, apply, ask

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a search is; with another one, another search begins.

    Args:
        name: of the study.
        space: of its trials.
        base: the trial whose fields the space sets.
        given: fields that the user has set.
        settings: of the command.
    """

    name: str
    space: Space
    base: Trial
    given: Collection[str] = ()
    settings: SearchSettings

    def trial(self, fields: Mapping[str, Any], params: Mapping[str, Any]) -> Trial:
        """Return the trial of a suggestion, see `cass_tune.search.space.apply`."""
        return apply(self.base, fields, params, self.given)

    @property
    def goal(self) -> Goal:
        """What is to be high."""
        arms = tuple(arm for arm in ("cnn", "vit") if arm in self.settings.objective_arms)
        return Goal(metric=self.settings.objectives[0], arms=arms)

    @property
    def asks_for_hours(self) -> bool:
        """Whether the hours of training are a second objective."""
        return GPU_HOURS in self.settings.objectives

    def record(self, base_digest: str) -> Record:
        """Return everything that suggestions depend on but the space, which is code, as plain JSON.

        Args:
            base_digest: identity of the base trial.
        """
        names = ("objectives", "algorithm", "startup_trials", "search_seed", "parallel", "on_collapse")
        chosen = {name: getattr(self.settings, name) for name in names}
        return {"base": base_digest, "arms": list(self.goal.arms), "prunes": self.settings.prunes, **chosen}


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One suggestion.

    Args:
        trial: the base with its fields.
        fields: that it sets.
        asked: the parameters and their distributions (`cass_tune.search.history.params_record`).
    """

    trial: Trial
    fields: Mapping[str, Any]
    asked: Record


def draw(design: Design, number: int, suggestions: Sequence[Record], outcomes: Mapping[int, Record]) -> Draw:
    """Return a suggestion.

    It is made from the outcomes of the trials up to ``number - parallel``; later ones count as running, also where they
    have ended already.

    Args:
        design: of the search.
        number: of the suggestion.
        suggestions: those before it.
        outcomes: what became of them, by number.

    Raises:
        UsageError: the space fails, is empty or contradicts a rule.
    """
    from cass_tune.search import history

    known = number - design.settings.parallel
    trials = [
        history.frozen(record, outcomes[record["number"]] if record["number"] <= known else None)
        for record in suggestions[:number]
    ]
    study = history.study(len(design.settings.objectives), trials, _sampler(design.settings, number))
    trial = study.ask()
    return _resolved(design, trial)


def random_draws(design: Design, count: int) -> list[Draw]:
    """Return trials that the space allows, drawn at random: for what a search will take before it has run."""
    import optuna

    from cass_tune.search import history

    sampler = optuna.samplers.RandomSampler(seed=_seed(design.settings.search_seed, -1))
    study = history.study(len(design.settings.objectives), sampler=sampler)
    return [_resolved(design, study.ask()) for _ in range(count)]


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


def _resolved(design: Design, trial: optuna.Trial) -> Draw:
    from cass_tune.search import history

    fields = ask(design.space, trial)
    return Draw(trial=design.trial(fields, trial.params), fields=fields, asked=history.params_record(trial))


def _sampler(settings: SearchSettings, number: int) -> optuna.samplers.BaseSampler:
    import optuna

    seed = _seed(settings.search_seed, number)
    if settings.algorithm == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=settings.startup_trials, constant_liar=True)


def _seed(seed: int, number: int) -> int:
    return int(digest({"search_seed": seed, "number": number})[:8], 16)
