"""Trainings that are interrupted and go on, and what must be the same afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from cass_tune.training.finetune import Finetuning
from cass_tune.training.pretrain import Pretraining

TIMES = ("seconds", "images_per_second", "peak_memory_gib", "utilisation")
"""Columns that differ from run to run."""
MOST_PIECES = 200

_Training = TypeVar("_Training", Pretraining, Finetuning)


class Interruption(Exception):
    """Ends a training between two steps."""


def numbers(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without what differs from run to run."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def trained_in_pieces(make: Callable[[], _Training], steps: int) -> _Training:
    """Return a finished training that was interrupted after every so many steps, each time with a fresh object."""
    training = make()
    for _ in range(MOST_PIECES):
        training._after_step = _interrupt_after(steps)
        try:
            list(training.run())
            return training
        except Interruption:
            state = training.state().on_cpu()
            training = make()
            training.load(state)
    raise AssertionError("it never ends")


def _interrupt_after(steps: int) -> Callable[[], None]:
    left = steps

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Interruption

    return count
