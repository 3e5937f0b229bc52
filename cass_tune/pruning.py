"""Which trials of a search are stopped early: asynchronous successive halving (ASHA; Li et al., arXiv 1810.05934).

At a few points of the finetuning, the rungs, a trial goes on only if it is among the best third of the trials that were
compared with it there. Ray Tune and Optuna compare with whatever has reported by then, so that the decision depends on
the clock. Here a trial is compared with those that had ended when it was suggested: the decision is a function of the
search alone, and a search that is killed and run again decides the same.

Progress counts the epochs of finetuning, of one arm after the other, as they are run. The pretraining's loss is never
looked at: a collapsed pretraining makes it small.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

ETA = 3
"""One of so many trials goes on at a rung, and each rung is so many times as far as the one before."""
RUNGS = 3

Curve = dict[int, float]
"""Value by progress."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a search wants to be high.

    Args:
        metric: column of the epochs' rows, of the validation images.
        arms: whose mean it is, in the order in which they are finetuned.
    """

    metric: str
    arms: tuple[str, ...]

    def value(self, result: Mapping[str, Any]) -> float | None:
        """Return the mean over the arms, each with the weights of its best epoch, or None: it was not measured."""
        values = [result["arms"][arm]["validation"].get(self.metric) for arm in self.arms]
        return None if None in values else fmean(values)

    def curve(self, rows: Iterable[Mapping[str, Any]], select_by: str, epochs: int) -> Curve:
        """Return the value after every epoch of finetuning, each arm with its best epoch so far.

        Args:
            rows: of a trial (`cass_tune.training.rows`).
            select_by: metric that picks the best epoch.
            epochs: of the finetuning of one arm.
        """
        curve: Curve = {}
        best: dict[str, tuple[float, float]] = {}
        for row in rows:
            arm = str(row["phase"]).removeprefix("finetune_")
            if arm not in self.arms or row.get(self.metric) is None:
                continue
            if arm not in best or row[select_by] > best[arm][0]:
                best[arm] = (row[select_by], row[self.metric])
            progress = self.arms.index(arm) * epochs + int(row["epoch"])
            curve[progress] = fmean(value for _, value in best.values())
        return curve


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """When one trial is to be stopped.

    Args:
        goal: what is compared.
        select_by: metric that picks an arm's best epoch.
        epochs: of the finetuning of one arm.
        cutoffs: progress of every rung, and the least value with which the trial goes on there.
    """

    goal: Goal
    select_by: str
    epochs: int
    cutoffs: tuple[tuple[int, float], ...]

    def reason(self, rows: Iterable[Mapping[str, Any]]) -> str | None:
        """Return why a trial with these rows is to be stopped, or None."""
        curve = self.goal.curve(rows, self.select_by, self.epochs)
        for rung, cutoff in self.cutoffs:
            value = at(curve, rung)
            if value is not None and value < cutoff:
                best = f"{self.goal.metric} {value:.4f}, the best third had {cutoff:.4f}"
                return f"after {rung} of {len(self.goal.arms) * self.epochs} epochs of finetuning: {best}"
        return None

    def record(self) -> dict[str, Any]:
        """Return it as plain JSON; `from_record` reads it."""
        return {
            "metric": self.goal.metric,
            "arms": list(self.goal.arms),
            "select_by": self.select_by,
            "epochs": self.epochs,
            "cutoffs": [list(pair) for pair in self.cutoffs],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Pruning:
        """Return what `record` has written."""
        return cls(
            goal=Goal(metric=record["metric"], arms=tuple(record["arms"])),
            select_by=record["select_by"],
            epochs=record["epochs"],
            cutoffs=tuple((rung, cutoff) for rung, cutoff in record["cutoffs"]),
        )


def at(curve: Curve, rung: int) -> float | None:
    """Return the value at a rung, or None when it is not reached; an arm may stop before its last epoch."""
    if not curve or max(curve) < rung:
        return None
    before = [progress for progress in curve if progress <= rung]
    return curve[max(before)] if before else None


def rungs(total: int) -> list[int]:
    """Return the progress at which trials are compared: a third of the whole, a third of that, and so on.

    Args:
        total: epochs of finetuning of a whole trial, over the arms that count.
    """
    return sorted({round(total / ETA**number) for number in range(1, RUNGS + 1)} - {0, total})


def cutoffs(others: Sequence[Curve], total: int) -> tuple[tuple[int, float], ...]:
    """Return the least value at every rung with which a trial is among the best third of others.

    Args:
        others: trials that have ended; those that have not reached a rung, or have another length, do not count there.
        total: epochs of finetuning of a whole trial.
    """
    found = []
    for rung in rungs(total):
        values = sorted(value for curve in others if (value := at(curve, rung)) is not None)
        if len(values) >= ETA:  # a third of fewer is nobody
            found.append((rung, values[-(len(values) // ETA)]))
    return tuple(found)
