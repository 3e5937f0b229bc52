"""What all figures have in common: how they look, and how they are written."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

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


def style() -> AbstractContextManager[None]:
    """Draw in the project's style within the block."""
    return matplotlib.rc_context(_STYLE)


def save(study: StudyFolder, name: str, figure: Figure) -> list[AnyPath]:
    """Write a figure as PNG, PDF and SVG among the study's plots, and return the files."""
    return [_save(figure, study.plots / f"{name}.{kind}", kind) for kind in _NO_DATE]


def _save(figure: Figure, path: AnyPath, kind: str) -> AnyPath:
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=200, bbox_inches="tight", metadata=_NO_DATE[kind])
    return path
