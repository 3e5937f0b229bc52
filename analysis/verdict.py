"""What a study says about its own question, in a sentence: is the difference larger than the noise?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.best import LEVEL
from analysis.contrasts import differences, named, together
from analysis.format import long_name, setting, short_name
from analysis.frames import by, first, records, where
from analysis.groups import control_axes
from analysis.methods import METHOD
from analysis.results import column
from analysis.statistics import Estimate, holm, p_value, paired_difference

RULE = (
    "Two levels are told apart when the two-sided p of the t test of their differences, paired by seed and corrected"
    f" for all pairs of levels, networks and settings (Holm), is below {LEVEL:g}. Macro-F1 of the test images."
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two levels of an axis, of one network and setting.

    Args:
        where: the network and setting in words.
        levels: the two, in words.
        difference: macro-F1 of the first minus that of the second, paired by seed.
        p: of its t test, corrected for all pairs; NaN with fewer than two seeds in common.
    """

    where: str
    levels: tuple[str, str]
    difference: Estimate
    p: float

    @property
    def is_tested(self) -> bool:
        """Whether there are two seeds in common."""
        return self.difference.n > 1

    def text(self) -> str:
        """Return for example ``CNN, batch 16 minus batch 32: +0.024 [-0.001, +0.049], p = 0.31``."""
        a, b = self.levels
        return f"{self.where}, {a} minus {b}: {self.difference.text(signed=True)}, p = {self.p:.2g}"


def pairs(frame: pd.DataFrame, axes: Sequence[str]) -> list[Pair]:
    """Return every pair of levels of the first axis, the surest first; last those without two seeds in common.

    Args:
        frame: rows that may share a table (`analysis.groups.split`).
        axes: the study's axes, as ``section.field``; controls count where the axis is the method, or theirs, too.
    """
    axis, others = axes[0], [*axes[1:]]
    rows = frame if axis == METHOD else frame.loc[frame["pretrain_method"] != "none"]
    shared = control_axes(others) if axis == METHOD else others
    found: list[tuple[str, tuple[str, str], Estimate]] = []
    for alike in by(rows, ["arm", *map(column, shared)]):
        row = first(alike)
        place = named(row, shared)
        for a, b in itertools.combinations(_levels(alike, axis), 2):
            difference = paired_difference(_of(alike, axis, a), _of(alike, axis, b))
            found.append((place, (_label(axis, a), _label(axis, b)), difference))
    adjusted = holm([p_value(difference) for *_, difference in found])
    items = [
        Pair(where=place, levels=levels, difference=difference, p=p)
        for (place, levels, difference), p in zip(found, adjusted, strict=True)
    ]
    tested = sorted((pair for pair in items if pair.is_tested), key=lambda pair: (pair.p, -abs(pair.difference.mean)))
    return [*tested, *(pair for pair in items if not pair.is_tested)]


def _levels(rows: pd.DataFrame, axis: str) -> list[object]:
    values = [row[column(axis)] for row in records(rows.loc[~rows[column(axis)].duplicated()])]
    return sorted((value for value in values if value is not None), key=lambda value: (isinstance(value, str), value))


def _label(axis: str, level: object) -> str:
    return f"{short_name(axis)} {setting(column(axis), level)}"


def _of(rows: pd.DataFrame, axis: str, level: object) -> pd.Series:
    """Return macro-F1 of a level by seed, mean over what else there is of it; missing where any of that is missing."""
    own = where(rows, {column(axis): level})
    return own.groupby("seed")["macro_f1"].agg(lambda values: values.mean(skipna=False)).astype(float)  # type: ignore[return-value]


def verdict(frame: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    """Return the verdict of a study in sentences.

    Args:
        frame: rows that may share a table.
        axes: the study's axes.
    """
    done = len(frame.loc[frame["status"] == "done"])
    if not done:
        return ["No trial has a result yet: there is nothing to tell."]
    return [*_on_levels(frame, axes), *_on_control(frame, axes)]


def _on_levels(frame: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    if not axes:
        return []
    levels = _levels(frame, axes[0])
    if len(levels) < 2:
        return []
    every, name = pairs(frame, axes), long_name(axes[0]).partition(" (")[0]
    found = [pair for pair in every if pair.is_tested]
    told = [pair for pair in found if pair.p < LEVEL]
    shown = ", ".join(setting(column(axes[0]), level) for level in levels)
    what = f"{name} {shown}"
    if not found:
        return [f"{what}: no two of them have two seeds in common, so nothing can be told."]
    untested = len(every) - len(found)
    more = [f"{untested} more pairs have fewer than two seeds in common: of them nothing can be told."] * bool(untested)
    if not told:
        text = f"no two of them can be told apart by macro-F1 (surest of {len(found)} pairs: {found[0].text()})."
        return [f"{what}: {text}", *more]
    rest = f"; and {len(told) - 3} more" if len(told) > 3 else ""
    text = "; ".join(pair.text() for pair in told[:3])
    return [f"{what}: {len(told)} of {len(found)} pairs can be told apart by macro-F1: {text}{rest}.", *more]


def _on_control(frame: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    parts = differences(frame, list(axes), "none")
    if not parts or METHOD in axes:
        return []
    estimate = together(parts)
    text = estimate.text(signed=True)
    if not estimate.n:
        return ["CASS against finetuning without pretraining: no seed has both in all networks and settings."]
    if estimate.n < 2:
        return [f"CASS against finetuning without pretraining, mean over networks and settings: {text}."]
    how = "better" if estimate.low > 0 else "worse" if estimate.high < 0 else "not told from noise"
    return [f"CASS against finetuning without pretraining, mean over networks and settings: {text}, {how}."]
