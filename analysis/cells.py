"""One row of numbers per cell (all settings but the seed) and arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.frames import Values, grouped, records
from analysis.groups import control_axes
from analysis.published import CELL_COLUMNS, METRIC, Row, match
from analysis.results import column
from analysis.statistics import Estimate, intervals, paired_difference, summarise
from cass_tune.config import PROBES

_PARTS = ("mean", "low", "high", "n", "sd")
STATES = ("failed", "running", "missing", "collapsed", "pruned", "untested")
"""What may have become of a trial that is not done, in the order in which it is told."""

_NEEDED = (
    *CELL_COLUMNS,
    *("seed", "status", "collapsed", "crossed_devices", "pretrain_seconds", "finetune_seconds"),
    *("macro_f1", "micro_f1_at_half", *(f"{probe}_macro_f1" for probe in PROBES)),
)


def f1_table(frame: pd.DataFrame, axes: list[str], published: Sequence[Row] = ()) -> pd.DataFrame:
    """Return the F1 table of one group as numbers.

    Args:
        frame: rows that may share a table (`analysis.groups.split`).
        axes: the study's axes, as ``section.field``.
        published: published rows that may stand beside its cells.

    Returns:
        One row per cell and arm, arm by arm, controls last: the axes; mean, interval, n and standard deviation of
        macro-F1, of the control's macro-F1 on the same seeds, of their paired difference, of micro-F1 at 0.5 and of the
        probes' macro-F1; the published micro-F1 where it is comparable, and by how many intervals ours is above it
        (`analysis.statistics.intervals`); seconds; and how many trials became what.
    """
    keys = ["arm", "pretrain_method", *(column(axis) for axis in axes if axis != "pretrain.method")]
    cells = records(frame, [*keys, *_NEEDED])
    shared = ["arm", *map(column, control_axes(axes))]
    controls = grouped([row for row in cells if row["pretrain_method"] == "none"], shared)
    rows = [
        _cell_row(cell, controls.get(tuple(cell[0][name] for name in shared), []), keys, published)
        for cell in grouped(cells, keys).values()
    ]
    table = pd.DataFrame(sorted(rows, key=lambda row: place(row, keys)))
    return table.astype({name: frame[name].dtype for name in keys})


def _cell_row(cell: list[Values], controls: list[Values], keys: list[str], published: Sequence[Row]) -> Values:
    """Return the numbers of a cell.

    Args:
        cell: its trials.
        controls: those of the same arm and settings, of any seed.
        keys: columns that tell cells apart.
        published: published rows that may stand beside it.
    """
    row, micro = cell[0], summarise(_values(cell, "micro_f1_at_half"))
    seeds = {row["seed"] for row in cell} if row["pretrain_method"] != "none" else set()
    control = [row for row in controls if row["seed"] in seeds]
    return {
        **{name: row[name] for name in (*keys, "model")},
        **columns("macro_f1", summarise(_values(cell, "macro_f1"))),
        **columns("control_macro_f1", summarise(_values(control, "macro_f1"))),
        **columns("difference", paired_difference(_by_seed(cell), _by_seed(control))),
        **columns("micro_f1_at_half", micro),
        **{key: value for probe in PROBES for key, value in _of_probe(cell, probe).items()},
        **_published(row, published, micro),
        "pretrain_seconds": summarise(_values(cell, "pretrain_seconds")).mean,
        "finetune_seconds": summarise(_values(cell, "finetune_seconds")).mean,
        "trials": len(cell),
        **{state: _values(cell, "status").count(state) for state in ("done", *STATES)},
        "outputs_collapsed": _values(cell, "collapsed").count(True),
        "crossed_devices": _values(cell, "crossed_devices").count(True),
    }


def _values(rows: list[Values], name: str) -> list[Any]:
    return [row[name] for row in rows]


def _of_probe(cell: list[Values], probe: str) -> dict[str, float]:
    return columns(f"{probe}_macro_f1", summarise(_values(cell, f"{probe}_macro_f1")))


def _by_seed(rows: list[Values]) -> dict[int, float]:
    return {row["seed"]: row["macro_f1"] for row in rows if row["macro_f1"] is not None}


def columns(name: str, estimate: Estimate) -> dict[str, float]:
    """Return an estimate as columns of a table; `estimate_of` takes them back."""
    return {f"{name}_{part}": getattr(estimate, part) for part in _PARTS}


def estimate_of(row: Values, name: str) -> Estimate:
    """Return one estimate of a row of the table, for example ``macro_f1``."""
    mean, low, high, sd = (
        math.nan if row[f"{name}_{part}"] is None else row[f"{name}_{part}"] for part in ("mean", "low", "high", "sd")
    )
    return Estimate(mean, low, high, row[f"{name}_n"], sd)


def _published(cell: Values, rows: Sequence[Row], micro: Estimate) -> Values:
    best = published_beside(cell, rows, METRIC)
    value = best.get("value")
    known = {f"published_{name}": best.get(name) for name in ("value", "low", "high", "origin", "source")}
    return {**known, "published_intervals": math.nan if value is None else intervals(micro, value)}


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
