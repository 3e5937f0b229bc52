from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import tables
from analysis.frames import records
from analysis.segments import segments_of
from analysis.spending import COLUMNS, spending_table
from analysis.timing_text import device_numbers, spending_notes, spending_rows
from cass_tune.config import Trial, control
from cass_tune.identity import Segment
from cass_tune.results import Record
from tests.analysis.synthetic import SMALL, Root, replace
from tests.small import local

CPU, GPU = "cpu (AMD EPYC, 1 thread)", "cuda (NVIDIA H200)"
STAGE, TRUNK, DECAY = "5" * 64, "7" * 64, "d" * 64
TWO = replace(SMALL, pretrain_epochs=2, finetune_epochs=1)
FOUR = replace(TWO, pretrain_epochs=4)
CONTROL = control(TWO)


def root_of(folder: Path, *trials: Trial) -> Root:
    root = Root(folder)
    root.plan(trials, ["pretrain.epochs"])
    return root


def chain(*parts: tuple[str, int, int]) -> Record:
    """Return what result.json says of a pretraining."""
    listed = [{"stage": stage, "start": start, "end": end} for stage, start, end in parts]
    return {"digest": parts[-1][0], "epoch": parts[-1][2], "reused": False, "segments": listed}


def finish(root: Root, trial: Trial, seconds: Sequence[float], stage: Record | None, *devices: str) -> None:
    """Finish a trial that took these seconds for its pretraining and each arm's one epoch of finetuning."""
    root.compute(trial, "finetune_cnn", seconds[1:2])
    root.compute(trial, "finetune_vit", seconds[2:], attempt="a2")
    times = dict(zip(("pretrain", "cnn", "vit"), seconds, strict=True))
    root.finish(trial, 0.7, seconds=times, stage=stage, devices=list(devices) or [CPU])


def pretrain(root: Root, stage: str, seconds: Sequence[float], *devices: str, start: int = 0, attempt: str = "a1"):
    root.compute(stage, "pretrain", seconds, start=start, attempt=attempt)
    root.results.stage(stage).write_environment({"devices": list(devices) or [CPU]})


def account(root: Root) -> list[dict[str, Any]]:
    return records(spending_table(root.study))


def shared(folder: Path) -> Root:
    """Return two trials of 2 and 4 epochs in one pretraining, in which another study has trained a fifth epoch."""
    root = root_of(folder, TWO, FOUR)
    pretrain(root, STAGE, [10, 11, 12, 13, 99])
    finish(root, TWO, (21, 3, 4), chain((STAGE, 0, 2)))
    finish(root, FOUR, (46, 5, 6), chain((STAGE, 0, 4)))
    return root


def test_a_shared_pretraining_is_spent_once(tmp_path: Path) -> None:
    (row,) = account(shared(tmp_path))
    assert tuple(row) == COLUMNS
    assert (row["device_kind"], row["crossed_devices"], row["trials"]) == (CPU, False, 2)
    assert row["alone_seconds"] == (21 + 3 + 4) + (46 + 5 + 6)
    assert row["spent_seconds"] == (10 + 11 + 12 + 13) + (3 + 4) + (5 + 6)
    assert (row["saved_seconds"], row["spent_of_alone"]) == (21, 64 / 85)
    assert (row["repeated_seconds"], row["unfinished_seconds"], row["epochs_without_row"]) == (0, 0, 0)


def test_an_epoch_computed_again_is_spent_again(tmp_path: Path) -> None:
    root = root_of(tmp_path, FOUR)
    pretrain(root, STAGE, [10, 11])
    pretrain(root, STAGE, [11.5, 12, 13], start=1, attempt="a2")
    finish(root, FOUR, (46.5, 5, 6), chain((STAGE, 0, 4)))
    root.compute(FOUR, "finetune_vit", [6], attempt="a3")
    root.compute(FOUR, "finetune_cnn", [2], attempt="a0")
    (row,) = account(root)
    assert (row["alone_seconds"], row["spent_seconds"]) == (57.5, 57.5 + 11 + 2)
    assert (row["repeated_seconds"], row["saved_seconds"]) == (13, -13)
    assert spending_rows(spending_table(root.study))[1][2:] == ["58 s", "70 s", "13 s", "-13 s", "1.23"]


def test_a_line_that_another_attempt_repeats_counts_once_and_a_torn_one_not(tmp_path: Path) -> None:
    root = root_of(tmp_path, TWO)
    pretrain(root, STAGE, [10, 11])
    pretrain(root, STAGE, [10, 11], attempt="a2")
    folder = local(root.results.stage(STAGE).epochs)
    (folder / "a3.jsonl").write_text('{"seconds": 10, "epochs": 9, "epoch": 1, "phase": "pretrain"}\n{"phase": "pre')
    finish(root, TWO, (21, 3, 4), chain((STAGE, 0, 2)))
    (row,) = account(root)
    assert (row["spent_seconds"], row["repeated_seconds"], row["saved_seconds"]) == (28, 0, 0)


def test_a_line_that_is_repeated_for_a_longer_target_counts_once(tmp_path: Path) -> None:
    root = root_of(tmp_path, TWO)
    pretrain(root, STAGE, [10, 11])
    folder = local(root.results.stage(STAGE).epochs)
    (folder / "a2.jsonl").write_text((folder / "a1.jsonl").read_text().replace('"epochs": 9', '"epochs": 20'))
    finish(root, TWO, (21, 3, 4), chain((STAGE, 0, 2)))
    (row,) = account(root)
    assert (row["spent_seconds"], row["repeated_seconds"]) == (28, 0)


def test_the_row_that_was_written_last_is_the_one_that_counts_first(tmp_path: Path) -> None:
    root = root_of(tmp_path, TWO)
    pretrain(root, STAGE, [10, 11])
    pretrain(root, STAGE, [15], start=1, attempt="a2")
    pretrain(root, STAGE, [11], start=1, attempt="a3")
    finish(root, TWO, (21, 3, 4), chain((STAGE, 0, 2)))
    (row,) = account(root)
    assert (row["spent_seconds"], row["repeated_seconds"]) == (28 + 15, 15)


def test_a_trunk_is_shared_and_each_decay_is_its_own(tmp_path: Path) -> None:
    root = root_of(tmp_path, TWO, FOUR)
    pretrain(root, TRUNK, [10, 11])
    pretrain(root, DECAY, [12, 13], start=2)
    pretrain(root, STAGE, [7], start=1)
    finish(root, TWO, (17, 3, 4), chain((TRUNK, 0, 1), (STAGE, 1, 2)))
    finish(root, FOUR, (46, 5, 6), chain((TRUNK, 0, 2), (DECAY, 2, 4)))
    (row,) = account(root)
    assert row["alone_seconds"] == 17 + 46 + 18
    assert row["spent_seconds"] == 21 + 25 + 7 + 18
    assert (row["saved_seconds"], row["epochs_without_row"]) == (10, 0)


def test_segments_on_other_devices_are_told_apart(tmp_path: Path) -> None:
    root = root_of(tmp_path, FOUR)
    pretrain(root, TRUNK, [10, 11])
    pretrain(root, DECAY, [12, 13], CPU, GPU, start=2)
    finish(root, FOUR, (46, 5, 6), chain((TRUNK, 0, 2), (DECAY, 2, 4)), GPU, CPU)
    assert [(row["device_kind"], row["alone_seconds"], row["spent_seconds"]) for row in account(root)] == [
        (CPU, 21, 21),
        (f"{CPU}; {GPU}", 25 + 11, 25 + 11),
    ]


def test_a_control_has_only_its_finetuning(tmp_path: Path) -> None:
    root = root_of(tmp_path, CONTROL)
    finish(root, CONTROL, (0.0, 3, 4), None)
    (row,) = account(root)
    assert (row["trials"], row["alone_seconds"], row["spent_seconds"], row["saved_seconds"]) == (1, 7, 7, 0)
    assert row["epochs_without_row"] == 0


def test_each_kind_of_device_has_its_own_account(tmp_path: Path) -> None:
    root = root_of(tmp_path, TWO, replace(TWO, seed=1), replace(TWO, seed=2))
    for seed, (stage, devices) in enumerate([(STAGE, (CPU,)), (TRUNK, (GPU,)), (DECAY, (GPU,))]):
        pretrain(root, stage, [10, 20 + seed], *devices)
        where = (GPU, CPU) if seed == 2 else devices
        finish(root, replace(TWO, seed=seed), (30 + seed, 1, 2), chain((stage, 0, 2)), *where)
    rows = account(root)
    assert [row["device_kind"] for row in rows] == [CPU, f"{CPU}; {GPU}", GPU]
    assert [row["crossed_devices"] for row in rows] == [False, True, False]
    assert [row["trials"] for row in rows] == [1, 1, 1]
    assert [row["alone_seconds"] for row in rows] == [33, 3, 31 + 3 + 32]
    assert [row["spent_seconds"] for row in rows] == [33, 3, 66]
    short = device_numbers(spending_table(root.study))
    assert [row[0] for row in spending_rows(spending_table(root.study), short)[1:]] == ["1", "1+2#", "2"]
    assert spending_notes(spending_table(root.study))[0].startswith("# More than one kind of device")


def test_a_pretraining_that_went_on_elsewhere_for_another_study_has_the_devices_of_its_wanted_end(
    tmp_path: Path,
) -> None:
    root = root_of(tmp_path, TWO)
    pretrain(root, STAGE, [10, 11, 12], CPU, GPU)
    root.results.stage(STAGE).write_end(2, {"environment": {"devices": [CPU]}})
    finish(root, TWO, (21, 3, 4), chain((STAGE, 0, 2)))
    (row,) = account(root)
    assert (row["device_kind"], row["saved_seconds"]) == (CPU, 0)


def test_what_an_unfinished_trial_has_used_is_spent(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.segments[FOUR] = chain((STAGE, 0, 4))["segments"]
    root.plan([TWO, FOUR], ["pretrain.epochs"])
    pretrain(root, STAGE, [10, 11, 12])
    finish(root, TWO, (21, 3, 4), chain((STAGE, 0, 2)))
    root.compute(FOUR, "finetune_cnn", [8])
    root.results.trial(root.digest(FOUR)).write_environment({"devices": [CPU]})
    (row,) = account(root)
    assert (row["trials"], row["alone_seconds"], row["spent_seconds"]) == (1, 28, 28 + 12 + 8)
    assert (row["unfinished_seconds"], row["saved_seconds"], row["epochs_without_row"]) == (20, -20, 0)
    assert "of it unfinished" in spending_rows(spending_table(root.study))[0]
    assert "of it unfinished: " in tables.render(root.study)


def test_rows_that_are_gone_make_what_was_spent_unknown(tmp_path: Path) -> None:
    root = root_of(tmp_path, TWO, FOUR)
    pretrain(root, STAGE, [11, 12, 13], start=1)
    finish(root, FOUR, (46, 5, 6), chain((STAGE, 0, 4)))
    (row,) = account(root)
    assert (row["alone_seconds"], row["epochs_without_row"]) == (57, 1)
    assert row["spent_seconds"] is row["saved_seconds"] is row["repeated_seconds"] is row["spent_of_alone"] is None
    assert spending_rows(spending_table(root.study))[1] == [CPU, "1", "57 s", "-", "-", "-", "-"]
    assert "Epochs of finished trials that have no row in the results root: 1. What" in tables.render(root.study)


@pytest.mark.parametrize(("patience", "epochs", "lost"), [(1, 8, 0), (3, 8, 4), (3, 4, 2), (0, 8, 10)])
def test_a_finetuning_that_patience_ended_has_no_more_rows(
    tmp_path: Path, patience: int, epochs: int, lost: int
) -> None:
    """The best epoch of both arms is the second, and there are three rows of each."""
    trial = replace(CONTROL, finetune_epochs=epochs, finetune_patience=patience)
    root = root_of(tmp_path, trial)
    for arm in ("cnn", "vit"):
        root.compute(trial, f"finetune_{arm}", [1, 2, 3], attempt=arm)
    root.finish(trial, 0.7, seconds={"pretrain": 0.0, "cnn": 6, "vit": 6}, devices=[CPU])
    (row,) = account(root)
    assert (row["alone_seconds"], row["epochs_without_row"]) == (12, lost)
    assert row["spent_seconds"] == (None if lost else 12)


def test_a_finished_trial_without_a_recorded_pretraining_is_unknown(tmp_path: Path) -> None:
    root = root_of(tmp_path, TWO)
    root.finish(TWO, 0.7)
    (row,) = account(root)
    assert (row["alone_seconds"], row["spent_seconds"], row["epochs_without_row"]) == (103, None, 4)


def test_a_device_that_is_not_recorded_is_said_to_be_unknown(tmp_path: Path) -> None:
    root = root_of(tmp_path, TWO)
    root.compute(STAGE, "pretrain", [10, 11])
    finish(root, TWO, (21, 3, 4), chain((STAGE, 0, 2)))
    assert [(row["device_kind"], row["spent_seconds"]) for row in account(root)] == [(CPU, 7), ("unknown", 21)]
    assert "unknown: no record says" in tables.render(root.study)


@pytest.mark.parametrize(
    "stage",
    [
        chain((STAGE, 0, 2)),
        {"digest": STAGE, "epoch": 2, "reused": True, "parts": [{"stage": STAGE, "start": 0, "end": 2}]},
        {"digest": STAGE, "epoch": 2, "reused": True},
    ],
)
def test_the_forms_in_which_a_pretraining_is_recorded(stage: Record) -> None:
    wanted = {"config": {"pretrain": {"method": "cass", "epochs": 2}}}
    assert segments_of(wanted, {"stage": stage}) == [Segment(stage=STAGE, start=0, end=2)]


def test_a_pretraining_that_only_the_plan_names() -> None:
    wanted: Record = {"config": {"pretrain": {"method": "cass", "epochs": 3}}}
    assert segments_of({**wanted, "stage": STAGE}, None) == [Segment(stage=STAGE, start=0, end=3)]
    assert segments_of({**wanted, "segments": []}, None) is None
    assert segments_of({"config": {"pretrain": {"method": "none", "epochs": 3}}}, {"stage": None}) == []


def test_nothing_computed_has_no_account(tmp_path: Path) -> None:
    root = root_of(tmp_path, TWO, FOUR)
    table = spending_table(root.study)
    assert len(table) == 0 and tuple(table) == COLUMNS
    assert "Time of" not in tables.render(root.study)
    tables.report(root.study)
    assert (root.study.tables / "spending.csv").read_text().splitlines() == [",".join(COLUMNS)]


def test_the_account_is_written_and_shown(tmp_path: Path) -> None:
    root = shared(tmp_path)
    text = tables.report(root.study)
    assert "Time of the study\ndevice  trials  alone  spent  of it computed again  saved  spent/alone\n" in text
    assert "\n1       2       85 s   64 s   0.0 s                 21 s   0.75\n" in text
    read = pd.read_csv(local(root.study.tables) / "spending.csv")
    assert read.loc[0, ["alone_seconds", "spent_seconds", "saved_seconds"]].tolist() == [85, 64, 21]
    assert f"| {CPU} | 2 | 85 s | 64 s | 0.0 s | 21 s | 0.75 |" in (root.study.tables / "spending.md").read_text()
