"""One row of numbers per cell (all settings but the seed) and arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.frames import Values, by, first, where
from analysis.groups import control_axes
from analysis.published import METRIC, Row, match
from analysis.results import column
from analysis.statistics import Estimate, paired_difference, summarise
from cass_tune.config import PROBES

_PARTS = ("mean", "low", "high", "n", "sd")
STATES = ("failed", "running", "missing", "collapsed", "pruned", "untested")
"""What may have become of a trial that is not done, in the order in which it is told."""


def f1_table(frame: pd.DataFrame, axes: list[str], published: Sequence[Row] = ()) -> pd.DataFrame:
    """Return the F1 table of one group as numbers.

    Args:
        frame: rows that may share a table (`analysis.groups.split`).
        axes: the study's axes, as ``section.field``.
        published: published rows that may stand beside its cells.

    Returns:
        One row per cell and arm, arm by arm, controls last: the axes; mean, interval, n and standard deviation of
        macro-F1, of the control's macro-F1 on the same seeds, of their paired difference, of micro-F1 at 0.5 and of the
        probes' macro-F1; the published micro-F1 where it is comparable; seconds; how many trials became what; and
        their ids.
    """
    keys = ["arm", "pretrain_method", *(column(axis) for axis in axes if axis != "pretrain.method")]
    rows = [_cell_row(cell, _control_of(frame, cell, axes), keys, published) for cell in by(frame, keys)]
    table = pd.DataFrame(sorted(rows, key=lambda row: place(row, keys)))
    return table.astype({name: frame[name].dtype for name in keys})


def _control_of(frame: pd.DataFrame, cell: pd.DataFrame, axes: list[str]) -> pd.DataFrame:
    """Return the control's rows of the same arm, settings and seeds; none for a control."""
    row = first(cell)
    if row["pretrain_method"] == "none":
        return cell.head(0)
    same = {name: row[name] for name in ("arm", *(column(axis) for axis in control_axes(axes)))}
    controls = where(frame, {"pretrain_method": "none", **same})
    return controls.loc[controls["seed"].isin(cell["seed"].tolist())]


def _cell_row(cell: pd.DataFrame, control: pd.DataFrame, keys: list[str], published: Sequence[Row]) -> Values:
    row = first(cell)
    return {
        **{name: row[name] for name in (*keys, "model")},
        **columns("macro_f1", summarise(cell["macro_f1"])),
        **columns("control_macro_f1", summarise(control["macro_f1"])),
        **columns("difference", paired_difference(_by_seed(cell), _by_seed(control))),
        **columns("micro_f1_at_half", summarise(cell["micro_f1_at_half"])),
        **{key: value for probe in PROBES for key, value in _of_probe(cell, probe).items()},
        **_published(row, published),
        "pretrain_seconds": cell["pretrain_seconds"].mean(),
        "finetune_seconds": cell["finetune_seconds"].mean(),
        "trials": len(cell),
        "done": len(where(cell, {"status": "done"})),
        **{state: len(where(cell, {"status": state})) for state in STATES},
        "outputs_collapsed": len(where(cell, {"collapsed": True})),
        "crossed_devices": len(where(cell, {"crossed_devices": True})),
        "trial_ids": trial_ids(cell),
    }


def trial_ids(rows: pd.DataFrame) -> str:
    """Return the ids of some rows' trials once each, separated by spaces; of missing ones there is nothing to see."""
    return " ".join(dict.fromkeys(rows.loc[rows["status"] != "missing", "trial_id"]))


def _of_probe(cell: pd.DataFrame, probe: str) -> dict[str, float]:
    return columns(f"{probe}_macro_f1", summarise(cell[f"{probe}_macro_f1"]))


def _by_seed(rows: pd.DataFrame) -> pd.Series:
    return pd.Series(rows["macro_f1"].to_numpy(), index=rows["seed"].tolist())


def columns(name: str, estimate: Estimate) -> dict[str, float]:
    """Return an estimate as columns of a table; `estimate_of` takes them back."""
    return {f"{name}_{part}": getattr(estimate, part) for part in _PARTS}


def estimate_of(row: Values, name: str) -> Estimate:
    """Return one estimate of a row of the table, for example ``macro_f1``."""
    mean, low, high, sd = (
        math.nan if row[f"{name}_{part}"] is None else row[f"{name}_{part}"] for part in ("mean", "low", "high", "sd")
    )
    return Estimate(mean, low, high, row[f"{name}_n"], sd)


def _published(cell: Values, rows: Sequence[Row]) -> Values:
    best = published_beside(cell, rows, METRIC)
    return {f"published_{name}": best.get(name) for name in ("value", "low", "high", "origin", "source")}


def published_beside(cell: Values, rows: Sequence[Row], metric: str) -> Row:
    """Return the comparable published row; of several the paper's own, or the first; without any an empty one."""
    found = [item.row for item in match(cell, rows) if item.is_comparable and item.row["metric"] == metric]
    return min(found, key=lambda row: row["origin"] != "paper", default={})


def place(row: Values, keys: list[str]) -> tuple[Any, ...]:
    """Return where a row stands: by arm, controls last, then by the axes, numbers before text, missing last."""
    values = [row[name] for name in keys if name not in ("arm", "pretrain_method")]
    ranked = [(2, 0) if v is None else (0, v) if isinstance(v, int | float) else (1, v) for v in values]
    return (row.get("arm", ""), row["pretrain_method"] == "none", *ranked, row["pretrain_method"])


def state_text(row: Values) -> str:
    """Return for example ``3/3`` or ``2/3, 1 failed``."""
    others = [f"{row[state]} {state}" for state in STATES if row[state]]
    return ", ".join([f"{row['done']}/{row['trials']}", *others])


def cell_name(row: Values, axes: list[str]) -> str:
    """Return the settings of a cell in short, for example ``batch_size=8``."""
    return " ".join(f"{axis.partition('.')[2]}={row[column(axis)]}" for axis in axes)
