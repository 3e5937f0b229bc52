"""Population based training (PBT; Jaderberg et al. 2017, arXiv 1711.09846), as trials of fixed descriptions.

A population is trained generation by generation, each for some more epochs of finetuning. Between two generations, the
worst quarter takes over the state of the best (exploit) and goes on with its hyperparameters changed (explore). Here
every member of every generation is a trial of its own: the same finetuning with more epochs and, where it has explored,
one change more (`cass_tune.config.Change`). Whoever computes it goes on from the end of the trial before
(`cass_tune.finetune_ends`), or from the start: its numbers are the same.

A generation is made when the one before has ended, from its outcomes and the search's seed alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cass_tune.config import CHANGEABLE, Change, Finetune, Trial, with_fields
from cass_tune.errors import UsageError
from cass_tune.randomness import generator
from cass_tune.results import Record
from cass_tune.search.design import Design, Draw
from cass_tune.search.space import ask

if TYPE_CHECKING:
    import numpy as np

SHARE = 4
"""One of so many members is among the worst, which are replaced, and one of so many among the best."""
FACTORS = (0.8, 1.2)
"""By one of these a parameter is multiplied (the paper's section 4.1.1)."""
ANEW = 0.25
"""Probability with which a parameter is drawn anew instead (as in Ray Tune's PBT)."""


def continued(
    design: Design, number: int, suggestions: Sequence[Record], outcomes: Mapping[int, Record]
) -> Draw | None:
    """Return the suggestion of a later generation, or None: no trial of the one before is complete.

    Args:
        design: of the search.
        number: of the suggestion.
        suggestions: those before it.
        outcomes: what became of those of the generation before, by number.
    """
    random = generator(design.settings.search_seed, "population", number)
    parent, explores = selected(number, design.settings.parallel, outcomes, random)
    if parent is None:
        return None
    record = suggestions[parent]
    before = trial(design, suggestions, record)
    found = explored(design, record, before, random) if explores else None
    asked = {name: record[name] for name in ("params", "distributions")}
    kept = Draw(trial=longer(before, design), fields=record["fields"], asked=asked)
    changed = sorted(name for name, value in asked["params"].items() if found and found.asked["params"][name] != value)
    lineage = {"generation": number // design.settings.parallel, "parent": parent, "changed": changed}
    made = found or kept
    in_order = {part: dict(sorted(values.items())) for part, values in made.asked.items()}  # read back or not
    return replace(made, asked=in_order, lineage=lineage)


def first(draw: Draw, number: int, design: Design) -> Draw:
    """Return a drawn suggestion as a member that stems from no other, with the epochs of its generation."""
    generation = number // design.settings.parallel
    epochs = (generation + 1) * design.settings.generation_epochs
    made = with_fields(draw.trial, {"finetune.epochs": epochs})
    return replace(draw, trial=made, lineage={"generation": generation, "parent": None, "changed": []})


def selected(
    number: int, size: int, outcomes: Mapping[int, Record], random: np.random.Generator
) -> tuple[int | None, bool]:
    """Return the suggestion that a later one goes on from, and whether it explores from there (truncation selection).

    A member goes on from itself, unless it is among the worst quarter (at least one), or is not complete: then from
    one of the best quarter, which chance chooses.

    Args:
        number: of the later suggestion.
        size: of the population.
        outcomes: what became of the generation before, by number.
        random: chooses.
    """
    start = number - number % size - size
    members = range(start, start + size)
    complete = [n for n in members if outcomes[n]["state"] == "complete"]
    complete.sort(key=lambda n: -outcomes[n]["values"][0])
    ranked = [*complete, *(n for n in members if n not in complete)]
    few = max(1, size // SHARE)
    if number - size in complete and number - size not in ranked[-few:]:
        return number - size, False
    best = complete[:few]
    return (best[int(random.integers(len(best)))], True) if best else (None, False)


def explored(design: Design, record: Mapping[str, Any], before: Trial, random: np.random.Generator) -> Draw | None:
    """Return a longer trial with changed hyperparameters, or None: none has changed.

    Each numeric parameter is multiplied by one of `FACTORS`, or drawn anew, if that changes nothing but what may
    change in a finetuning.

    Args:
        design: of the search.
        record: of the suggestion that it goes on from.
        before: its trial.
        random: chooses.
    """
    found: Draw | None = None
    params = dict(record["params"])
    for name, distribution in _numeric(record):
        anew, factor = random.random() < ANEW, FACTORS[int(random.integers(len(FACTORS)))]
        sampled = _sampled(distribution, int(random.integers(2**32)))
        value = sampled if anew else _within(distribution, params[name] * factor)
        candidate = _changed(design, record, before, {**params, name: value})
        if candidate:
            found, params[name] = candidate, value
    return found


def _changed(design: Design, record: Mapping[str, Any], before: Trial, params: Mapping[str, Any]) -> Draw | None:
    """Return a longer trial that goes on with other parameters, or None where that would be another trial."""
    import optuna

    from cass_tune.search import history

    asked: Any = optuna.trial.FixedTrial(dict(params))
    try:
        fields = ask(design.space, asked)
        values = design.trial(fields, params).finetune
        change = Change(epoch=before.finetune.epochs, **{name: getattr(values, name) for name in CHANGEABLE})
        made = with_fields(longer(before, design), {"finetune.changes": (*before.finetune.changes, change)})
    except UsageError:
        return None
    differing = {
        path for path in fields.keys() | record["fields"].keys() if fields.get(path) != record["fields"].get(path)
    }
    is_same_space = history.params_record(asked)["distributions"] == record["distributions"]
    if not differing or not differing <= set(PATHS) or not is_same_space:
        return None
    return Draw(trial=made, fields=fields, asked=history.params_record(asked))


PATHS = tuple(f"finetune.{name}" for name in CHANGEABLE)
"""Fields that may change from one generation to the next."""


def _numeric(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the numeric parameters of a suggestion with their distributions, by name."""
    from optuna.distributions import FloatDistribution, IntDistribution, json_to_distribution

    found = ((name, json_to_distribution(text)) for name, text in sorted(record["distributions"].items()))
    return [(name, each) for name, each in found if isinstance(each, FloatDistribution | IntDistribution)]


def _within(distribution: Any, value: float) -> float:
    """Return the nearest value that a distribution has."""
    value = min(max(value, distribution.low), distribution.high)
    if distribution.step:
        value = distribution.low + round((value - distribution.low) / distribution.step) * distribution.step
    return distribution.to_external_repr(value)


def _sampled(distribution: Any, seed: int) -> float:
    import optuna

    from cass_tune.search import history

    study = history.study(1, sampler=optuna.samplers.RandomSampler(seed=seed))
    return study.ask({"value": distribution}).params["value"]


def longer(before: Trial, design: Design) -> Trial:
    """Return the trial that goes on from another for a generation."""
    return with_fields(before, {"finetune.epochs": before.finetune.epochs + design.settings.generation_epochs})


def trial(design: Design, suggestions: Sequence[Record], record: Mapping[str, Any]) -> Trial:
    """Return the trial of a recorded suggestion: its first ancestor's, for more epochs and with the changes since."""
    start = record
    while start["population"]["parent"] is not None:
        start = suggestions[start["population"]["parent"]]
    recorded = record["trial"]["config"]["finetune"]
    own = {f"finetune.{name}": recorded[name] for name in ("epochs", "changes")}
    return with_fields(design.trial(start["fields"], start["params"]), own)


def check(design: Design, draws: Sequence[Draw]) -> None:
    """Raise a UsageError unless the members of a population can go on from one another, and something can change.

    Args:
        design: of the search.
        draws: some that its space allows.
    """
    problems = [_epochs_problem(design)] if any("finetune.epochs" in {*design.given, *d.fields} for d in draws) else []
    wrong = [draw.trial.finetune for draw in draws if not draw.trial.finetune.passes_shorter]
    problems += [_schedule_problem(wrong[0])] if wrong else []
    if not problems and not any(_can_change(design, draw) for draw in draws):
        problems.append(
            f"--algorithm pbt changes parameters while a trial runs, but of this space none can: it changes numbers "
            f"(suggest_float, suggest_int) that set {', '.join(PATHS)} and nothing else. Let the space suggest one of "
            "these, or give --algorithm tpe."
        )
    if problems:
        raise UsageError(*problems)


def _epochs_problem(design: Design) -> str:
    return (
        "--finetune.epochs is set by --algorithm pbt: generation after generation trains for --interval-epochs "
        f"({design.settings.generation_epochs}) more. Leave it out, also of the space."
    )


def _schedule_problem(finetune: Finetune) -> str:
    return (
        "--algorithm pbt goes on from what shorter trials have reached, so it needs --finetune.schedule cosine, which "
        "does not depend on the number of epochs, and --finetune.patience 0, but a trial of this space has "
        f"{finetune.schedule} and {finetune.patience}. Give these, also in the space, or --algorithm tpe."
    )


def _can_change(design: Design, draw: Draw) -> bool:
    record = {**draw.asked, "fields": dict(draw.fields)}
    candidates = (
        {**record["params"], name: _within(distribution, record["params"][name] * factor)}
        for name, distribution in _numeric(record)
        for factor in FACTORS
    )
    return any(_changed(design, record, draw.trial, params) for params in candidates)
