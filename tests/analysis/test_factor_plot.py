"""Importance of factors: what `analysis.anova` says of each arm, without the controls."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.patches import Rectangle

from analysis.anova import anova
from analysis.factor_plot import factors, factors_figure, seeds_of
from analysis.frames import where
from analysis.groups import split
from analysis.results import load
from cass_tune.config import Trial
from cass_tune.plan import grid, replicate, with_controls
from tests.analysis.synthetic import SMALL, Root

AXES = {"pretrain.batch_size": (8, 16), "data.label_fraction": (0.1, 1.0)}
TRIALS = replicate(with_controls(grid(SMALL, AXES)), (0, 1, 2))


def score(trial: Trial) -> float:
    return 0.3 + trial.pretrain.batch_size / 100 + trial.data.label_fraction / 10 + trial.seed**2 / 50


def root_of(folder: Path, trials: list[Trial]) -> Root:
    root = Root(folder)
    root.plan(TRIALS, AXES)
    for trial in trials:
        root.finish(trial, score(trial), score(trial) / 2)
    return root


def test_shares_of_each_arm(tmp_path: Path) -> None:
    (group,) = split(load(root_of(tmp_path, TRIALS).study), list(AXES))
    found = factors(group.frame, list(AXES))
    cnn = where(found, {"arm": "cnn"})
    assert cnn["name"].tolist() == ["Batch", "Labels", "Batch \N{MULTIPLICATION SIGN} labels", "Seeds (the rest)"]
    assert sum(cnn["eta_squared"].tolist()) == pytest.approx(1)
    trained = where(group.frame.loc[group.frame["pretrain_method"] != "none"], {"arm": "cnn"})
    assert cnn["eta_squared"].tolist() == pytest.approx(anova(trained, list(AXES))["eta_squared"].tolist()[:-1])
    assert set(found["seeds"]) == {3} and seeds_of(found) == "3"
    figure = factors_figure(found, "A title")
    drawn = [patch.get_width() for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert drawn == pytest.approx(found["eta_squared"].tolist())


def test_one_seed_and_factor_explain_nothing(tmp_path: Path) -> None:
    alone = [trial for trial in TRIALS if trial.seed == 0 and trial.data.label_fraction == 1.0]
    root = Root(tmp_path)
    root.plan(alone, ["pretrain.batch_size"])
    for trial in alone:
        root.finish(trial, score(trial))
    assert factors(load(root.study), ["pretrain.batch_size"]).empty


def test_without_a_full_grid_there_is_nothing(tmp_path: Path) -> None:
    lacking = [trial for trial in TRIALS if trial.pretrain.method == "none" or trial.pretrain.batch_size == 8]
    (group,) = split(load(root_of(tmp_path, lacking).study), list(AXES))
    found = factors(group.frame, list(AXES))
    assert found.empty and seeds_of(found) == "0"
