"""Training time against macro-F1: what a trial costs alone, by cell and kind of device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.frames import records, where
from analysis.results import load
from analysis.series import trial_series
from analysis.statistics import summarise
from analysis.time_f1 import devices_of, time_f1, time_f1_figure
from tests.analysis.synthetic import SMALL, Root, cells

BATCH = "pretrain.batch_size"
TRIALS = cells(SMALL, BATCH, [8, 16], (0, 1))
CPU, GPU = "cpu (AMD EPYC, 1 thread)", "cuda (NVIDIA H200)"


def record_of(root: Root) -> pd.DataFrame:
    frame = load(root.study)
    return time_f1(frame, trial_series(frame, [BATCH]))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path)
    root.plan(TRIALS)
    return root


def test_a_trial_costs_its_pretraining_and_the_arm(root: Root) -> None:
    for trial, pretrain, f1 in zip(TRIALS[2:4], (90, 110), (0.6, 0.7), strict=True):
        root.finish(trial, f1, 0.5, seconds={"pretrain": pretrain, "cnn": 6, "vit": 7})
    root.finish(TRIALS[0], 0.4, seconds={"pretrain": 0.0, "cnn": 8, "vit": 9})
    found = record_of(root)
    (mean,) = records(where(found, {"arm": "cnn", "series": "batch 8", "kind": "mean"}))
    time, score = summarise([96, 116]), summarise([0.6, 0.7])
    assert (mean["seconds"], mean["seconds_low"], mean["n"]) == pytest.approx((time.mean, time.low, 2))
    assert (mean["y"], mean["low"], mean["high"]) == pytest.approx((score.mean, score.low, score.high))
    seeds = where(found, {"arm": "cnn", "series": "batch 8", "kind": "seed"})
    assert seeds[["seed", "seconds", "y"]].values.tolist() == [[0, 96, 0.6], [1, 116, 0.7]]
    (control,) = records(where(found, {"arm": "vit", "series": "no pretraining", "kind": "mean"}))
    assert (control["seconds"], control["is_control"], control["seconds_low"]) == (9, True, None)


def test_kinds_of_devices_stand_apart(root: Root) -> None:
    root.finish(TRIALS[2], 0.6, devices=[CPU])
    root.finish(TRIALS[3], 0.7, devices=[GPU])
    found = record_of(root)
    means = where(found, {"arm": "cnn", "kind": "mean"})
    assert means[["devices", "n"]].values.tolist() == [[CPU, 1], [GPU, 1]]
    assert devices_of(found) == f"{CPU}, {GPU}"


def test_what_is_unknown_is_left_out(root: Root) -> None:
    root.finish(TRIALS[2], None, 0.5)
    root.finish(TRIALS[3], 0.6, seconds={"cnn": 6, "vit": 7})
    root.fail(TRIALS[4])
    found = record_of(root)
    assert set(found["arm"]) == {"vit"} and where(found, {"kind": "seed"})["seed"].tolist() == [0]


def test_the_figure_has_a_point_per_seed_in_a_readable_unit(root: Root) -> None:
    for trial in TRIALS:
        root.finish(trial, 0.6, seconds={"pretrain": 7200.0, "cnn": 3600, "vit": 7})
    figure = time_f1_figure(record_of(root), "A title")
    cnn, vit = figure.axes
    assert cnn.get_xlabel() == "Training of one trial alone (h)"
    seeds = [line for line in cnn.lines if line.get_markersize() == 2.5]
    assert [np.asarray(line.get_xdata()).tolist() for line in seeds] == [[3.0]] * 4 + [[1.0]] * 2
    assert vit.get_xscale() == "log" and vit.get_xlim()[0] < 7 / 3600
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["Batch 8", "Batch 16", "No pretraining"]
