"""A study's plot: test macro-F1 of each arm against the study's first axis, with every seed and the control.

Run it with ``python -m analysis.plots STUDY [--results DIR]``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from analysis import search_plots
from analysis.command import run
from analysis.curves import f1_curves
from analysis.drawing import f1_figure
from analysis.figures import save, style
from analysis.groups import file_names, split
from analysis.methods import METHOD
from analysis.published import select
from analysis.results import load, read_plans, study_axes
from analysis.search import is_search
from cass_tune.results import StudyFolder
from cass_tune.storage import AnyPath


def draw(study: StudyFolder, published: Mapping[str, object] | None = None) -> list[AnyPath]:
    """Draw a study's plot as PNG, PDF and SVG, one for each of its tables, or a search's plots; return the files."""
    plans = read_plans(study)
    if is_search(plans):
        return search_plots.draw(study)
    frame = load(study)
    plan, axes = plans[-1], _drawn(study_axes(plans))
    groups = split(frame, axes)
    written = []
    for group, name in zip(groups, file_names(plan, groups, "f1"), strict=True):
        curves = f1_curves(group.frame, axes, select(published or {}))
        title = ("DEMO: " if plan["demo"] else "") + plan["title"].rstrip(".")
        with style():
            written += save(study, name, f1_figure(curves, axes, f"{title}, {plan['data']['name']}"))
    return written


def _drawn(axes: list[str]) -> list[str]:
    """Return the axes with the method last: it makes series, where another axis can be x."""
    return sorted(axes, key=lambda axis: axis == METHOD)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the plot of a study."""

    def action(study: StudyFolder, published: Mapping[str, object]) -> str:
        return "\n".join(str(path) for path in draw(study, published))

    return run("Draw the plot of a study, finished or not.", action, arguments)


if __name__ == "__main__":
    sys.exit(main())
