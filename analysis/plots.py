"""A study's plots, each with the numbers that it shows.

Run it with ``python -m analysis.plots STUDY [--results DIR]``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

from analysis import search_plots
from analysis.command import run
from analysis.curves import f1_curves
from analysis.drawing import CAPTION, f1_figure
from analysis.figures import Plot, save, style
from analysis.groups import file_names, split
from analysis.methods import METHOD
from analysis.published import select
from analysis.results import load, read_plans, study_axes
from analysis.search import is_search
from cass_tune.results import StudyFolder
from cass_tune.storage import AnyPath


def figures(study: StudyFolder, published: Mapping[str, object] | None = None) -> Iterator[Plot]:
    """Yield a study's plots in the order of a report, each when it is asked for; what nothing is known of is left out.

    Args:
        study: its folder.
        published: which published rows stand beside its cells (`analysis.published.select`).
    """
    plans = read_plans(study)
    if is_search(plans):
        yield from search_plots.figures(study)
        return
    frame = load(study)
    plan, axes = plans[-1], _drawn(study_axes(plans))
    groups = split(frame, axes)
    title = f"{'DEMO: ' if plan['demo'] else ''}{plan['title'].rstrip('.')}, {plan['data']['name']}"
    for group, name in zip(groups, file_names(plan, groups, "f1"), strict=True):
        curves = f1_curves(group.frame, axes, select(published or {}))
        with style():
            figure = f1_figure(curves, axes, title)
        yield Plot(name, title, CAPTION, curves, figure)


def draw(study: StudyFolder, published: Mapping[str, object] | None = None) -> list[AnyPath]:
    """Write a study's plots as PNG, PDF and SVG with their numbers as CSV, and return the files."""
    return [path for plot in figures(study, published) for path in save(study, plot)]


def _drawn(axes: list[str]) -> list[str]:
    """Return the axes with the method last: it makes series, where another axis can be x."""
    return sorted(axes, key=lambda axis: axis == METHOD)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the plots of a study."""

    def action(study: StudyFolder, published: Mapping[str, object]) -> str:
        return "\n".join(str(path) for path in draw(study, published))

    return run("Draw the plots of a study, finished or not.", action, arguments)


if __name__ == "__main__":
    sys.exit(main())
