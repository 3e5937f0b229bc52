from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis.results import COLUMNS, FIELDS, column, load, save, study_axes
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
