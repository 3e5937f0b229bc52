"""Which of several cells is the best, and which cannot be told from it.

The cell with the highest mean leads. It is the best only when its paired difference from every other one, on equal
seeds, has p < 0.05 in Student's t test, corrected for all such tests of a table (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import pandas as pd

from analysis.statistics import holm, p_value, paired_difference

LEVEL = 0.05
"""Largest corrected p of a difference that counts."""

Verdict: TypeAlias = Literal["best", "tied", ""]
Cells: TypeAlias = Mapping[str, pd.Series]
"""Cells that are compared with one another: a value per seed (the index), by the name of the cell."""


@dataclass(frozen=True)
class Best:
    """The outcome of one comparison.

    Args:
        leader: the cell with the highest mean, of equal ones the first.
        p: of the leader's difference from each other cell, corrected; NaN with fewer than two seeds in common.
    """

    leader: str
    p: Mapping[str, float]

    @property
    def tied(self) -> list[str]:
        """The other cells that cannot be told from the leader."""
        return [name for name, p in self.p.items() if p >= LEVEL]

    @property
    def untested(self) -> list[str]:
        """The other cells with fewer than two seeds in common with the leader."""
        return [name for name, p in self.p.items() if math.isnan(p)]

    def verdict(self, name: str) -> Verdict:
        """Return ``best`` for a leader that differs from every other, ``tied`` for what shares the first place."""
        if name == self.leader and not self.tied and not self.untested:
            return "best"
        return "tied" if self.tied and name in (self.leader, *self.tied) else ""


def compare(sets: Sequence[Cells]) -> list[Best | None]:
    """Return the outcome of every comparison of a table, None where fewer than two cells have a value."""
    leaders = [_leader(cells) for cells in sets]
    tests = [
        (number, name, p_value(paired_difference(cells[leader], values)))
        for number, (cells, leader) in enumerate(zip(sets, leaders, strict=True))
        if leader is not None
        for name, values in cells.items()
        if name != leader and values.notna().any()
    ]
    adjusted = holm([p for _, _, p in tests])
    found: list[Best | None] = []
    for number, leader in enumerate(leaders):
        p = {name: value for (of, name, _), value in zip(tests, adjusted, strict=True) if of == number}
        found.append(Best(leader, p) if leader is not None and p else None)
    return found


def _leader(cells: Cells) -> str | None:
    means = {name: float(values.mean()) for name, values in cells.items() if values.notna().any()}
    return max(means, key=lambda name: means[name], default=None)
