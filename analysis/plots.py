"""A study's plot: test macro-F1 of each arm against the study's first axis, with every seed and the control.

Run it with ``python -m analysis.plots STUDY [--results DIR]``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from analysis.command import run
from analysis.curves import f1_curves
from analysis.drawing import f1_figure
from analysis.groups import file_names, split
from analysis.methods import METHOD
from analysis.published import select
from analysis.results import load, read_plans, study_axes
from cass_tune.results import StudyFolder
from cass_tune.storage import AnyPath, whole_file

_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "cass_tune",
}
_NO_DATE = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}


def draw(study: StudyFolder, published: Mapping[str, object] | None = None) -> list[AnyPath]:
    """Draw a study's plot as PNG, PDF and SVG, one for each of its tables, and return the files."""
    plans, frame = read_plans(study), load(study)
    plan, axes = plans[-1], _drawn(study_axes(plans))
    groups = split(frame, axes)
    written = []
    for group, name in zip(groups, file_names(plan, groups, "f1"), strict=True):
        curves = f1_curves(group.frame, axes, select(published or {}))
        title = ("DEMO: " if plan["demo"] else "") + plan["title"].rstrip(".")
        with matplotlib.rc_context(_STYLE):
            figure = f1_figure(curves, axes, f"{title}, {plan['data']['name']}")
            written += [_save(figure, study.plots / f"{name}.{kind}", kind) for kind in _NO_DATE]
    return written


def _drawn(axes: list[str]) -> list[str]:
    """Return the axes with the method last: it makes series, where another axis can be x."""
    return sorted(axes, key=lambda axis: axis == METHOD)


def _save(figure: Figure, path: AnyPath, kind: str) -> AnyPath:
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=200, bbox_inches="tight", metadata=_NO_DATE[kind])
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the plot of a study."""

    def action(study: StudyFolder, published: Mapping[str, object]) -> str:
        return "\n".join(str(path) for path in draw(study, published))

    return run("Draw the plot of a study, finished or not.", action, arguments)


if __name__ == "__main__":
    sys.exit(main())
