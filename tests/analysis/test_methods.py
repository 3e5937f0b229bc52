"""Methods side by side, and their robustness: the numbers, paired by seed, and what may share a table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from analysis import tables
from analysis.frames import records, where
from analysis.groups import split
from analysis.methods import has_several, method_table
from analysis.results import load, read_plans, study_axes
from analysis.robustness import robustness_table
from analysis.statistics import p_value, summarise
from cass_tune.config import Trial, with_field, with_fields
from cass_tune.plan import grid, replicate, star, with_controls
from cass_tune.presets import as_method
from tests.analysis.synthetic import SMALL, Root

SEEDS = (0, 1, 2)
AXES = {"pretrain.method": ("cass", "dino"), "data.label_fraction": (0.1, 1.0)}
DEVICE = "cpu (AMD EPYC, 1 thread)"


def comparison(base: Trial = SMALL) -> list[Trial]:
    cells = [as_method(trial, AXES) for trial in grid(base, AXES)]
    return replicate(with_controls(cells), SEEDS)


def score(trial: Trial) -> float:
    start = {"cass": 0.70, "dino": 0.75, "none": 0.60}[trial.pretrain.method]
    return (
        start
        + 0.02 * trial.seed
        + 0.03 * trial.seed * (trial.pretrain.method == "dino")
        + 0.1 * (trial.data.label_fraction == 1.0)
    )


def seconds(trial: Trial, device: str = DEVICE) -> dict[str, Any]:
    pretrain = {"cass": 100.0 + trial.seed, "dino": 4 * (100.0 + trial.seed), "none": 0.0}[trial.pretrain.method]
    return {"seconds": {"pretrain": pretrain, "cnn": 6.0, "vit": 7.0}, "devices": [device]}


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path)
    trials = comparison()
    root.plan(trials, AXES)
    for trial in trials:
        root.finish(trial, score(trial), score(trial) / 2, **seconds(trial))
    return root


def table_of(root: Root) -> list[dict]:
    axes = study_axes(read_plans(root.study))
    (group,) = split(load(root.study), axes)
    assert has_several(group.frame, axes)
    return records(method_table(group.frame, axes))


def cell(rows: list[dict], method: str, labels: float, arm: str = "cnn") -> dict:
    (found,) = [r for r in rows if (r["pretrain_method"], r["data_label_fraction"], r["arm"]) == (method, labels, arm)]
    return found


def test_methods_with_their_own_schedules_share_one_table_in_order(root: Root) -> None:
    rows = table_of(root)
    assert [(r["arm"], r["data_label_fraction"], r["pretrain_method"]) for r in rows][:6] == [
        *[("cnn", 0.1, method) for method in ("cass", "dino", "none")],
        *[("cnn", 1.0, method) for method in ("cass", "dino", "none")],
    ]
    assert len(rows) == 12


def test_differences_are_paired_by_seed_with_the_first_method(root: Root) -> None:
    rows = table_of(root)
    expected = summarise([0.05, 0.08, 0.11])
    dino = cell(rows, "dino", 0.1)
    assert dino["difference_mean"] == pytest.approx(expected.mean)
    assert (dino["difference_low"], dino["difference_high"]) == pytest.approx((expected.low, expected.high))
    assert dino["difference_p"] == pytest.approx(p_value(expected))
    assert dino["difference_p_holm"] >= dino["difference_p"]
    assert cell(rows, "cass", 0.1)["difference_p_holm"] is None
    assert cell(rows, "none", 1.0)["difference_mean"] == pytest.approx(-0.1)
    assert cell(rows, "cass", 0.1)["difference_n"] == 0


def test_times_are_of_both_networks_of_one_and_relative_on_equal_seeds(root: Root) -> None:
    rows = table_of(root)
    dino = cell(rows, "dino", 1.0)
    assert dino["pretrain_seconds_mean"] == pytest.approx(404.0)
    assert dino["network_seconds_mean"] == pytest.approx(202.0)
    assert (dino["times_mean"], dino["times_sd"], dino["times_n"]) == pytest.approx((4.0, 0.0, 3))
    assert cell(rows, "none", 1.0)["times_n"] == 0


def test_times_on_other_devices_are_not_compared(tmp_path: Path) -> None:
    root, trials = Root(tmp_path), comparison()
    root.plan(trials, AXES)
    of_dino = {0: ["cuda (T4)"], 1: [DEVICE, "cuda (T4)"]}
    for trial in trials:
        devices = of_dino.get(trial.seed, [DEVICE]) if trial.pretrain.method == "dino" else [DEVICE]
        root.finish(trial, score(trial), **{**seconds(trial), "devices": devices})
    assert cell(table_of(root), "dino", 0.1)["times_n"] == 1


def test_a_missing_seed_is_left_out_of_the_pairs_and_counted(tmp_path: Path) -> None:
    root = Root(tmp_path)
    trials = comparison()
    root.plan(trials, AXES)
    for trial in trials:
        if not (trial.pretrain.method == "dino" and trial.seed == 1):
            root.finish(trial, score(trial), **seconds(trial))
    dino = cell(table_of(root), "dino", 0.1)
    assert (dino["done"], dino["trials"], dino["difference_n"]) == (2, 3, 2)
    assert dino["difference_mean"] == pytest.approx((0.05 + 0.11) / 2)


def test_another_setting_of_one_method_is_a_table_of_its_own_beside_the_same_others(root: Root) -> None:
    other = [with_field(t, "pretrain.learning_rate", 1e-4) for t in comparison() if t.pretrain.method == "cass"]
    root.plan(other, AXES)
    groups = split(load(root.study), list(AXES))
    assert [sorted(set(group.frame["pretrain_method"])) for group in groups] == [["cass", "dino", "none"]] * 2
    last, before = (where(group.frame, {"pretrain_method": "cass"}) for group in groups)
    assert set(last["pretrain_learning_rate"]) == {1e-4} and set(before["pretrain_learning_rate"]) == {1e-3}
    assert "learning_rate" in tables.render(root.study)


def test_the_study_without_other_methods_has_no_comparison(tmp_path: Path) -> None:
    root = Root(tmp_path)
    trials = [trial for trial in comparison() if trial.pretrain.method in ("cass", "none")]
    root.plan(trials, AXES)
    assert not has_several(load(root.study), list(AXES))
    assert "side by side" not in tables.render(root.study)


def test_the_report_has_the_comparison_as_text_and_numbers(root: Root) -> None:
    text = tables.report(root.study)
    assert "Methods side by side" in text and "CASS trains the two against one another" in " ".join(text.split())
    assert max(map(len, text.replace(str(root.study.tables), "").splitlines())) <= 120
    assert {"methods.csv", "methods.md"} <= {path.name for path in root.study.tables.iterdir()}


# Robustness

FACTORS = {"pretrain.method": ("cass", "dino"), "pretrain.batch_size": (8, 16, 32), "pretrain.epochs": (2, 4, 8)}
MIDDLE = with_fields(SMALL, {"pretrain.epochs": 4, "pretrain.batch_size": 16})
OF_BATCH = {8: 0.70, 16: 0.80, 32: 0.76}
OF_EPOCHS = {2: 0.0, 4: 0.0, 8: 0.05}


def robust_root(folder: Path, leave_out: tuple[int, ...] = ()) -> Root:
    root = Root(folder)
    cells = [as_method(trial, FACTORS) for trial in star(MIDDLE, FACTORS)]
    trials = replicate(with_controls(cells), SEEDS)
    root.plan(trials, FACTORS)
    for trial in trials:
        batch, epochs = trial.pretrain.batch_size, trial.pretrain.epochs
        if batch not in leave_out:
            value = OF_BATCH[batch] + OF_EPOCHS[epochs] + 0.01 * trial.seed
            root.finish(trial, value - 0.05 * trial.seed * (batch == 8))
    return root


def robust_rows(root: Root) -> list[dict]:
    (group,) = split(load(root.study), list(FACTORS))
    return records(robustness_table(group.frame, list(FACTORS)))


def test_one_setting_is_changed_at_a_time() -> None:
    cells = list(star(MIDDLE, FACTORS))
    pairs = [(t.pretrain.batch_size, t.pretrain.epochs) for t in cells if t.pretrain.method == "dino"]
    assert sorted(pairs) == [(8, 4), (16, 2), (16, 4), (16, 8), (32, 4)]
    assert len(cells) == 10


def test_range_and_worst_drop_of_each_method_and_factor(tmp_path: Path) -> None:
    rows = robust_rows(robust_root(tmp_path))
    found = {(r["arm"], r["factor"], r["pretrain_method"]): r for r in rows}
    assert len(found) == len(rows) == 8
    batch = found["cnn", "pretrain.batch_size", "dino"]
    mean_of_8 = 0.70 + sum(-0.04 * seed for seed in SEEDS) / 3
    assert batch["range"] == pytest.approx(0.81 - mean_of_8)
    assert (batch["worst_level"], batch["middle"], batch["others"]) == ("8", "16", "epochs 4")
    expected = summarise([0.10 + 0.05 * seed for seed in SEEDS])
    assert (batch["drop_mean"], batch["drop_low"], batch["drop_n"]) == pytest.approx((expected.mean, expected.low, 3))
    epochs = found["vit", "pretrain.epochs", "cass"]
    assert (epochs["levels"], epochs["range"]) == ("2, 4, 8", pytest.approx(0.05))


def test_a_level_without_a_number_is_not_a_level(tmp_path: Path) -> None:
    rows = robust_rows(robust_root(tmp_path, leave_out=(8,)))
    batch = next(row for row in rows if row["factor"] == "pretrain.batch_size")
    assert batch["levels"] == "16, 32" and batch["range"] == pytest.approx(0.04)
    assert robust_rows(robust_root(tmp_path / "one", leave_out=(8, 32)))[0]["factor"] == "pretrain.epochs"


def test_one_seed_has_a_drop_without_an_interval(tmp_path: Path) -> None:
    root = Root(tmp_path)
    cells = [as_method(trial, FACTORS) for trial in star(MIDDLE, FACTORS)]
    root.plan(cells, FACTORS)
    for trial in cells:
        root.finish(trial, OF_BATCH[trial.pretrain.batch_size])
    row = robust_rows(root)[0]
    assert row["drop_n"] == 1 and row["drop_low"] is None and not math.isnan(row["drop_mean"])


def test_the_report_has_the_robustness(tmp_path: Path) -> None:
    root = robust_root(tmp_path)
    text = tables.report(root.study)
    assert "Robustness" in text and "worst drop" in text
    assert max(map(len, text.replace(str(tmp_path), "").splitlines())) <= 120
    assert {"robustness.csv", "robustness.md"} <= {path.name for path in root.study.tables.iterdir()}
