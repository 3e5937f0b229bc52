"""Confusion matrices: sums over seeds, recall by row, and which cells are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.confusion import confusion, confusion_figure, shown_cells
from analysis.frames import records, where
from analysis.groups import split
from analysis.results import load
from analysis.series import trial_series
from cass_tune.config import Trial
from tests.analysis.synthetic import SMALL, Root, cells

BATCH = "pretrain.batch_size"
TWO = {part: {"a lesion with a very long name": 2, "healthy": 3} for part in ("train", "val", "test")}


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path, TWO)


def finish(root: Root, trial: Trial, *matrices: list[list[int]] | None) -> None:
    arms = {
        arm: {"model": arm, "validation": {}, "test": {"confusion_matrix": matrix} if matrix else {}}
        for arm, matrix in zip(("cnn", "vit"), matrices, strict=True)
    }
    root.finish(trial, None, arms=arms)


def test_matrices_are_summed_over_the_seeds_and_rows_are_recall(root: Root) -> None:
    trials = cells(SMALL, BATCH, [8], (0, 1, 2), controls=False)
    root.plan(trials)
    finish(root, trials[0], [[2, 0], [1, 2]], [[0, 2], [0, 3]])
    finish(root, trials[1], [[1, 1], [0, 3]], None)
    found = confusion(root.results, trial_series(split(load(root.study), [BATCH])[0].frame, [BATCH]))
    cnn, vit = (records(where(found, {"arm": arm})) for arm in ("cnn", "vit"))
    assert [row["images"] for row in cnn] == [3, 1, 1, 5] and cnn[0]["seeds"] == 2
    assert [row["share"] for row in cnn] == pytest.approx([3 / 4, 1 / 4, 1 / 6, 5 / 6])
    assert [(row["true"], row["predicted"]) for row in cnn][1] == ("a lesion with a very long name", "healthy")
    assert [row["images"] for row in vit] == [0, 2, 0, 3] and vit[0]["seeds"] == 1


def test_a_class_without_images_has_no_recall(root: Root) -> None:
    trials = cells(SMALL, BATCH, [8], (0,), controls=False)
    root.plan(trials)
    finish(root, trials[0], [[0, 0], [1, 2]], [[0, 0], [1, 2]])
    found = confusion(root.results, trial_series(load(root.study), [BATCH]))
    assert found["share"].isna().tolist() == [True, True, False, False] * 2
    assert confusion_figure(found, "A title").axes


def test_of_many_cells_the_first_and_its_control_are_shown(root: Root) -> None:
    root.plan(cells(SMALL, BATCH, [8, 12, 16], (0,)))
    assert len(shown_cells(trial_series(load(root.study), [BATCH]))) == 4
    root.plan(cells(SMALL, BATCH, [8, 12, 16, 24], (0,)))
    found = shown_cells(trial_series(load(root.study), [BATCH]))
    assert found["series"].tolist() == ["batch 8", "no pretraining"]


def test_the_control_of_a_label_fraction_is_shown_beside_it(root: Root) -> None:
    axis = "data.label_fraction"
    root.plan(cells(SMALL, axis, [0.01, 0.1, 1.0], (0,)), [axis])
    found = shown_cells(trial_series(load(root.study), [axis]))
    assert found["series"].tolist() == ["labels 1 %", "no pretraining, labels 1 %"]


def test_the_figure_shows_the_numbers_and_cuts_long_names(root: Root) -> None:
    trials = cells(SMALL, BATCH, [8], (0,), controls=False)
    root.plan(trials)
    finish(root, trials[0], [[41, 0], [1, 2]], [[0, 2], [0, 3]])
    figure = confusion_figure(confusion(root.results, trial_series(load(root.study), [BATCH])), "A title")
    panel = figure.axes[0]
    assert [text.get_text() for text in panel.texts] == ["41", "0", "1", "2"]
    assert [text.get_text() for text in panel.get_yticklabels()] == ["a lesion with…", "healthy"]
    assert [panel.get_title() for panel in figure.axes[:2]] == ["CNN, batch 8", "ViT, batch 8"]
