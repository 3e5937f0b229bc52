"""Predicted examples: the surest right and wrong ones, and images that may not be there."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis.examples import EACH, examples, examples_figure, read_images
from analysis.frames import records, where
from analysis.results import load
from analysis.series import trial_series
from cass_tune.data.phantom import draw
from tests.analysis.synthetic import SMALL, Root, cells

BATCH = "pretrain.batch_size"
EIGHT, SIXTEEN = cells(SMALL, BATCH, [8, 16], (3,), controls=False)
SURE, LESS, NONE = [3.0, -3, -3, -3], [1.0, -3, -3, -3], [-3.0, 2, -3, -3]
ROWS = [
    *[("cnn", f"{n}", "glioma", [n / 10, -3.0, -3, -3]) for n in range(6)],
    ("cnn", "same#1", "meningioma", SURE),
    ("cnn", "same#2", "meningioma", LESS),
    ("vit", "a", "glioma", NONE),
    ("vit", "b", "glioma", [float("nan")] * 4),
]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path)
    root.plan([EIGHT, SIXTEEN])
    return root


def test_the_surest_right_and_wrong_ones_of_the_first_tested_trial(root: Root) -> None:
    series = trial_series(load(root.study), [BATCH])
    assert examples(root.study, series).empty
    root.finish(SIXTEEN, 0.5)
    root.predict(SIXTEEN, ROWS)
    found = examples(root.study, series)
    right = where(found, {"arm": "cnn", "is_right": True})
    assert right["image"].tolist() == ["5", "4", "3", "2"] and len(right) == EACH
    assert right["probability"].tolist() == pytest.approx([1 / (1 + np.exp(-x)) for x in (0.5, 0.4, 0.3, 0.2)])
    (wrong,) = records(where(found, {"arm": "cnn", "is_right": False}))  # one of a group, the surest
    assert (wrong["image"], wrong["true"], wrong["predicted"]) == ("same#1", "meningioma", "glioma")
    (vit,) = records(where(found, {"arm": "vit"}))
    assert (vit["predicted"], vit["seed"], vit["series"]) == ("meningioma", 3, "batch 16")


def test_validation_images_are_no_examples(root: Root) -> None:
    root.finish(EIGHT, 0.5)
    root.predict(EIGHT, ROWS, split="validation")
    assert examples(root.study, trial_series(load(root.study), [BATCH])).empty


def test_images_of_a_folder_and_of_the_phantom(root: Root, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root.finish(EIGHT, 0.5)
    root.predict(EIGHT, ROWS[6:9])
    record = examples(root.study, trial_series(load(root.study), [BATCH]))
    phantom = read_images(record, "phantom", None)
    assert phantom is not None and np.array_equal(np.asarray(phantom["a"]), draw("a", "glioma"))
    with caplog.at_level(logging.INFO):
        assert read_images(record, "brain_mri", str(tmp_path / "gone")) is None
    assert "no examples are drawn" in caplog.text
    for name in ("same#1", "a"):
        Image.fromarray(np.full((4, 6), 200, dtype=np.uint8)).save(tmp_path / name, format="png")
    found = read_images(record, "brain_mri", str(tmp_path))
    assert found is not None and found["a"].size == (6, 4)
    figure = examples_figure(record, found, "A title")
    texts = [text.get_text() for panel in figure.axes for text in panel.texts]
    assert texts == ["glioma\n0.95", "is meningioma", "meningioma\n0.88", "is glioma"]
    assert read_images(record, "csv", None) is None
