"""The plots of a search: its course, parallel coordinates, what matters, and the front of two objectives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import OKABE_ITO, Plot, new_figure, style
from analysis.frames import Values, records
from analysis.results import read_plans
from analysis.search import PARAMETER, importance, search_table
from cass_tune.results import Record, StudyFolder

_NAMES = {"gpu_hours": "Hours of training", "macro_f1": "Validation macro-F1", "auroc": "Validation AUROC"}
_GREY = "0.7"
_BLUE, _RED = OKABE_ITO[:2]
_COURSE = "The value of every trial in the order of suggestion, and the best complete trial so far."
_COORDINATES = "A line per complete trial through its parameters, ending at its value; the better, the darker."
_IMPORTANCE = (
    "Which share of the variance of each objective each parameter explains (fANOVA over the complete trials; Hutter et "
    "al., 2014)."
)
_FRONT = "The complete trials by both objectives; those on the front are beaten in both by no other."


def figures(study: StudyFolder) -> Iterator[Plot]:
    """Yield the plots of a search; what too few trials say nothing of is left out."""
    plan = read_plans(study)[-1]
    table = search_table(study, plan)
    objectives = plan["search"]["objectives"]
    title = f"{'DEMO: ' if plan['demo'] else ''}{plan['title'].rstrip('.')}, {plan['data']['name']}"
    if table.empty or "complete" not in table["state"].tolist():
        return
    for name, (caption, record) in _shown(study, plan, table).items():
        with style():
            figure = _drawn(name, record, objectives, title)
        yield Plot(f"{'DEMO_' if plan['demo'] else ''}{name}", title, caption, record, figure)


def _shown(study: StudyFolder, plan: Record, table: pd.DataFrame) -> dict[str, tuple[str, pd.DataFrame]]:
    """Return caption and numbers of each plot by name."""
    shares, objectives = importance(study, plan), plan["search"]["objectives"]
    shown = {"course": (_COURSE, table), "coordinates": (_COORDINATES, coordinates(table, objectives[0]))}
    if len(shares):
        shown["importance"] = (_IMPORTANCE, shares)
    if len(objectives) > 1:
        shown["front"] = (_FRONT, table)
    return shown


def _drawn(name: str, record: pd.DataFrame, objectives: Sequence[str], title: str) -> Figure:
    if name == "course":
        return course_figure(records(record), objectives[0], title)
    if name == "coordinates":
        return coordinates_figure(record, objectives[0], title)
    if name == "importance":
        return importance_figure(records(record), title)
    return front_figure(records(record), objectives, title)


def _figure(title: str, width: float = 5.0, height: float = 3.0) -> tuple[Figure, Axes]:
    figure = new_figure(width, height)
    panel = figure.subplots()
    figure.suptitle(title, fontsize=9)
    return figure, panel


def course_figure(rows: Sequence[Values], objective: str, title: str) -> Figure:
    """Draw every trial's value in the order of suggestion, and the best so far."""
    figure, panel = _figure(title)
    marks = {"complete": ("o", _BLUE, "Complete"), "pruned": ("x", _GREY, "Pruned (value until then)")}
    for state, (marker, colour, text) in marks.items():
        own = [row for row in rows if row["state"] == state and row[objective] is not None]
        if not own:
            continue
        places, values = [row["number"] for row in own], [row[objective] for row in own]
        panel.plot(places, values, marker, color=colour, markersize=4, linestyle="none", label=text)
    best, line = -math.inf, []
    for row in rows:
        best = max(best, row[objective] if row["state"] == "complete" else -math.inf)
        line.append(best if best > -math.inf else math.nan)
    panel.step([row["number"] for row in rows], line, color=_RED, where="post", label="Best so far")
    without = [row["number"] for row in rows if row["state"] != "open" and row[objective] is None]
    if without:
        at_the_bottom = panel.get_xaxis_transform()
        style = {"color": _GREY, "markersize": 7, "linestyle": "none", "transform": at_the_bottom, "clip_on": False}
        panel.plot(without, [0.0] * len(without), "|", label="No value (collapsed or failed)", **style)
    panel.set_xlabel("Suggestion")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_ylabel(_name(objective))
    panel.legend(frameon=False)
    return figure


def _name(objective: str) -> str:
    return _NAMES.get(objective, f"Validation {objective.replace('_', ' ')}")


def coordinates(table: pd.DataFrame, objective: str) -> pd.DataFrame:
    """Return where every complete trial lies on each axis of parallel coordinates.

    Returns:
        number, axis, value, place (0 to 1; missing where the parameter was not asked for), is_log. Numbers that span a
        power of ten or more lie by their logarithm; texts, in order of appearance, at equal distances.
    """
    names = [name for name in table.columns if name.startswith(PARAMETER)]
    shown = [row for row in records(table) if row["state"] == "complete"]
    rows: list[Record] = []
    for name in [*names, objective]:
        place, is_log = _scale([row[name] for row in shown if row[name] is not None])
        for row in shown:
            value = row[name]
            where = None if value is None else place(value)
            common = {"number": row["number"], "axis": name.removeprefix(PARAMETER)}
            rows.append({**common, "value": value, "place": where, "is_log": is_log})
    frame = pd.DataFrame(rows, columns=["number", "axis", "value", "place", "is_log"])
    return frame.astype({"place": "float64"})


def _scale(values: Sequence[Any]) -> tuple[Any, bool]:
    """Return what places a value between 0 and 1, and whether by its logarithm."""
    if not values or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        order = list(dict.fromkeys(values))
        return (lambda value: order.index(value) / max(1, len(order) - 1)), False
    low, high = min(values), max(values)
    if low == high:
        return (lambda value: 0.5), False
    if low > 0 and high / low >= 10:
        return (lambda value: math.log(value / low) / math.log(high / low)), True
    return (lambda value: (value - low) / (high - low)), False


def coordinates_figure(found: pd.DataFrame, objective: str, title: str) -> Figure:
    """Draw parallel coordinates: a line per trial, the better the darker; a gap where there is no such parameter."""
    rows = records(found)
    axes = list(dict.fromkeys(row["axis"] for row in rows))
    figure, panel = _figure(title, width=max(5.0, 1.1 * len(axes)))
    lines: dict[int, list[Values]] = {}
    for row in rows:
        lines.setdefault(row["number"], []).append(row)
    for line in sorted(lines.values(), key=lambda line: line[-1]["place"]):
        places = [math.nan if row["place"] is None else row["place"] for row in line]
        strength = 0.15 + 0.85 * line[-1]["place"] ** 2
        panel.plot(range(len(axes)), places, "-o", color=_BLUE, alpha=strength, markersize=2, linewidth=0.9)
    for place, axis in enumerate(axes):
        own = [row for row in rows if row["axis"] == axis and row["value"] is not None]
        panel.axvline(place, color="0.85", linewidth=0.5, zorder=0)
        for row in {
            row["place"]: row for row in own if row["place"] in (0.0, 1.0) or isinstance(row["value"], str)
        }.values():
            text = f"{row['value']:.3g}" if isinstance(row["value"], float) else str(row["value"])
            panel.annotate(text, (place, row["place"]), (2, 2), textcoords="offset points", fontsize=6)
    logs = {row["axis"]: row["is_log"] for row in rows}
    labels = [f"{_name(a) if a == objective else a}{chr(10) + '(log)' if logs[a] else ''}" for a in axes]
    panel.set_xticks(range(len(axes)), labels, rotation=30, ha="right")
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)
    return figure


def importance_figure(rows: Sequence[Values], title: str) -> Figure:
    """Draw the importance of each parameter, one colour per objective."""
    objectives = list(dict.fromkeys(row["objective"] for row in rows))
    names = list(dict.fromkeys(row["parameter"] for row in rows))
    figure, panel = _figure(title, height=0.8 + 0.35 * len(names) * len(objectives))
    size = 0.8 / len(objectives)
    for number, objective in enumerate(objectives):
        own = [row for row in rows if row["objective"] == objective]
        places = [names.index(row["parameter"]) + (number - (len(objectives) - 1) / 2) * size for row in own]
        values = [row["importance"] for row in own]
        panel.barh(places, values, height=size, color=OKABE_ITO[number], label=_name(objective))
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.set_xlim(0, 1)
    panel.set_xlabel(f"Importance (fANOVA, {rows[0]['trials']} complete trials)")
    panel.legend(frameon=False)
    return figure


def front_figure(rows: Sequence[Values], objectives: Sequence[str], title: str) -> Figure:
    """Draw the complete trials of two objectives and those that no other beats in both."""
    figure, panel = _figure(title)
    complete = [row for row in rows if row["state"] == "complete"]
    front = sorted((row for row in complete if row["front"]), key=lambda row: row[objectives[1]])
    others = [row for row in complete if not row["front"]]
    metric, hours = objectives
    panel.plot([r[hours] for r in others], [r[metric] for r in others], "o", color=_GREY, markersize=4, label="Others")
    panel.step([r[hours] for r in front], [r[metric] for r in front], "-o", color=_BLUE, where="post", label="Front")
    for row in (row for row in front if row["repeats"] is None):
        panel.annotate(f"#{row['number']}", (row[hours], row[metric]), (3, 3), textcoords="offset points", fontsize=6)
    panel.set_xlabel(_name(hours))
    panel.set_ylabel(_name(metric))
    panel.legend(frameon=False)
    return figure
