"""How the attempts of a study look: a bar per attempt on a row per place of a machine."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures import OKABE_ITO, PAGE_IN, new_figure
from analysis.format import duration, time_unit
from analysis.frames import Values, records

CAPTION = (
    "The attempts at the trials of the study: a row for each place of a machine, on which one trial runs at a time, a "
    "bar for each attempt. Its phases are as long as their training took, one after another from the start of the "
    "attempt; the rest is loading, probes, tests, saving and waiting. Marks say where an attempt did not finish. Times "
    "in which nothing ran are left out where they are long; a dotted line says how long."
)
_PHASES = {
    "pretrain": ("Pretraining", OKABE_ITO[0], ""),
    "finetune_cnn": ("Finetuning CNN", OKABE_ITO[5], "////"),
    "finetune_vit": ("Finetuning ViT", OKABE_ITO[4], "...."),
    "other": ("Other", "0.85", ""),
}
_MARKS = {
    "failed": ("Failed", "X", "black"),
    "out_of_memory": ("GPU memory not enough", "s", "black"),
    "interrupted": ("Interrupted, saved", "D", "white"),
    "died": ("Process died", "v", "black"),
    "running": ("Running", ">", "white"),
}
_LONG_PAUSE = 0.1
"""Share of all time in which anything ran, from which on a pause is left out."""
_LEAST_IN, _ROW_IN, _MOST_IN = 1.5, 0.22, 8.0


def gantt_figure(record: pd.DataFrame, title: str) -> Figure:
    """Draw what `analysis.gantt.gantt` computed."""
    rows = records(record)
    lanes = sorted({(row["host"], row["place"]) for row in rows})
    cuts = pauses([(row["start_s"], row["end_s"]) for row in rows])
    size, unit = time_unit(max(_shown(row["end_s"], cuts) for row in rows))
    figure = new_figure(PAGE_IN, min(_MOST_IN, _LEAST_IN + _ROW_IN * len(lanes)))
    panel = figure.subplots()
    for row in rows:
        start, end = (_shown(row[side], cuts) / size for side in ("start_s", "end_s"))
        _bar(panel, row, lanes.index((row["host"], row["place"])), start, end)
    for start, end in cuts:
        _pause(panel, _shown(start, cuts) / size, end - start)
    panel.set_yticks(range(len(lanes)), _lane_names(lanes))
    panel.set_ylim(len(lanes) - 0.4, -0.6)
    panel.set_xlim(left=0)
    panel.set_xlabel(f"Time since the first start{', without pauses' * bool(cuts)} ({unit})")
    figure.suptitle(title)
    _legend(figure, rows)
    return figure


def pauses(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return (start, end) of the long times in which nothing ran, in order.

    Args:
        spans: (start, end) of what ran, in seconds.
    """
    gaps, busy, until = [], 0.0, 0.0
    for start, end in sorted(spans):
        if start > until:
            gaps.append((until, start))
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return [(start, end) for start, end in gaps if end - start > _LONG_PAUSE * busy]


def _shown(time: float, cuts: Sequence[tuple[float, float]]) -> float:
    """Return where a time stands when the pauses are cut out."""
    return time - sum(min(time, end) - start for start, end in cuts if time > start)


def _bar(panel: Axes, row: Values, lane: int, start: float, end: float) -> None:
    _, colour, hatch = _PHASES[row["phase"]]
    panel.barh(lane, end - start, left=start, height=0.7, color=colour, hatch=hatch, edgecolor="white", linewidth=0.3)
    if row["ended"] is None:
        return
    panel.plot([end, end], [lane - 0.35, lane + 0.35], color="black", linewidth=0.8)
    if row["ended"] in _MARKS:
        _, marker, face = _MARKS[row["ended"]]
        style = {"markersize": 4.5, "markerfacecolor": face, "markeredgecolor": "black", "markeredgewidth": 0.7}
        panel.plot(end, lane, marker, **style, zorder=5, clip_on=False)


def _pause(panel: Axes, place: float, seconds: float) -> None:
    panel.axvline(place, color="black", linewidth=0.7, linestyle=":")
    at_the_top = panel.get_xaxis_transform()
    text = f"{duration(seconds)} pause"
    panel.annotate(text, (place, 1), (0, 1), xycoords=at_the_top, textcoords="offset points", ha="center", fontsize=7)


def _lane_names(lanes: Sequence[tuple[str, int]]) -> list[str]:
    hosts = [host for host, _ in lanes]
    return [host if hosts.count(host) == 1 else f"{host}, {place}" for host, place in lanes]


def _legend(figure: Figure, rows: Sequence[Values]) -> None:
    phases = {row["phase"] for row in rows}
    ends = {row["ended"] for row in rows}
    handles: list[Patch | Line2D] = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0.3, label=name)
        for phase, (name, colour, hatch) in _PHASES.items()
        if phase in phases
    ]
    style = {"linestyle": "none", "markersize": 4.5, "markeredgecolor": "black", "markeredgewidth": 0.7}
    for end, (name, marker, face) in _MARKS.items():
        if end in ends:
            handles.append(Line2D([], [], marker=marker, markerfacecolor=face, label=name, **style))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
