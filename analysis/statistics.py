"""Mean, spread and the 95 % interval over seeds, honest for few seeds.

Three to five seeds are usual here, so the interval is Student's t: mean +- t(0.975, n - 1) * sd / sqrt(n).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from scipy.stats import t

CONFIDENCE = 0.95
"""Coverage of every interval in tables and plots."""


BySeed: TypeAlias = "pd.Series | Mapping[Any, float]"
"""One number for every seed; NaN where it is unknown."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its two-sided interval; unknown parts are NaN (one seed has a mean and no interval)."""

    mean: float
    low: float
    high: float
    n: int
    sd: float = math.nan

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    def text(self, signed: bool = False) -> str:
        """Return for example ``0.712 [0.651, 0.773]``, ``0.712 (n=1, no interval)``, or ``-`` without any value."""
        if self.n == 0:
            return "-"
        number = "+.3f" if signed else ".3f"
        if self.n == 1:
            return f"{self.mean:{number}} (n=1, no interval)"
        return f"{self.mean:{number}} [{self.low:{number}}, {self.high:{number}}]"

    def short(self, signed: bool = False) -> str:
        """Return for example ``0.712 +-0.061`` (the interval is symmetric), for narrow tables."""
        if self.n == 0:
            return "-"
        mean = f"{self.mean:{'+.3f' if signed else '.3f'}}"
        return f"{mean} (n=1)" if self.n == 1 else f"{mean} +-{self.half_width:.3f}"


def summarise(values: Iterable[float | None]) -> Estimate:
    """Return mean, interval, n and standard deviation of the values that are known (NaN and None are left out)."""
    known = [float(value) for value in values if value is not None and not pd.isna(value)]
    n = len(known)
    if n < 2:
        return Estimate(known[0] if n else math.nan, math.nan, math.nan, n)
    mean, sd = float(np.mean(known)), float(np.std(known, ddof=1))
    half = _quantile(n - 1) * sd / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n, sd)


@functools.cache
def _quantile(degrees: int) -> float:
    """Return Student's t at the upper end of the interval."""
    return float(t.ppf((1 + CONFIDENCE) / 2, degrees))


def intervals(ours: Estimate, theirs: float) -> float:
    """Return by how many half widths of its interval an estimate is above a number (below it: negative).

    Within -1 and 1 the number lies inside the interval. NaN without an interval, or with one of no width: one value, or
    several that are all the same.
    """
    return (ours.mean - theirs) / ours.half_width if ours.n > 1 and ours.half_width else math.nan


def paired_difference(a: BySeed, b: BySeed) -> Estimate:
    """Return the estimate of a - b over the seeds (the index) that both have."""
    there = dict(b.items())
    return summarise(value - there[seed] for seed, value in a.items() if seed in there)


def p_value(difference: Estimate) -> float:
    """Return the two-sided p of Student's t test that the mean of a paired difference is 0; NaN for less than two.

    Differences that are all the same have p 0, or 1 where they are all 0.
    """
    if difference.n < 2:
        return math.nan
    if difference.sd == 0:
        return 1.0 if difference.mean == 0 else 0.0
    statistic = abs(difference.mean) / (difference.sd / math.sqrt(difference.n))
    return 2 * float(t.sf(statistic, difference.n - 1))


def holm(values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm 1979): below a level, the family-wise error is below it, too.

    Args:
        values: of all tests of one table; NaN stands for a test that could not be made, and is not counted.
    """
    order = sorted((index for index, value in enumerate(values) if not math.isnan(value)), key=lambda i: values[i])
    adjusted, largest = [math.nan] * len(values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted
