"""How learning curves look: a thin line per seed, a thick one for their mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from analysis.figures import ARM_NAMES, PAGE_IN, new_figure
from analysis.frames import records, where
from analysis.learning import FINETUNING
from analysis.series import Look, capitalised
from cass_tune.config import ARMS

PRETRAINING_CAPTION = (
    "The pretraining by epoch: its loss, and for each arm the feature std (1 is well spread, 0 constant) and the "
    "effective rank of the outputs of the last batches. Thick lines are means over the seeds that have reached the "
    "epoch, thin ones are seeds. Where the feature std of an arm lies in the hatched region, the outputs hardly differ "
    "between images: the pretraining has collapsed. The legend says in how many seeds it ended so."
)
FINETUNING_CAPTION = (
    "The finetuning of each arm by epoch: loss on the training and on the validation images, and macro-F1 on the "
    "validation images. Thick lines are means over the seeds that have reached the epoch, thin ones are seeds; dotted "
    "lines with open markers are controls without pretraining."
)
_LABELS = {
    "loss": "Training loss",
    "validation_loss": "Validation loss",
    "macro_f1": "Validation macro-F1",
    "feature_std": "Feature std",
    "effective_rank": "Effective rank",
}
_LOG_FROM = 10
_MARKS = 5
_HEIGHT_IN = 3.4
_LEGEND_CHARACTERS = 80


def pretraining_figure(curves: pd.DataFrame, collapsed: pd.DataFrame, looks: Mapping[str, Look], title: str) -> Figure:
    """Draw what `analysis.learning` computed of a pretraining.

    Args:
        curves: the record.
        collapsed: what `analysis.learning.collapsed_seeds` returned.
        looks: of every series.
        title: of the figure.
    """
    figure = new_figure(PAGE_IN, _HEIGHT_IN)
    names: list[Any] = [["loss", f"{arm}_feature_std", f"{arm}_effective_rank"] for arm in ARMS]
    panels = figure.subplot_mosaic(names)
    for name, panel in panels.items():
        _curves(panel, where(curves, {"measure": name}), looks)
        arm, _, measure = str(name).partition("_")
        _axes(panel, "Pretraining loss" if name == "loss" else f"{_LABELS[measure]}, {ARM_NAMES[arm]}")
    regions: dict[str, Artist] = {}
    for arm in ARMS:
        regions |= _collapse_region(panels[f"{arm}_feature_std"], collapsed)
        panels[f"{arm}_effective_rank"].set_ylim(bottom=0)
    ends = {row["series"]: f" ({row['collapsed']} of {row['seeds']} collapsed)" for row in records(collapsed)}
    _finish(figure, looks, title, ends, regions)
    return figure


def finetuning_figure(curves: pd.DataFrame, looks: Mapping[str, Look], title: str) -> Figure:
    """Draw what `analysis.learning.finetuning_curves` computed, a row of panels per arm."""
    figure = new_figure(PAGE_IN, _HEIGHT_IN)
    grid = figure.subplots(len(ARMS), len(FINETUNING), sharex=True, sharey="col")
    for row, arm in zip(grid, ARMS, strict=True):
        for panel, measure in zip(row, FINETUNING, strict=True):
            _curves(panel, where(curves, {"phase": f"finetune_{arm}", "measure": measure}), looks)
            _axes(panel, _LABELS[measure] if arm == ARMS[0] else "")
            panel.set_xlabel("Epoch" if arm == ARMS[-1] else "")
        row[0].set_ylabel(ARM_NAMES[arm])
    _finish(figure, looks, title, {}, {})
    return figure


def _curves(panel: Axes, rows: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    for order, (name, look) in enumerate(looks.items()):
        own = where(rows, {"series": name})
        for _, seed in where(own, {"kind": "seed"}).groupby("seed", sort=False):
            panel.plot(seed["epoch"], seed["value"], color=look.colour, linestyle="-", linewidth=0.5, alpha=0.35)
        mean = where(own, {"kind": "mean"}).sort_values("epoch")
        every = max(1, len(mean) // _MARKS)
        marks = {"marker": look.marker, "markersize": 3.5, "markerfacecolor": look.face}
        places = (order * every // len(looks), every)  # so that markers of equal curves do not hide each other
        panel.plot(mean["epoch"], mean["value"], color=look.colour, linestyle=look.line, markevery=places, **marks)
    values = rows.loc[rows["measure"].isin(["loss", "validation_loss"]), "value"].tolist()
    if values and min(values) > 0 and max(values) > _LOG_FROM * min(values):
        _by_logarithm(panel)


def _by_logarithm(panel: Axes) -> None:
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter(NullFormatter())


def _axes(panel: Axes, title: str) -> None:
    panel.set_title(title)
    panel.set_xlabel("Epoch")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    panel.grid(axis="y", color="0.9", linewidth=0.5)
    panel.set_axisbelow(True)


def _collapse_region(panel: Axes, collapsed: pd.DataFrame) -> dict[str, Artist]:
    """Hatch where an arm counts as collapsed; of several methods where all do, with the limits of the others.

    Returns:
        What the legend says of it: the hatched region by its name; nothing without one.
    """
    _by_logarithm(panel)
    limits = sorted(collapsed["threshold"].dropna().unique())
    low, high = panel.get_ylim()
    panel.set_ylim(min([low, *(limit / 4 for limit in limits)]), max([high, *(limit * 10 for limit in limits)]))
    for limit in limits:
        panel.axhline(limit, color="0.3", linewidth=0.8, linestyle=(0, (4, 2)))
    if not limits:
        return {}
    hatched = {"facecolor": "0.93", "edgecolor": "0.75", "hatch": "///", "linewidth": 0, "zorder": 0}
    region = panel.axhspan(panel.get_ylim()[0], limits[0], **hatched)
    return {f"Collapsed: feature std below {limits[0]:g}": region}


def _finish(
    figure: Figure, looks: Mapping[str, Look], title: str, ends: Mapping[str, str], more: Mapping[str, Artist]
) -> None:
    figure.suptitle(title)
    handles = [*map(_handle, looks.values()), *more.values()]
    labels = [f"{text}{ends.get(name, '')}" for name, text in zip(looks, capitalised(looks), strict=True)] + [*more]
    ncols = 4 if len(labels) == 4 and sum(map(len, labels)) < _LEGEND_CHARACTERS else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), ncols), frameon=False)


def _handle(look: Look) -> Line2D:
    return Line2D(
        [], [], color=look.colour, linestyle=look.line, marker=look.marker, markersize=3.5, markerfacecolor=look.face
    )
