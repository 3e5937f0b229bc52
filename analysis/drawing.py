"""How the F1 plot looks: takes the record of `analysis.curves` and draws it, without arithmetic on the numbers."""

from __future__ import annotations

import itertools
import math
import textwrap
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures import ARM_NAMES, LINES, MARKERS, OKABE_ITO, PAGE_IN, new_figure
from analysis.format import long_name, setting
from analysis.frames import Values, records
from analysis.results import column
from cass_tune.config import ARMS

Rows = list[Values]

CAPTION = (
    "Macro-F1 on the test images against the first axis of the study, one panel per arm: mean with its 95 % t interval "
    "over seeds, and every seed as a small open point. The band is the control without pretraining. Diamonds are "
    "published values where they are comparable (micro-F1 at 0.5, not the same metric); a star means that the outputs "
    "of the pretraining collapsed in some seed."
)

_GREY = "0.4"
_CONTROL = (0, (1, 1.5))
_SHADE = 0.13
_SEEDS, _STAR, _DIAMOND = "Single seeds", "Outputs of some seeds collapsed", "Published (micro-F1 at 0.5)"
_BAND = "No pretraining, mean and 95 % t interval"


@dataclass(frozen=True)
class Scale:
    """Where the values of the first axis stand.

    Args:
        places: place of each value: its logarithm to base 2, or its number in the row of values.
        names: the series, which stand side by side at each value.
        step: the smallest distance of two places.
        width: the length of the axis.
    """

    places: dict[Any, float]
    names: list[str]
    step: float
    width: float

    def at(self, rows: Rows, index: int, aside: float = 0.0) -> list[float]:
        """Return the places of a series' rows, moved ``aside`` by a share of the axis."""
        spread = min(0.12, 0.6 / len(self.names)) * self.step
        shift = (index - (len(self.names) - 1) / 2) * spread + aside * self.width
        return [self.places[row["x"]] + shift for row in rows]


def _scale(rows: Rows) -> Scale:
    values = list(dict.fromkeys(row["x"] for row in rows if row["x"] is not None))
    is_log = all(isinstance(value, int | float) and value > 0 for value in values)
    values = sorted(values) if is_log else values
    places = {value: math.log2(value) if is_log else float(index) for index, value in enumerate(values)}
    ordered = sorted(places.values()) or [0.0]
    step = min((b - a for a, b in itertools.pairwise(ordered)), default=1.0)
    names = list(dict.fromkeys(row["series"] for row in rows if row["kind"] == "mean"))
    return Scale(places, names, step, ordered[-1] - ordered[0] + step)


def f1_figure(curves: pd.DataFrame, axes: list[str], title: str) -> Figure:
    """Draw what `analysis.curves.f1_curves` computed, one panel per arm."""
    figure = new_figure(PAGE_IN, 3.0)
    rows = records(curves)
    scale = _scale(rows)
    panels = list(figure.subplots(1, len(ARMS), sharey=True))
    for panel, arm in zip(panels, ARMS, strict=True):
        _x_axis(panel, scale, axes[0])
        _panel(panel, [row for row in rows if row["arm"] == arm], scale)
        panel.set_title(ARM_NAMES[arm])
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(max(low, -0.02), min(high, 1.02))
    panels[0].set_ylabel("Macro-F1, test images")
    figure.suptitle(textwrap.fill(title, 90), fontsize=9)
    _legend(figure, panels, has_control=any(row["kind"] == "control" and row["n"] for row in rows))
    return figure


def _x_axis(panel: Axes, scale: Scale, axis: str) -> None:
    places = list(scale.places.values())
    panel.set_xlim(min(places, default=0) - scale.step / 2, max(places, default=0) + scale.step / 2)
    panel.set_xticks(places, [setting(column(axis), value) for value in scale.places])
    panel.set_xlabel(long_name(axis))
    panel.grid(axis="y", color="0.9", linewidth=0.5)
    panel.set_axisbelow(True)


def _panel(panel: Axes, rows: Rows, scale: Scale) -> None:
    _controls(panel, [row for row in rows if row["kind"] == "control" and row["n"]], scale)
    for index, name in enumerate(scale.names):
        _series(panel, [row for row in rows if row["series"] == name], scale, index)
    _absent(panel, [row for row in rows if row["kind"] == "mean"], scale)


def _controls(panel: Axes, rows: Rows, scale: Scale) -> None:
    """Draw the control of every series (or the one that all share) as a line in a band."""
    for name in dict.fromkeys(row["series"] for row in rows):
        own = [row for row in rows if row["series"] == name]
        has_own_colour = name in scale.names and len(scale.names) > 1
        index = scale.names.index(name) if has_own_colour else None
        if own[0]["x"] is None:
            _level(panel, own[0], index)
        else:
            _line(panel, sorted(own, key=lambda row: scale.places[row["x"]]), scale, index)


def _colour(index: int | None) -> str:
    return _GREY if index is None else OKABE_ITO[index % len(OKABE_ITO)]


def _level(panel: Axes, row: Values, index: int | None) -> None:
    """Draw a control that is the same at every x; of several series its marker stands at the right edge."""
    colour = _colour(index)
    panel.axhline(row["y"], color=colour, linestyle=_CONTROL, linewidth=1.1, zorder=1)
    if row["n"] > 1:
        panel.axhspan(row["low"], row["high"], color=colour, alpha=_SHADE, linewidth=0, zorder=0)
    if index is not None:
        marker = MARKERS[index % len(MARKERS)]
        style = {"color": colour, "mfc": "white", "ms": 4.5, "clip_on": False, "zorder": 6}
        panel.plot(1.0, row["y"], marker, transform=panel.get_yaxis_transform(), **style)


def _line(panel: Axes, rows: Rows, scale: Scale, index: int | None) -> None:
    """Draw a control that has an x of its own, such as a label fraction."""
    places = [scale.places[row["x"]] for row in rows]
    low, high = (_numbers(rows, side) for side in ("low", "high"))
    panel.plot(places, _numbers(rows, "y"), color=_colour(index), linestyle=_CONTROL, linewidth=1.1, zorder=1)
    panel.fill_between(places, low, high, color=_colour(index), alpha=_SHADE, linewidth=0, zorder=0)


def _numbers(rows: Rows, name: str) -> list[float]:
    return [math.nan if row[name] is None else row[name] for row in rows]


def _series(panel: Axes, rows: Rows, scale: Scale, index: int) -> None:
    means, seeds, published = ([row for row in rows if row["kind"] == kind] for kind in ("mean", "seed", "published"))
    _means(panel, sorted(means, key=lambda row: scale.places[row["x"]]), scale, index)
    small = {"s": 8, "facecolors": "none", "edgecolors": _colour(index), "linewidths": 0.7}
    panel.scatter(scale.at(seeds, index, aside=0.015), _numbers(seeds, "y"), label=_SEEDS, zorder=3, **small)
    _stars(panel, [row for row in means if row["collapsed"] and row["n"]], scale, index)
    if published:
        open_mark = {"s": 30, "marker": "D", "facecolors": "white", "edgecolors": "black", "linewidths": 0.9}
        panel.scatter(scale.at(published, index), _numbers(published, "y"), label=_DIAMOND, zorder=5, **open_mark)


def _means(panel: Axes, rows: Rows, scale: Scale, index: int) -> None:
    half = [(row["high"] - row["low"]) / 2 if row["n"] > 1 else 0.0 for row in rows]
    name = scale.names[index]
    panel.errorbar(
        scale.at(rows, index),
        _numbers(rows, "y"),
        yerr=half,
        color=_colour(index),
        marker=MARKERS[index % len(MARKERS)],
        linestyle=LINES[index % len(LINES)],
        markersize=4.5,
        capsize=2.5,
        elinewidth=0.9,
        label=f"{name[0].upper()}{name[1:]}" if name else "Mean, 95 % t interval",
        zorder=4,
    )


def _stars(panel: Axes, rows: Rows, scale: Scale, index: int) -> None:
    """Mark the means of which the pretraining of some seed collapsed."""
    for row, x in zip(rows, scale.at(rows, index), strict=True):
        top = row["y"] if row["high"] is None else row["high"]
        panel.annotate("*", (x, top), (0, 1), textcoords="offset points", ha="center", fontsize=9)
    if rows:
        panel.plot([], [], marker="$*$", color="black", linestyle="none", markersize=5, label=_STAR)


def _absent(panel: Axes, means: Rows, scale: Scale) -> None:
    """Say where a value of the first axis has no result at all."""
    for value, place in scale.places.items():
        here = [row for row in means if row["x"] == value]
        if here and not any(row["n"] for row in here):
            style = {"color": _GREY, "ha": "center", "fontsize": 7}
            panel.text(place, 0.03, "no result", transform=panel.get_xaxis_transform(), **style)


def _legend(figure: Figure, panels: list[Axes], has_control: bool) -> None:
    """Set one legend for all panels below them: the series first."""
    entries: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    band = Patch(facecolor=_GREY, alpha=_SHADE, linewidth=0)
    if has_control:
        entries[_BAND] = (band, Line2D([], [], color=_GREY, linestyle=_CONTROL, linewidth=1.1))
    last = [label for label in (_SEEDS, _BAND, _DIAMOND, _STAR) if label in entries]
    labels = [label for label in entries if label not in last] + last
    handles = [entries[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=2 if len(labels) == 4 else 3, frameon=False)
