"""What was asked for: the plans of a study and the union of their trials."""

from __future__ import annotations

from typing import NamedTuple

from cass_tune.config import SECTIONS, Trial
from cass_tune.errors import UsageError
from cass_tune.results import Record, StudyFolder


class Wanted(NamedTuple):
    """A trial that was asked for.

    Args:
        age: of the plan that names it, 0 for the last.
        plan: what it says of all its trials.
        trial: what it says of this one.
    """

    age: int
    plan: Record
    trial: Record


def read_plans(study: StudyFolder) -> list[Record]:
    """Return what was asked for, oldest first.

    Raises:
        UsageError: there is no plan, or one is damaged.
    """
    plans = study.plans()
    if not plans:
        raise UsageError(f"Nothing has been asked for in {study.path}. Run the study first.")
    return plans


def study_axes(plans: list[Record]) -> list[str]:
    """Return the axes of all plans, those of the last one first."""
    return list(dict.fromkeys(axis for plan in reversed(plans) for axis in plan["axes"]))


def wanted_trials(plans: list[Record]) -> list[Wanted]:
    """Return every trial of all plans once, the last asked for first."""
    wanted: dict[str, Wanted] = {}
    for age, plan in enumerate(reversed(plans)):
        for trial in plan["trials"]:
            wanted.setdefault(trial["digest"], Wanted(age, plan, trial))
    return list(wanted.values())


def trial_of(config: Record) -> Trial:
    """Return the trial that a stored configuration describes.

    A section or field that was added after it was written has its default.
    """
    sections: Record = {name: kind(**config.get(name, {})) for name, kind in SECTIONS.items()}
    return Trial(**sections, seed=config["seed"])
