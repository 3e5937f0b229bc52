"""How far our numbers are from comparable published ones, in words."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from scipy import stats

from analysis.cells import f1_table
from analysis.comparison import INTERVALS, comparison
from analysis.published import select
from analysis.results import load
from analysis.statistics import intervals, summarise
from tests.analysis.synthetic import BRAIN_MRI, BRAIN_MRI_SUBSET, LARGE, TIMM, Root, cells, replace

PAPER = {"dataset": "brain_mri", "method": "CASS", "pretrain_epochs": 100, "origin": "paper"}
AXES = ["pretrain.batch_size"]
SCORES = (0.97, 0.98, 0.99)
"""Macro-F1 of three seeds; micro-F1 is 0.05 less (`tests.analysis.synthetic`)."""


def root(folder: Path, seeds: int = 3, counts: dict = BRAIN_MRI) -> Root:
    made = Root(folder, counts, TIMM)
    trials = cells(LARGE, "pretrain.batch_size", [8, 16], range(seeds), controls=False)
    made.plan(trials)
    for trial in trials:
        made.finish(trial, SCORES[trial.seed])
    return made


def text_of(made: Root) -> str:
    return " ".join(" ".join(comparison(load(made.study), PAPER)).split())


def test_intervals_by_hand() -> None:
    """Mean 0.93, sd 0.01: half the interval is 4.302652729911275 x 0.01 / sqrt(3)."""
    half = 4.302652729911275 * 0.01 / math.sqrt(3)
    assert intervals(summarise([0.92, 0.93, 0.94]), 0.9909) == pytest.approx((0.93 - 0.9909) / half, abs=1e-9)
    assert intervals(summarise([0.92, 0.93, 0.94]), 0.92) == pytest.approx(0.01 / half, abs=1e-9)
    assert math.isnan(intervals(summarise([0.93]), 0.99)), "one seed has no interval"
    assert math.isnan(intervals(summarise([0.93, 0.93]), 0.99)), "nor has one of no width a unit"
    assert math.isnan(intervals(summarise([]), 0.99))


def test_one_interval_is_the_border_of_significance() -> None:
    ours = summarise([0.91, 0.95, 0.94, 0.99])
    assert intervals(ours, ours.low) == pytest.approx(1.0, abs=1e-9)
    assert intervals(ours, ours.high) == pytest.approx(-1.0, abs=1e-9)
    _, p = stats.ttest_1samp([0.91, 0.95, 0.94, 0.99], ours.low)
    assert p == pytest.approx(0.05, abs=1e-9)


def test_in_numbers(tmp_path: Path) -> None:
    table = f1_table(load(root(tmp_path).study), AXES, select(PAPER))
    ours = summarise([score - 0.05 for score in SCORES])
    found = {
        (arm, size): number
        for arm, size, number in table[["arm", "pretrain_batch_size", "published_intervals"]].to_numpy()
    }
    assert found["cnn", 16] == pytest.approx((ours.mean - 0.9909) / ours.half_width, abs=1e-9)
    assert found["cnn", 8] == pytest.approx((ours.mean - 0.9895) / ours.half_width, abs=1e-9)
    of_a_subset = f1_table(load(root(tmp_path / "b", counts=BRAIN_MRI_SUBSET).study), AXES, select(PAPER))
    assert of_a_subset["published_intervals"].dropna().empty


def test_in_words(tmp_path: Path) -> None:
    text = text_of(root(tmp_path))
    assert "micro-F1 0.9909 [paper via S1 T1/T2;" in text
    assert "(CASS 0.9909)]; ours 0.930 [0.905, 0.955]: 2.5 intervals below" in text
    assert INTERVALS in text


def test_of_several_settings_each_is_told(tmp_path: Path) -> None:
    """What the sources do not say may differ among our cells: they are not pooled."""
    made = root(tmp_path)
    other = [
        replace(trial, pretrain_learning_rate=0.01)
        for trial in cells(LARGE, "pretrain.batch_size", [16], (0, 1), False)
    ]
    made.plan(other)
    for trial in other:
        made.finish(trial, 0.9 + trial.seed / 10)
    assert "; ours 0.900 [0.265, 1.535]: 0.1 intervals below; 0.930 [0.905, 0.955]: 2.5 intervals below" in text_of(
        made
    )


def test_one_seed_has_a_number_and_no_interval(tmp_path: Path) -> None:
    text = text_of(root(tmp_path, seeds=1))
    assert "; ours 0.920 (n=1, no interval)" in text and "intervals" not in text


def test_without_results_only_the_published_number_stands(tmp_path: Path) -> None:
    made = Root(tmp_path, BRAIN_MRI, TIMM)
    made.plan([LARGE])
    assert "micro-F1 0.9909" in text_of(made) and "ours" not in text_of(made)
    table = f1_table(load(made.study), AXES, select(PAPER))
    assert table["published_intervals"].dropna().empty and table["published_value"].tolist() == [0.9909, 0.9276]
