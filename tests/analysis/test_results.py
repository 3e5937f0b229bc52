from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from analysis.epochs import load_epochs
from analysis.frames import records
from analysis.predictions import class_names
from analysis.results import COLUMNS, FIELDS, column, load, save, study_axes
from analysis.tables import main, render, report
from cass_tune.errors import UsageError
from tests.analysis.synthetic import SMALL, Root, cells, replace
from tests.small import local

SEEDS = (0, 1)
TRIALS = cells(SMALL, "pretrain.batch_size", [8, 16], SEEDS)
"""Two controls, then batch size 8 (seeds 0, 1) and 16 (seeds 0, 1)."""


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path)
    root.plan(TRIALS)
    return root


def test_nothing_is_missing_in_silence(root: Root) -> None:
    root.finish(TRIALS[2], 0.7, 0.6)
    root.fail(TRIALS[3])
    root.fail(TRIALS[4], "Collapsed", "constant outputs")
    frame = load(root.study)
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 2 * len(TRIALS)
    states = frame.drop_duplicates("digest")["status"].tolist()
    assert states == ["missing", "missing", "done", "failed", "collapsed", "missing"]
    assert frame["arm"].tolist() == ["cnn", "vit"] * len(TRIALS)


def test_values_of_a_finished_trial(root: Root) -> None:
    root.finish(TRIALS[2], 0.7, 0.6)
    cnn, vit = load(root.study).iloc[4:6].to_dict("records")
    assert (cnn["macro_f1"], vit["macro_f1"]) == (0.7, 0.6)
    assert cnn["micro_f1_at_half"] == pytest.approx(0.65)
    assert cnn["validation_macro_f1"] == 0.7
    assert (cnn["pretrain_seconds"], cnn["finetune_seconds"], vit["finetune_seconds"]) == (90.0, 6.0, 7.0)
    assert (cnn["images_labelled"], cnn["images_test"], cnn["best_epoch"]) == (24, 80, 2)
    assert (cnn["listed_train"], cnn["listed_validation"], cnn["listed_test"]) == (240, 60, 80)
    assert (cnn["weights"], cnn["devices"], vit["model"]) == (
        "random",
        "cpu (AMD EPYC, 1 thread)",
        "test_vit.r160_in1k",
    )
    assert pd.isna(cnn["auroc"]) and not cnn["collapsed"]


def test_every_field_of_the_configuration_is_a_column(root: Root) -> None:
    frame = load(root.study)
    assert all(column(path) in frame for path in FIELDS)
    assert frame["pretrain_batch_size"].dtype == "Int64"
    assert frame["data_label_fraction"].unique().tolist() == [0.1]


def test_fields_that_do_not_matter_to_a_control_are_missing(root: Root) -> None:
    root.finish(TRIALS[0], 0.5)
    control = load(root.study).iloc[0]
    assert control["pretrain_method"] == "none" and control["pretrain_cnn"] == "test_resnet.r160_in1k"
    assert all(pd.isna(control[name]) for name in ("pretrain_batch_size", "pretrain_epochs", "pretrain_seconds"))
    assert control["finetune_batch_size"] == 16


def test_error_is_the_last_line_with_the_log_beside_it(root: Root) -> None:
    root.fail(TRIALS[2])
    row = load(root.study).iloc[4]
    assert row["error"] == "RuntimeError: out of memory"
    assert row["log"] == str(root.results.trial(root.digest(TRIALS[2])).log)


def test_the_plan_is_the_union_the_last_asked_for_first(root: Root) -> None:
    later = cells(SMALL, "pretrain.batch_size", [16, 4], SEEDS, controls=False)
    root.plan(later)
    trials = load(root.study).drop_duplicates("digest")
    assert trials["pretrain_batch_size"].dropna().tolist() == [16, 16, 4, 4, 8, 8]
    assert trials["plan"].tolist() == [0] * 4 + [1] * 4
    assert trials["order"].tolist() == list(range(8))


def test_axes_of_the_last_plan_come_first() -> None:
    assert study_axes([{"axes": ["a", "b"]}, {"axes": ["c", "a"]}]) == ["c", "a", "b"]


def test_save_can_be_read_back(root: Root) -> None:
    root.finish(TRIALS[2], 0.7, 0.6)
    frame = save(root.study)
    pd.testing.assert_frame_equal(pd.read_parquet(local(root.study.parquet)), frame)
    table = pd.read_csv(local(root.study.table))
    assert len(table) == len(frame) and list(table.columns) == list(COLUMNS)
    assert table.loc[4:5, "macro_f1"].tolist() == [0.7, 0.6]
    index = pd.read_csv(local(root.study.index))
    assert len(index) == len(TRIALS)
    assert index.loc[2, ["status", "cnn_macro_f1", "vit_macro_f1"]].tolist() == ["done", 0.7, 0.6]
    assert [path.name for path in root.study.path.glob(".*")] == []


def test_without_a_plan(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Nothing has been asked for"):
        load(Root(tmp_path).study)


def test_a_damaged_plan_is_named(root: Root) -> None:
    path = root.study.path / "plans" / "20990101.json"
    path.write_text("{")
    with pytest.raises(UsageError, match=path.name):
        load(root.study)


@pytest.mark.parametrize("name", ["result.json", "failure.json"])
def test_a_damaged_record_is_named(root: Root, name: str) -> None:
    root.fail(TRIALS[3])
    root.fail(TRIALS[2])
    path = root.results.trial(root.digest(TRIALS[2])).path / name
    path.write_text('{"half": ')
    with pytest.raises(UsageError) as caught:
        load(root.study)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path} is damaged: ") and "Delete it" in problem


def test_a_damaged_description_of_a_trial_hides_nothing(root: Root) -> None:
    """The plan has it, too; whoever computes the trial writes it again."""
    root.finish(TRIALS[2], 0.7)
    before = load(root.study)
    (root.results.trial(root.digest(TRIALS[2])).path / "config.json").write_text('{"half": ')
    pd.testing.assert_frame_equal(load(root.study), before)


def test_a_trial_of_another_version_is_another_row(root: Root) -> None:
    root.plan([replace(TRIALS[2], finetune_epochs=4)])
    assert load(root.study)["finetune_epochs"].iloc[0] == 4


def test_what_an_older_version_wrote_has_the_defaults_of_what_came_later(tmp_path: Path) -> None:
    """And stands in one row with what is written now: the later fields stand for the behaviour before them."""
    root = Root(tmp_path)
    root.plan(TRIALS[2:4])
    (path,) = local(root.study.path).glob("plans/*.json")
    record = json.loads(path.read_text())
    config = record["plan"]["trials"][0]["config"]
    del config["dino"], config["pretrain"]["variance_weight"], config["pretrain"]["predictor"]
    path.write_text(json.dumps(record))
    frame = load(root.study)
    settings = frame[[column(path) for path in FIELDS]].drop_duplicates()
    assert len(settings) == 1
    assert settings["pretrain_predictor"].tolist() == ["False"] and settings["pretrain_variance_weight"].tolist() == [0]
    of_dino = {name: settings[name].tolist() for name in settings if str(name).startswith("dino_")}
    assert of_dino and all(pd.isna(values[0]) for values in of_dino.values())


def test_save_writes_epochs_and_predictions(root: Root) -> None:
    root.finish(TRIALS[2], 0.7)
    root.compute(TRIALS[2], "finetune_cnn", [1.0, 2.0])
    row = {"arm": "cnn", "split": "test", "image": "i", "group": "i", "label": "glioma", "outputs": [0.5, 1, 0, 0]}
    predictions = local(root.results.trial(root.digest(TRIALS[2])).predictions)
    pd.DataFrame([row]).to_parquet(predictions)
    save(root.study)
    epochs = load_epochs(root.study)
    pd.testing.assert_frame_equal(pd.read_parquet(local(root.study.epochs_parquet)), epochs, check_categorical=False)
    assert pd.read_csv(local(root.study.epochs_table))["seconds"].tolist() == [1.0, 2.0]
    stored = pd.read_parquet(local(root.study.predictions))
    assert class_names(stored) == ["glioma", "meningioma", "notumor", "pituitary"]
    assert (stored["label"].tolist(), stored["predicted"].tolist()) == (["glioma"], ["meningioma"])
    assert stored[[f"logit_{name}" for name in class_names(stored)]].to_numpy().tolist() == [[0.5, 1.0, 0.0, 0.0]]


def test_damaged_predictions_do_not_hide_the_tables(root: Root, caplog: pytest.LogCaptureFixture) -> None:
    root.finish(TRIALS[2], 0.7)
    path = local(root.results.trial(root.digest(TRIALS[2])).predictions)
    path.write_bytes(b"PAR1")
    assert len(save(root.study)) == 2 * len(TRIALS)
    assert root.study.parquet.exists() and not root.study.predictions.exists()
    assert f"{path} is damaged" in caplog.text


def test_saving_changes_no_record(root: Root) -> None:
    root.finish(TRIALS[2], 0.7)
    root.compute(TRIALS[2], "finetune_cnn", [1.0])
    folder = local(root.results.root) / "trials"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    save(root.study)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("score", [None, math.nan])
def test_a_score_that_is_not_a_number(root: Root, score: float | None) -> None:
    """Null as the trial writes it, or NaN written by other hands: the trial is done, and its number unknown."""
    root.finish(TRIALS[2], None)
    path = local(root.results.trial(root.digest(TRIALS[2])).path) / "result.json"
    result = json.loads(path.read_text())
    result["arms"]["cnn"]["test"]["macro_f1"] = score
    path.write_text(json.dumps(result))
    root.finish(TRIALS[3], 0.5)
    frame = load(root.study)
    assert frame["status"].tolist()[4:8] == ["done"] * 4 and frame["macro_f1"].tolist()[6] == 0.5
    assert pd.isna(frame["macro_f1"].tolist()[4])
    line = next(line for line in render(root.study).splitlines() if line.startswith("cnn  cass    8"))
    assert "0.500 (n=1)" in line and "nan" not in render(root.study).lower()


def test_one_trial_alone(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan(TRIALS[2:3])
    assert "missing" in render(root.study)
    root.finish(TRIALS[2], 0.7)
    text = report(root.study)
    assert "0.700 (n=1)" in text and "nan" not in text.lower()
    assert len(load(root.study)) == 2


def test_no_seed_is_replicated(tmp_path: Path) -> None:
    """Every cell has a seed of its own: there is no interval, and no difference is paired."""
    root = Root(tmp_path)
    trials = [replace(TRIALS[0], seed=7), replace(TRIALS[2], seed=8), replace(TRIALS[4], seed=9)]
    root.plan(trials)
    for trial in trials:
        root.finish(trial, 0.7)
    rows = [line for line in render(root.study).splitlines() if line.startswith("cnn  ")]
    assert sum("0.700 (n=1)" in row for row in rows) == len(rows) - 1  # the papers' other score is in one
    assert not any("+0." in row or "-0." in row for row in rows)


def test_results_of_two_versions_are_said_and_kept_apart(root: Root) -> None:
    for trial in TRIALS:
        root.finish(trial, 0.5)
    newer = [replace(trial, seed=trial.seed + 5) for trial in TRIALS]
    root.plan(newer, results_version=2)
    for trial in newer:
        root.finish(trial, 0.9)
    frame = load(root.study)
    found = [(row["results_version"], row["macro_f1"]) for row in records(frame)]
    assert found == [(2, 0.9)] * 12 + [(1, 0.5)] * 12
    text = render(root.study)
    assert "Table 1 of 2 (last asked for): results_version 2" in text and "Table 2 of 2: results_version 1" in text
    first, second = text.split("Table 2 of 2")[:2]
    assert "0.900 +-0.000" in first and "0.500 +-0.000" not in first and "0.500 +-0.000" in second


def test_an_unknown_study_is_answered_with_those_there_are(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch_ablatoin", "--results", str(root.results.root)]) == 2
    assert "No study 'batch_ablatoin'" in (error := capsys.readouterr().err) and "There are: batch_ablation." in error
