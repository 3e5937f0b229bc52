from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import tables
from analysis.epochs import load_epochs
from analysis.format import duration, duration_estimate
from analysis.frames import records
from analysis.groups import split
from analysis.published import select
from analysis.rates import rates_table
from analysis.results import load, read_plans, study_axes
from analysis.statistics import Estimate, summarise
from analysis.timing import timing_table
from analysis.timing_text import rate, timing_rows
from tests.analysis.synthetic import BRAIN_MRI, LARGE, SMALL, TIMM, Root, cells, replace
from tests.small import local

CPU, GPU = "cpu (AMD EPYC, 1 thread)", "cuda (NVIDIA H200)"
TRIALS = cells(SMALL, "pretrain.batch_size", [8, 16], (0, 1, 2))
CONTROLS, EIGHT, SIXTEEN = TRIALS[:3], TRIALS[3:6], TRIALS[6:]
PAPER = {"dataset": "brain_mri", "method": "CASS", "origin": "paper"}


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path, demo=True)
    root.plan(TRIALS)
    return root


def table_of(root: Root, published: dict[str, Any] | None = None) -> pd.DataFrame:
    axes = study_axes(read_plans(root.study))
    (group,) = split(load(root.study), axes)
    return timing_table(group.frame, axes, select(published or {}))


def finish(root: Root, trial: Any, pretrain: float, cnn: float, vit: float, *devices: str) -> None:
    seconds = {"pretrain": pretrain, "cnn": cnn, "vit": vit}
    root.finish(trial, 0.7, seconds=seconds, devices=list(devices) or [CPU])


def test_times_of_a_cell_over_its_seeds(root: Root) -> None:
    for trial, pretrain in zip(EIGHT, (90, 96, 93), strict=True):
        finish(root, trial, pretrain, 6, 7)
    row = records(table_of(root))[0]
    assert (row["pretrain_method"], row["pretrain_batch_size"]) == ("cass", 8)
    assert (row["device_kind"], row["crossed_devices"]) == (CPU, False)
    half = 4.302652729911275 * 3 / math.sqrt(3)
    assert (row["pretrain_seconds_mean"], row["pretrain_seconds_n"], row["pretrain_seconds_sd"]) == (93, 3, 3)
    assert (row["pretrain_seconds_low"], row["pretrain_seconds_high"]) == pytest.approx((93 - half, 93 + half))
    assert (row["cnn_seconds_mean"], row["vit_seconds_mean"], row["total_seconds_mean"]) == (6, 7, 106)
    assert row["total_seconds_high"] == pytest.approx(106 + half)
    assert (row["trials"], row["done"], row["missing"]) == (3, 3, 0)


def test_a_control_costs_its_finetuning(root: Root) -> None:
    for trial in CONTROLS:
        finish(root, trial, 0.0, 6, 8)
    row = records(table_of(root))[-1]
    assert (row["pretrain_method"], row["pretrain_seconds_n"], row["pretrain_seconds_mean"]) == ("none", 0, None)
    assert (row["total_seconds_mean"], row["total_seconds_n"]) == (14, 3)
    rows = timing_rows(table_of(root), ["pretrain.batch_size"])
    assert rows[-1] == ["none", "-", CPU, "-", "6.0 [6.0, 6.0] s", "8.0 [8.0, 8.0] s", "14.0 [14.0, 14.0] s", "3"]


def test_kinds_of_devices_and_trials_that_crossed_them_have_rows_of_their_own(root: Root) -> None:
    finish(root, EIGHT[0], 90, 6, 7, CPU)
    finish(root, EIGHT[1], 9, 1, 2, GPU)
    finish(root, EIGHT[2], 50, 3, 4, GPU, CPU)
    finish(root, SIXTEEN[0], 52, 3, 4, CPU, GPU)
    finish(root, SIXTEEN[1], 54, 3, 4, GPU, CPU)
    rows = records(table_of(root))
    found = [(row["pretrain_batch_size"], row["device_kind"], row["total_seconds_mean"]) for row in rows[:-1]]
    both = f"{CPU}; {GPU}"
    assert found == [(8, CPU, 103), (8, both, 57), (8, GPU, 12), (16, both, 60), (16, None, None)]
    assert [row["crossed_devices"] for row in rows] == [False, True, False, True, False, False]
    text = tables.render(root.study)
    line = next(line for line in text.splitlines() if line.startswith("cass") and "1+2#" in line)
    assert line.split()[:3] == ["cass", "8", "1+2#"]
    assert "# More than one kind of device worked on these trials: their times stand apart." in text
    assert f"device 1: {CPU}\ndevice 2: {GPU}\n" in text


def test_trials_that_are_not_finished_are_shown(root: Root) -> None:
    finish(root, EIGHT[0], 90, 6, 7)
    root.fail(EIGHT[1])
    rows = timing_rows(table_of(root), ["pretrain.batch_size"], {CPU: "1"})
    assert rows[1:] == [
        ["cass", "8", "1", "1.5 min (n=1)", "6.0 s (n=1)", "7.0 s (n=1)", "1.7 min (n=1)", "1"],
        ["cass", "8", "-", "-", "-", "-", "-", "1 failed, 1 missing"],
        ["cass", "16", "-", "-", "-", "-", "-", "3 missing"],
        ["none", "-", "-", "-", "-", "-", "-", "3 missing"],
    ]


def test_a_time_that_is_not_recorded_is_missing(root: Root) -> None:
    root.finish(EIGHT[0], 0.7, seconds={"cnn": 6, "vit": 7})
    row = records(table_of(root))[0]
    assert (row["pretrain_seconds_n"], row["cnn_seconds_n"], row["total_seconds_n"]) == (0, 1, 0)


def test_other_axes_than_those_of_the_pretraining(tmp_path: Path) -> None:
    root = Root(tmp_path)
    trials = cells(SMALL, "data.label_fraction", [0.01, 0.1], [0])
    root.plan(trials, ["data.label_fraction"])
    for trial in trials:
        finish(root, trial, 5, 100 * trial.data.label_fraction, 1)
    rows = records(table_of(root))
    assert [(row["pretrain_method"], row["data_label_fraction"]) for row in rows] == [
        *[("cass", 0.01), ("cass", 0.1)],
        *[("none", 0.01), ("none", 0.1)],
    ]
    assert [row["total_seconds_mean"] for row in rows] == pytest.approx([7, 16, 2, 11])


def large(folder: Path, **changes: Any) -> Root:
    root = Root(folder, BRAIN_MRI, TIMM)
    trials = [replace(trial, **changes) for trial in cells(LARGE, "pretrain.batch_size", [8, 16], (0, 1))]
    root.plan(trials)
    for trial in trials:
        finish(root, trial, 25000 + 1000 * trial.seed, 3000, 5000, GPU)
    return root


def test_the_published_time_stands_beside_the_same_pretraining(tmp_path: Path) -> None:
    root = large(tmp_path)
    rows = records(table_of(root, PAPER))
    assert [row["published_pretrain_seconds"] for row in rows] == [None, pytest.approx(7.18 * 3600), None]
    text = tables.render(root.study, PAPER)
    line = next(line for line in text.splitlines() if line.startswith("cass    16     1"))
    assert line.split()[3:6] == ["7.1", "+-1.8", "h"] and "  7.2 h" in line
    assert "publ.: published pretraining time of a comparable setting, on the device of its source: paper" in text
    assert max(map(len, text.splitlines())) <= 120


def test_images_per_second_are_those_of_the_training_alone(root: Root) -> None:
    stage = "5" * 64
    segments = [{"stage": stage, "start": 0, "end": 2}]
    for trial in EIGHT:
        root.segments[trial] = segments
    root.plan(TRIALS)
    root.compute(stage, "pretrain", [4, 2, 9], images_per_second=[20.0, 40.0, 1.0])
    for number, trial in enumerate(EIGHT):
        finish(root, trial, 6, 6, 7)
        root.compute(trial, "finetune_cnn", [1, 1], images_per_second=[100.0 + number, 100.0 + number])
    root.compute(EIGHT[0], "finetune_vit", [1], images_per_second=[50.0])
    finish(root, CONTROLS[0], 0, 6, 7)
    rates = rates_table(load_epochs(root.study)).set_index("digest")
    first = rates.loc[root.digest(EIGHT[0])]
    assert first["pretrain_images_per_second"] == pytest.approx(2 / (1 / 20 + 1 / 40))
    assert first["cnn_images_per_second"] == pytest.approx(100)
    assert first["vit_images_per_second"] == pytest.approx(50), "of a single epoch"
    assert math.isnan(rates.loc[root.digest(EIGHT[1])]["vit_images_per_second"])
    assert len(rates) == 3

    (sheet,) = [sheet for sheet in tables.sheets(root.study) if sheet.name == "DEMO_timing"]
    row = records(sheet.numbers)[0]
    assert (row["cnn_images_per_second_mean"], row["cnn_images_per_second_n"]) == (101, 3)
    assert sheet.rows[0][-4:-1] == ["images/s pretraining", "images/s CNN", "images/s ViT"]
    assert sheet.rows[1][-4:-1] == ["27 [27, 27]", "101 [99, 103]", "50 (n=1, no interval)"]
    assert [line[-2] for line in sheet.shown] == ["images/s", "27/101/50", "-", "-", "-"]
    assert any("evaluations not counted" in " ".join(note.split()) for note in sheet.notes)


def test_images_per_second_of_phases_of_one_epoch(root: Root) -> None:
    root.plan(TRIALS)
    for number, trial in enumerate(EIGHT):
        finish(root, trial, 6, 6, 7)
        root.compute(trial, "finetune_cnn", [1], images_per_second=[100.0 + number])
    rates = rates_table(load_epochs(root.study)).set_index("digest")
    assert sorted(rates["cnn_images_per_second"]) == [100, 101, 102]


def test_memory_and_utilisation_of_a_trial(root: Root) -> None:
    root.plan(TRIALS)
    for number, trial in enumerate(EIGHT):
        finish(root, trial, 6, 6, 7)
        loads = {"seconds": [1.0, 3.0], "peak_memory_gib": [1.0 + number, 2.0 + number], "utilisation": [0.5, 0.9]}
        root.learn(trial, "finetune_cnn", loads)
    finish(root, CONTROLS[0], 6, 6, 7)
    root.learn(CONTROLS[0], "finetune_cnn", {"seconds": [1.0], "peak_memory_gib": [0.5]})  # of an earlier version
    rates = rates_table(load_epochs(root.study)).set_index("digest")
    assert rates.loc[root.digest(EIGHT[0]), "peak_memory_gib"] == 2
    assert rates.loc[root.digest(EIGHT[0]), "utilisation"] == pytest.approx(0.8)
    assert math.isnan(rates.loc[root.digest(CONTROLS[0]), "utilisation"])

    (sheet,) = [sheet for sheet in tables.sheets(root.study) if sheet.name == "DEMO_timing"]
    row = records(sheet.numbers)[0]
    assert (row["peak_memory_gib_mean"], row["peak_memory_gib_n"]) == (3, 3)
    assert row["utilisation_mean"] == pytest.approx(0.8)
    assert sheet.rows[0][-3:-1] == ["GiB", "busy"] and sheet.rows[1][-3:-1] == ["3.0", "80%"]
    assert ["0.5", "-"] in [line[-3:-1] for line in sheet.rows]
    assert any(note.startswith("GiB: most memory of a trial") for note in sheet.notes)
    assert max(map(len, sheet.text().splitlines())) <= 120


def test_without_rows_there_is_no_rate(root: Root) -> None:
    finish(root, EIGHT[0], 6, 6, 7)
    assert "images/s" not in tables.render(root.study)
    assert [rate(value) for value in (math.nan, 7.04, 24.4, 1319.6)] == ["-", "7.0", "24", "1320"]


@pytest.mark.parametrize(
    "changes", [{"pretrain_epochs": 50}, {"pretrain_vit": "vit_small_patch16_384.augreg_in21k_ft_in1k"}]
)
def test_the_published_time_of_another_setting_stands_not_beside_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    root = large(tmp_path, **changes)
    assert table_of(root, PAPER)["published_pretrain_seconds"].isna().tolist() == [True] * 3
    assert "publ.: published pretraining time" not in tables.render(root.study, PAPER)


def test_the_table_is_written_for_every_group(root: Root) -> None:
    longer = [replace(trial, pretrain_epochs=9) for trial in EIGHT]
    root.plan(longer)
    for trial in (*EIGHT, *longer):
        finish(root, trial, 90 + trial.pretrain.epochs, 6, 7)
    text = tables.report(root.study)
    assert text.count("Time of a trial alone") == 2 and text.count("Time of the study") == 1
    read = [pd.read_csv(local(root.study.tables) / f"DEMO_{name}.csv") for name in ("timing", "timing_2")]
    assert [table["pretrain_seconds_mean"].tolist()[0] for table in read] == [99, 92]
    assert read[0]["total_seconds_n"].tolist()[0] == 3
    written = (local(root.study.tables) / "DEMO_timing.md").read_text()
    assert f"| cass | 8 | {CPU} | 1.6 [1.6, 1.6] min |" in written and "What a trial costs alone" in written
    assert "| pretraining | finetuning CNN | finetuning ViT | total alone | seeds |" in written


def test_durations() -> None:
    assert [duration(seconds) for seconds in (None, 0.4, -12, -7200, 100)] == [
        "-",
        "0.4 s",
        "-12 s",
        "-2.0 h",
        "1.7 min",
    ]
    assert duration_estimate(summarise([]), is_short=True) == "-"
    assert duration_estimate(summarise([7200]), is_short=False) == "2.0 h (n=1, no interval)"
    assert duration_estimate(summarise([0.3]), is_short=True) == "0.30 s (n=1)"
    estimate = Estimate(7200, 6480, 7920, 3)
    assert duration_estimate(estimate, is_short=True) == "2.0 +-0.2 h"
    assert duration_estimate(estimate, is_short=False) == "2.0 [1.8, 2.2] h"
