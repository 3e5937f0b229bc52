"""What a cell costs against what it reaches: training time of one trial and test macro-F1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.devices import UNKNOWN
from analysis.figures import ARM_NAMES, MARKERS, OKABE_ITO, PAGE_IN, new_figure
from analysis.format import time_unit
from analysis.frames import Values, records, where
from analysis.series import CONTROL, capitalised
from analysis.statistics import summarise
from cass_tune.config import ARMS

COLUMNS = ("kind", "arm", "series", "level", "is_control", "devices", "seed", "n", "seconds", "seconds_low")
COLUMNS += ("seconds_high", "y", "low", "high")
CAPTION = (
    "Test macro-F1 against the training time of one trial alone: its pretraining, as if it were not shared, and the "
    "finetuning of the arm. A large point is the mean of a cell with the 95 % t interval of its macro-F1 over the "
    "seeds, a small one a seed; controls without pretraining are open. Devices: {devices}."
)
_PLACE = ("arm", "series", "level", "is_control", "devices")
_LOG_FROM = 10
_GREY = "0.4"


def time_f1(frame: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """Return the record of time against F1.

    Args:
        frame: rows that may share a table (`analysis.groups.split`).
        series: rows of `analysis.series.trial_series`.

    Returns:
        Rows of two kinds, ``mean`` (both numbers with their interval, n) and ``seed``: times in seconds, y is macro-F1.
        Cells that ran on several kinds of devices have a row for each. Trials without either number are left out.
    """
    done = series.merge(frame.drop(columns="seed"), on="digest")
    before = done["pretrain_seconds"].mask(done["is_control"].astype(bool), 0.0)
    done = done.assign(seconds=before + done["finetune_seconds"], devices=done["devices"].fillna(UNKNOWN))
    done = done.dropna(subset=["seconds", "macro_f1"])
    cells = done.groupby(["arm", "series", "devices"], sort=False)
    return pd.DataFrame([row for _, cell in cells for row in _of_cell(cell)], columns=COLUMNS)


def _of_cell(cell: pd.DataFrame) -> Iterator[Values]:
    rows = records(cell, [*_PLACE, "seed", "seconds", "macro_f1"])
    place = {name: rows[0][name] for name in _PLACE}
    time, score = summarise(cell["seconds"]), summarise(cell["macro_f1"])
    spread = {"seconds_low": time.low, "seconds_high": time.high, "low": score.low, "high": score.high}
    yield {"kind": "mean", **place, "n": score.n, "seconds": time.mean, "y": score.mean, **spread}
    for row in rows:
        yield {"kind": "seed", **place, "seed": row["seed"], "n": 1, "seconds": row["seconds"], "y": row["macro_f1"]}


def time_f1_figure(record: pd.DataFrame, title: str) -> Figure:
    """Draw what `time_f1` computed, one panel per arm, a colour and marker per value of the first axis."""
    figure = new_figure(PAGE_IN, 3.0)
    size, unit = time_unit(max(record["seconds"].tolist()))
    panels = figure.subplots(1, len(ARMS), sharey=True)
    levels = [level for level in dict.fromkeys(record["level"]) if level != CONTROL]
    for panel, arm in zip(panels, ARMS, strict=True):
        own = where(record, {"arm": arm})
        for row in records(own):
            _point(panel, row, levels, size)
        panel.set_title(ARM_NAMES[arm])
        panel.set_xlabel(f"Training of one trial alone ({unit})")
        panel.grid(color="0.9", linewidth=0.5)
        panel.set_axisbelow(True)
        _limits(panel, (own["seconds"] / size).tolist())
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(max(low, -0.02), min(high, 1.02))
    panels[0].set_ylabel("Macro-F1, test images")
    figure.suptitle(title)
    _legend(figure, panels)
    return figure


def _point(panel: Axes, row: Values, levels: list[str], size: int) -> None:
    index = levels.index(row["level"]) if row["level"] in levels else None
    colour = _GREY if index is None else OKABE_ITO[index % len(OKABE_ITO)]
    marker = "*" if index is None else MARKERS[(index + index // len(OKABE_ITO)) % len(MARKERS)]
    mark: dict[str, Any] = {"color": colour, "marker": marker}
    face = "white" if row["is_control"] else colour
    x, y = row["seconds"] / size, row["y"]
    if row["kind"] == "seed":
        panel.plot(x, y, **mark, markersize=2.5, markerfacecolor="none", markeredgewidth=0.5, alpha=0.6, zorder=2)
        return
    y_half = (row["high"] - row["low"]) / 2 if row["n"] > 1 else 0.0
    named = CONTROL if row["level"] == CONTROL else f"{row['level']}{f', {CONTROL}' * row['is_control']}" or "all cells"
    looks = {"markersize": 5.0, "markerfacecolor": face, "elinewidth": 0.8, "capsize": 2.0, "linestyle": "none"}
    panel.errorbar(x, y, yerr=y_half, label=named, zorder=3, **mark, **looks)


def _limits(panel: Axes, times: list[float]) -> None:
    """Show all points, by their logarithm where they differ much."""
    low, high = min(times, default=0.0), max(times, default=1.0)
    if low > 0 and high > _LOG_FROM * low:
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        room = (high / low) ** 0.1
        panel.set_xlim(low / room, high * room)
    else:
        room = 0.1 * (high - low) or 0.1 * high or 1.0
        panel.set_xlim(max(0.0, low - room), high + room)


def _legend(figure: Figure, panels: list[Axes]) -> None:
    """Set one legend below the panels, a column per value of the first axis where there are few."""
    found = [pair for panel in panels for pair in zip(*panel.get_legend_handles_labels(), strict=True)]
    entries = {label: handle for handle, label in reversed(found)}
    levels = list(dict.fromkeys(label.removesuffix(f", {CONTROL}") for _, label in found))
    names = sorted(entries, key=lambda name: (levels.index(name.removesuffix(f", {CONTROL}")), name))
    handles = [entries[name] for name in names]
    figure.legend(handles, capitalised(names), loc="outside lower center", ncols=min(len(levels), 4), frameon=False)


def devices_of(record: pd.DataFrame) -> str:
    """Return the kinds of devices in a record as text."""
    return ", ".join(sorted(set(record["devices"]))) or UNKNOWN
