"""What a claim is tested on: differences, ratios and ranges of every seed, by network and setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import pandas as pd

from analysis.devices import SEPARATOR
from analysis.figures import ARM_NAMES
from analysis.format import setting, short_name
from analysis.frames import Values, by, first, where
from analysis.groups import control_axes
from analysis.methods import METHOD
from analysis.results import column
from analysis.statistics import Estimate, summarise

MOST_PARTS = 6
"""So many parts are told one by one."""

Parts = Mapping[str, pd.Series]
"""By network and setting in words: a number for every seed (the index)."""


def differences(frame: pd.DataFrame, axes: list[str], other: str) -> dict[str, pd.Series]:
    """Return macro-F1 of CASS minus that of another method, of every seed, by network and setting."""
    settings = [axis for axis in axes if axis != METHOD]
    shared = control_axes(axes) if other == "none" else settings
    found: dict[str, pd.Series] = {}
    for cell in by(where(frame, {"pretrain_method": "cass"}), ["arm", *map(column, settings)]):
        row = first(cell)
        same = {"arm": row["arm"], **{column(axis): row[column(axis)] for axis in shared}}
        beside = where(frame, {"pretrain_method": other, **same})
        difference = _by_seed(cell).sub(_by_seed(beside)).dropna()
        if len(difference):
            found[named(row, settings)] = difference
    return found


def named(row: Values, axes: Sequence[str]) -> str:
    """Return a network and its setting in words, for example ``CNN, batch 16``."""
    settings = (f"{short_name(axis)} {setting(column(axis), row[column(axis)])}" for axis in axes)
    return ", ".join([ARM_NAMES[row["arm"]], *settings])


def _by_seed(rows: pd.DataFrame) -> pd.Series:
    return cast(pd.Series, rows.groupby("seed")["macro_f1"].mean()).dropna().astype(float)


def together(parts: Parts) -> Estimate:
    """Return the estimate over the seeds that all parts have, each seed's number averaged over the parts."""
    return summarise(pd.DataFrame(dict(parts)).dropna().mean(axis=1))


def evidence(parts: Parts) -> str:
    """Return every part's estimate in words; of many parts the mean of each network."""
    if len(parts) > MOST_PARTS:
        networks = dict.fromkeys(name.partition(",")[0] for name in parts)
        own = ({key: values for key, values in parts.items() if key.startswith(name)} for name in networks)
        return "; ".join(
            f"{name} {together(found).text(signed=True)}" for name, found in zip(networks, own, strict=True)
        )
    return "; ".join(f"{name} {summarise(values).text(signed=True)}" for name, values in parts.items())


def ratios(cass: pd.DataFrame, dino: pd.DataFrame) -> pd.Series:
    """Return CASS's pretraining seconds over DINO's of every seed, mean over the settings that both have."""
    keys = ["pretrain_batch_size", "pretrain_epochs", "data_pretrain_fraction", "seed", "devices"]
    sides = []
    for rows in (cass, dino):
        known = rows.loc[rows["devices"].notna() & ~rows["devices"].str.contains(SEPARATOR, regex=False).fillna(True)]
        sides.append(cast(pd.Series, known.groupby(keys)["pretrain_seconds"].mean()).dropna())
    found = cast(pd.Series, sides[0] / sides[1]).dropna()
    return cast(pd.Series, found.groupby("seed").mean()).astype(float)


def drops(rows: pd.DataFrame, factor: str, axes: list[str]) -> dict[str, pd.Series]:
    """Return by network and setting the drop of every seed from the level with the highest mean to the lowest one."""

    def drop(levels: pd.DataFrame) -> pd.Series:
        means = levels.mean()
        return cast(pd.Series, levels[means.idxmax()] - levels[means.idxmin()])

    return _over_levels(rows, factor, axes, drop)


def ranges(rows: pd.DataFrame, factor: str, axes: list[str]) -> dict[str, pd.Series]:
    """Return by network and setting the range of every seed over the levels."""
    return _over_levels(rows, factor, axes, lambda levels: levels.max(axis=1) - levels.min(axis=1))


def _over_levels(
    rows: pd.DataFrame, factor: str, axes: list[str], measure: Callable[[pd.DataFrame], pd.Series]
) -> dict[str, pd.Series]:
    """Return a measure of every seed that has all levels of a factor, by network and setting of the other axes.

    All levels are those that were asked for: where one has no score yet, no seed has them all.
    """
    others = [axis for axis in axes if axis not in (factor, METHOD)]
    found: dict[str, pd.Series] = {}
    for alike in by(rows, ["arm", *map(column, others)]):
        levels = cast(pd.Series, alike.groupby(["seed", column(factor)])["macro_f1"].mean()).unstack().dropna()
        if levels.shape[1] > 1:
            values = measure(levels) if len(levels) else pd.Series()
            found[named(first(alike), others)] = values.astype(float)
    return found
