"""Test images that an arm is most sure of: those that it predicts right, and those that it predicts wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL.Image import Image, fromarray
from PIL.ImageOps import pad
from scipy.special import expit

from analysis.figures import ARM_NAMES, PAGE_IN, new_figure, shortened
from analysis.frames import Values, once, records, where
from analysis.predictions import MULTI_LABEL, load_predictions, outputs
from cass_tune.config import ARMS
from cass_tune.data import medmnist, phantom
from cass_tune.data.decode import decode_rgb
from cass_tune.results import StudyFolder

logger = logging.getLogger(__name__)

EACH = 4
"""Images that are shown of each arm, right and wrong."""

_SHORT = 11
_SIZE_PX = 160
"""Of an image as it is shown, about 200 pixels per inch."""

COLUMNS = ("arm", "series", "seed", "trial_id", "is_right", "image", "true", "predicted", "probability")
CAPTION = (
    "Test images of {cell}: for each arm the {each} of which it is most sure and right (left), and the {each} of which "
    "it is most sure and wrong (right). Above each stands the predicted class with its probability (the sigmoid of "
    "its output, for each class is a problem of its own), below a wrong one its true class. Of several labels, all are "
    "shown, with the probability of the least sure yes or no."
)


def examples(study: StudyFolder, series: pd.DataFrame) -> pd.DataFrame:
    """Return the record of the examples, of the first tested trial of a study whose predictions can be read.

    Args:
        study: its folder.
        series: rows of `analysis.series.trial_series`.

    Returns:
        For each arm at most `EACH` right and as many wrong predictions, the surest first and one of a group (patient,
        identical files): the trial, image (its path in the data), true and predicted class, and probability (0 to 1) of
        the latter. Without predictions, no rows.
    """
    for row in records(series):
        folder = study.results.trial(row["digest"])
        if folder.is_finished() and folder.predictions.exists():
            found = load_predictions(study, [row["digest"]], leave_out_damaged=True)
            if found.empty:
                continue
            chosen = _surest(where(found, {"split": "test"}))
            return chosen.assign(series=row["series"], seed=row["seed"]).reindex(columns=COLUMNS)
    return pd.DataFrame(columns=COLUMNS)


def _surest(predictions: pd.DataFrame) -> pd.DataFrame:
    found = predictions.rename(columns={"label": "true"})
    found["probability"] = _sureness(predictions)
    found["is_right"] = found["true"] == found["predicted"]
    order = found.dropna(subset="probability").sort_values(
        ["arm", "is_right", "probability", "image"], ascending=[True, False, False, True]
    )
    order = once(order, ["arm", "is_right", "group"])  # identical files are one group
    return order.groupby(["arm", "is_right"], sort=False, observed=True).head(EACH).reset_index(drop=True)


def _sureness(predictions: pd.DataFrame) -> np.ndarray:
    """Return the probability of the predicted class, or of several labels that of the least sure yes or no."""
    logits = outputs(predictions)
    is_several = (predictions["task"] == MULTI_LABEL).to_numpy()
    return expit(np.where(is_several, np.abs(logits).min(axis=1), logits.max(axis=1)))


def read_images(record: pd.DataFrame, data_name: str, data_root: str | None) -> dict[str, Image] | None:
    """Return the images of a record by path, or None: they cannot be read on this machine, which is logged.

    Args:
        record: what `examples` returned.
        data_name: ``data.name`` of the trial.
        data_root: ``data.root`` of the trial.
    """
    found: dict[str, Image] = {}
    for row in records(record):
        try:
            found[row["image"]] = _open(data_name, data_root, row["image"], row["true"])
        except (OSError, ValueError) as error:
            logger.info("no examples are drawn: the images of %s cannot be read: %s", data_name, error)
            return None
    return found


def _open(data_name: str, data_root: str | None, path: str, label: str) -> Image:
    if data_name == "phantom":
        return fromarray(phantom.draw(path, label))
    if not data_root:
        raise ValueError("the trial names no folder of images")
    if data_name.startswith(medmnist.PREFIX):
        file = Path(data_root).expanduser() / f"{data_name.removeprefix(medmnist.PREFIX)}.npz"
        return medmnist.open_image(file, path)
    return decode_rgb(Path(data_root).expanduser() / path)


def examples_figure(record: pd.DataFrame, images: Mapping[str, Image], title: str) -> Figure:
    """Draw what `examples` found, a row per arm.

    Args:
        record: the record.
        images: by path.
        title: of the figure.
    """
    figure = new_figure(PAGE_IN, 3.3, None)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.06, top=0.78, wspace=0.08, hspace=0.75)
    grid = figure.subplots(len(ARMS), 2 * EACH + 1, width_ratios=[*[1] * EACH, 0.3, *[1] * EACH])
    for panel in grid.flat:
        panel.set_axis_off()
    for row, arm in zip(grid, ARMS, strict=True):
        for panels, is_right, word in ((row[:EACH], True, "right"), (row[-EACH:], False, "wrong")):
            panels[0].set_title(f"{ARM_NAMES[arm]}, {word}", loc="left", weight="bold", pad=24)
            shown = records(where(record, {"arm": arm, "is_right": is_right}))
            for panel, example in zip(panels, shown, strict=False):
                _image(panel, example, images[example["image"]])
    figure.suptitle(title)
    return figure


def _name(text: str, length: int | None = None) -> str:
    """Return a class, or several labels, as it is shown."""
    return shortened(text or "no label", *([] if length is None else [length]))


def _image(panel: Axes, example: Values, image: Image) -> None:
    panel.imshow(pad(image, (_SIZE_PX, _SIZE_PX)), cmap="gray")
    text = f"{_name(example['predicted'])}\n{example['probability']:.2f}"
    panel.text(0.5, 1.02, text, transform=panel.transAxes, ha="center", va="bottom", fontsize=7)
    if not example["is_right"]:
        text = f"is {_name(example['true'], _SHORT)}"
        panel.text(0.5, -0.02, text, transform=panel.transAxes, ha="center", va="top", fontsize=7)
