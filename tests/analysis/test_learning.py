"""Learning curves: means over the seeds, shared pretrainings once, and what counts as collapsed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.epochs import load_epochs
from analysis.figures import style
from analysis.frames import where
from analysis.learning import collapsed_seeds, finetuning_curves, pretraining_curves
from analysis.learning_drawing import finetuning_figure, pretraining_figure
from analysis.results import load
from analysis.series import looks, trial_series
from cass_tune.config import Trial
from cass_tune.training.healthy import COLLAPSED_BELOW, SUPERVISED_STD, collapsed_below
from tests.analysis.synthetic import SMALL, Root, cells, replace

BATCH, LABELS = "pretrain.batch_size", "data.label_fraction"


def root_of(folder: Path, trials: list[Trial], axis: str, stage: dict[Trial, str]) -> Root:
    root = Root(folder)
    for trial in trials:
        if trial in stage:
            root.segments[trial] = [{"stage": stage[trial], "start": 0, "end": 2}]
    root.plan(trials, [axis])
    return root


def learn_pretraining(root: Root, stage: str, losses: list[float], stds: list[float], collapsed: list[bool]) -> None:
    ranks = dict.fromkeys(("cnn_effective_rank", "vit_effective_rank"), [9.0] * len(stds))
    columns: dict[str, list] = {"loss": losses, "collapsed": collapsed, "cnn_feature_std": stds, **ranks}
    root.learn(stage, "pretrain", {**columns, "vit_feature_std": [1.0] * len(stds)})


def series_of(root: Root, axes: list[str]) -> pd.DataFrame:
    return trial_series(load(root.study), axes)


@pytest.fixture
def shared(tmp_path: Path) -> Root:
    """Two label fractions of two seeds: one pretraining per seed."""
    trials = cells(SMALL, LABELS, [0.1, 1.0], (0, 1), controls=False)
    stages = {trial: f"{trial.seed}" * 64 for trial in trials}
    root = root_of(tmp_path, trials, LABELS, stages)
    learn_pretraining(root, "0" * 64, [4.0, 2.0], [0.5, 0.05], [False, True])
    learn_pretraining(root, "1" * 64, [6.0, 3.0], [0.5, 0.4], [False, False])
    return root


def test_a_shared_pretraining_counts_once(shared: Root) -> None:
    curves = pretraining_curves(load_epochs(shared.study), series_of(shared, []))
    mean = where(curves, {"measure": "loss", "kind": "mean"})
    assert mean[["epoch", "value", "n"]].values.tolist() == [[1, 5.0, 2], [2, 2.5, 2]]
    seeds = where(curves, {"measure": "loss", "kind": "seed"})
    assert seeds[["seed", "epoch", "value"]].values.tolist() == [[0, 1, 4.0], [0, 2, 2.0], [1, 1, 6.0], [1, 2, 3.0]]
    assert where(curves, {"measure": "cnn_feature_std", "kind": "mean"})["value"].tolist() == [0.5, 0.225]


def test_seeds_that_ended_collapsed_are_counted(shared: Root) -> None:
    (row,) = collapsed_seeds(load_epochs(shared.study), series_of(shared, [])).to_dict("records")
    assert row == {"series": "all cells", "seeds": 2, "collapsed": 1, "threshold": COLLAPSED_BELOW}


def test_finetuning_of_each_arm_and_cell(tmp_path: Path) -> None:
    trials = cells(SMALL, BATCH, [8], (0, 1))
    root = root_of(tmp_path, trials, BATCH, {})
    control, _, one, two = trials
    root.learn(one, "finetune_cnn", {"loss": [3.0, 1.0], "validation_loss": [4.0, 2.0], "macro_f1": [0.2, 0.6]})
    root.learn(two, "finetune_cnn", {"loss": [5.0], "validation_loss": [None], "macro_f1": [0.4]})
    root.learn(control, "finetune_vit", {"loss": [7.0], "validation_loss": [8.0], "macro_f1": [0.1]})
    curves = finetuning_curves(load_epochs(root.study), series_of(root, [BATCH]))
    cnn = where(curves, {"phase": "finetune_cnn", "series": "batch 8", "kind": "mean"})
    found = {name: rows[["value", "n"]].values.tolist() for name, rows in cnn.groupby("measure")}
    assert found["loss"] == [[4.0, 2], [1.0, 1]]
    assert found["validation_loss"] == [[4.0, 1], [2.0, 1]]
    assert found["macro_f1"] == [[pytest.approx(0.3), 2], [0.6, 1]]
    vit = where(curves, {"phase": "finetune_vit", "kind": "mean", "measure": "macro_f1"})
    assert vit[["series", "value"]].values.tolist() == [["no pretraining", 0.1]]
    assert True not in curves["value"].isna().tolist()


def test_the_threshold_is_that_of_the_method() -> None:
    assert collapsed_below("cass") == COLLAPSED_BELOW
    assert collapsed_below("supervised") == COLLAPSED_BELOW * SUPERVISED_STD
    assert collapsed_below("my_methods:Mine") is None and collapsed_below("none") is None


def test_the_threshold_is_the_one_that_training_applies() -> None:
    from cass_tune.methods import METHODS, method_class
    from cass_tune.training.collapse import Health

    for name in METHODS:
        limit, healthy = collapsed_below(name), method_class(name).healthy_std
        assert limit is not None
        for std in (0.99 * limit, 1.01 * limit):
            health = Health(feature_std={"cnn": std}, effective_rank={}, healthy_std=healthy)
            assert health.collapsed is (std < limit)


def test_the_figure_hatches_the_collapsed_region_and_says_how_many_seeds_ended_there(shared: Root) -> None:
    epochs, series = load_epochs(shared.study), series_of(shared, [])
    with style():
        figure = pretraining_figure(
            pretraining_curves(epochs, series), collapsed_seeds(epochs, series), looks(series), "A title"
        )
    std = next(panel for panel in figure.axes if panel.get_title() == "Feature std, CNN")
    assert std.get_yscale() == "log" and std.patches[0].get_hatch()
    assert any(np.asarray(line.get_ydata()).tolist() == [COLLAPSED_BELOW] * 2 for line in std.lines)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "All cells (1 of 2 collapsed)",
        f"Collapsed: feature std below {COLLAPSED_BELOW:g}",
    ]


def test_a_method_of_your_own_has_no_region(tmp_path: Path) -> None:
    trial = replace(SMALL, pretrain_method="my_methods:Mine")
    root = root_of(tmp_path, [trial], BATCH, {trial: "2" * 64})
    learn_pretraining(root, "2" * 64, [1.0, math.nan], [1.0, 0.9], [False, False])
    epochs, series = load_epochs(root.study), series_of(root, [BATCH])
    collapsed = collapsed_seeds(epochs, series)
    assert collapsed["threshold"].isna().tolist() == [True]
    with style():
        figure = pretraining_figure(pretraining_curves(epochs, series), collapsed, looks(series), "A title")
    assert not any(panel.patches for panel in figure.axes)


def test_the_lines_drawn_are_the_means(tmp_path: Path) -> None:
    trials = cells(SMALL, BATCH, [8, 16], (0, 1))
    root = root_of(tmp_path, trials, BATCH, {})
    for number, trial in enumerate(trials):
        values = [0.1 * number, 0.2 * number + 0.01]
        root.learn(trial, "finetune_cnn", {"loss": values, "validation_loss": values, "macro_f1": values})
    series = series_of(root, [BATCH])
    curves = finetuning_curves(load_epochs(root.study), series)
    figure = finetuning_figure(curves, looks(series), "A title")
    panel = figure.axes[2]
    assert panel.get_title() == "Validation macro-F1"
    for name in looks(series):
        mean = where(curves, {"phase": "finetune_cnn", "measure": "macro_f1", "kind": "mean", "series": name})
        assert mean["value"].tolist() in [np.asarray(line.get_ydata()).tolist() for line in panel.lines]
