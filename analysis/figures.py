"""What all figures have in common: the numbers that they show, how they look, and how they are written."""

from __future__ import annotations

import functools
import io
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cass_tune.results import StudyFolder
from cass_tune.storage import AnyPath, whole_file

Kind = Literal["png", "pdf", "svg"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Layout = Literal["constrained", "compressed"] | None

COLUMN_IN, PAGE_IN = 3.4, 7.0
"""Width of a figure over one column, and over both columns of a page, in inches."""

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Colours that stay apart for colour-blind readers (Okabe and Ito, 2008)."""

MARKERS = ("o", "s", "^", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
"""Markers and line styles that go with the colours, for readers of a grey print."""

ARM_NAMES = {"cnn": "CNN", "vit": "ViT"}

_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "figure.titlesize": 9,
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
_NO_DATE: dict[Kind, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}


@dataclass(frozen=True)
class Plot:
    """A figure and what it shows.

    Args:
        name: of its files, without an ending.
        title: what it is about, in a few words.
        caption: what is drawn and how to read it, in sentences.
        record: the numbers that are drawn.
        figure: the drawing.
    """

    name: str
    title: str
    caption: str
    record: pd.DataFrame
    figure: Figure

    @functools.cached_property
    def _laid_out(self) -> Figure:
        """The figure with its layout, which is computed once, not for each kind of file."""
        with style():
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")
        return self.figure

    @functools.cached_property
    def png(self) -> bytes:
        """The figure as PNG, which both its file and a page show."""
        return self._image("png")

    def image(self, kind: Kind) -> bytes:
        """Return the figure as a file; equal figures are equal files."""
        return self.png if kind == "png" else self._image(kind)

    def _image(self, kind: Kind) -> bytes:
        content, figure = io.BytesIO(), self._laid_out
        with style():
            figure.savefig(content, format=kind, dpi=200, bbox_inches="tight", metadata=_NO_DATE[kind])
        return content.getvalue()


def style() -> AbstractContextManager[None]:
    """Draw in the project's style within the block."""
    return matplotlib.rc_context(_STYLE)


def new_figure(width_in: float, height_in: float, layout: Layout = "constrained") -> Figure:
    """Return an empty figure that is drawn without a screen; panels of a fixed aspect want it compressed."""
    figure = Figure(figsize=(width_in, height_in), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def shortened(name: str, longest: int = 14) -> str:
    """Return the name of a class, cut to so many characters for the label of a small panel."""
    return name if len(name) <= longest else f"{name[: longest - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"


def save(study: StudyFolder, plot: Plot) -> list[AnyPath]:
    """Write a plot as PNG, PDF and SVG, and its numbers as CSV, among the study's plots; return the files."""
    paths = [study.plots / f"{plot.name}.{ending}" for ending in (*KINDS, "csv")]
    for path, kind in zip(paths, KINDS, strict=False):
        with whole_file(path) as temporary:
            temporary.write_bytes(plot.image(kind))
    with whole_file(paths[-1]) as temporary:
        plot.record.to_csv(temporary, index=False)
    return paths
