"""Confusion matrices: which classes are taken for which, summed over the seeds of a cell."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import ARM_NAMES, PAGE_IN, new_figure, shortened
from analysis.frames import Values, where
from analysis.series import capitalised
from cass_tune.config import ARMS
from cass_tune.results import Results

MOST_CELLS = 4
"""Cells that are shown beside each other; of more the first and its control, or the next."""

COLUMNS = ("arm", "series", "seeds", "true", "predicted", "images", "share")
CAPTION = (
    "Test images by their class (rows) and the class that an arm predicts for them (columns), summed over the seeds. "
    "The shade is the share of the row: on the diagonal it is the recall of the class. The numbers are images."
)
_MOST_NUMBERS = 10


def shown_cells(series: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the cells that are shown.

    Args:
        series: rows of `analysis.series.trial_series`.
    """
    names = list(dict.fromkeys(series["series"]))
    if len(names) <= MOST_CELLS:
        return series
    chosen = series.loc[series["series"] == names[0]]
    beside = series.loc[series["is_control"] & series["setting"].isin(["", chosen["setting"].iloc[0]])]
    return pd.concat([chosen, beside])


def confusion(results: Results, series: pd.DataFrame) -> pd.DataFrame:
    """Return the record of the confusion matrices on the test images.

    Args:
        results: root of all records.
        series: rows of `analysis.series.trial_series`.

    Returns:
        One row per arm, series and pair of classes: seeds (that are summed), true and predicted class, images, and
        share (of the images of the true class, 0 to 1; missing where there is none). Trials that are not tested are
        left out.
    """
    rows = [row for name, own in series.groupby("series", sort=False) for row in _of_cell(results, str(name), own)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _of_cell(results: Results, name: str, trials: pd.DataFrame) -> Iterator[Values]:
    found = [result for digest in trials["digest"] if (result := results.trial(digest).result())]
    for arm in ARMS:
        tested = [result for result in found if "confusion_matrix" in result["arms"][arm].get("test", {})]
        if not tested:
            continue
        matrix = np.sum([result["arms"][arm]["test"]["confusion_matrix"] for result in tested], axis=0)
        classes = tested[0]["classes"]
        for true, counts in zip(classes, matrix.tolist(), strict=True):
            for predicted, images in zip(classes, counts, strict=True):
                share = images / sum(counts) if sum(counts) else math.nan
                place = {"arm": arm, "series": name, "seeds": len(tested), "true": true, "predicted": predicted}
                yield {**place, "images": images, "share": share}


def confusion_figure(record: pd.DataFrame, title: str) -> Figure:
    """Draw what `confusion` computed: a row of matrices per arm, a column per cell."""
    cells = list(dict.fromkeys(record["series"]))
    width = min(PAGE_IN, 1.5 + 1.9 * len(cells))
    figure = new_figure(width, 4.4, "compressed")
    grid = figure.subplots(len(ARMS), len(cells), squeeze=False, sharex=True, sharey=True)
    for row, arm in zip(grid, ARMS, strict=True):
        for panel, cell, name in zip(row, cells, capitalised(cells), strict=True):
            own = where(record, {"arm": arm, "series": cell})
            _matrix(panel, own)
            panel.set_title(f"{ARM_NAMES[arm]}, {name[:1].lower()}{name[1:]}")
        row[0].set_ylabel("True class")
    for panel in grid[-1]:
        panel.set_xlabel("Predicted class")
    figure.suptitle(title)
    bar = figure.colorbar(grid[0][0].images[0], ax=grid, shrink=0.5, label="Share of the true class")
    bar.outline.set_visible(False)
    return figure


def _matrix(panel: Axes, rows: pd.DataFrame) -> None:
    classes = list(dict.fromkeys(rows["true"]))
    size = len(classes)
    shares = rows["share"].to_numpy(float).reshape(size, size)
    panel.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    names = [shortened(name) for name in classes]
    panel.set_xticks(range(size), names, rotation=45, ha="right", rotation_mode="anchor")
    panel.set_yticks(range(size), names)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    if size <= _MOST_NUMBERS:
        _numbers(panel, rows["images"].to_numpy(int).reshape(size, size), shares)


def _numbers(panel: Axes, images: np.ndarray, shares: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(images):
        colour = "black" if shares[row, column] > 0.5 else "white"
        panel.text(column, row, str(count), ha="center", va="center", fontsize=7, color=colour)
