from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from analysis import tables
from analysis.frames import where
from analysis.groups import split
from analysis.per_class import class_scores, class_table
from analysis.predictions import load_predictions
from analysis.results import load
from analysis.statistics import summarise
from cass_tune.config import ARMS, Trial, to_json
from tests import tiny
from tests.analysis.synthetic import SMALL, Root, cells
from tests.runs import LISTING, Run, run
from tests.small import local

AXES = ["pretrain.batch_size"]
CLASSES = ["glioma", "meningioma", "notumor", "pituitary"]
TRIALS = cells(SMALL, "pretrain.batch_size", [8], (0, 1), controls=False)


def logits(*predicted: int) -> np.ndarray:
    return np.eye(4)[list(predicted)]


def predict(root: Root, trial: Trial, labels: list[int], predicted: list[int], split: str = "test") -> None:
    """Record the outputs of both arms of a finished trial."""
    rows = [
        {"arm": arm, "split": split, "image": str(n), "group": str(n), "label": CLASSES[label], "outputs": outputs}
        for arm in ARMS
        for n, (label, outputs) in enumerate(zip(labels, logits(*predicted).tolist(), strict=True))
    ]
    pq.write_table(pa.Table.from_pylist(rows), local(root.results.trial(root.digest(trial)).predictions))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path)
    root.plan(TRIALS)
    for trial in TRIALS:
        root.finish(trial, 0.5)
    predict(root, TRIALS[0], [0, 0, 1, 2, 3], [0, 1, 1, 2, 2])
    predict(root, TRIALS[1], [0, 0, 1, 2, 3], [0, 0, 1, 2, 3])
    return root


def table_of(root: Root) -> pd.DataFrame:
    (group,) = split(load(root.study), AXES)
    return class_table(group.frame, AXES, load_predictions(root.study, leave_out_damaged=True))


# One evaluation


def test_scores_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 1, 2])
    outputs = np.array([[3, 1, 0], [1, 2, 0], [0, 2, 1], [2, 1, 0], [0, 3, 1], [0, 1, 2]], dtype=float)
    found = class_scores(labels, outputs)
    assert found["support"].tolist() == [2, 3, 1]
    assert found["precision"] == pytest.approx([1 / 2, 2 / 3, 1.0])
    assert found["recall"] == pytest.approx([1 / 2, 2 / 3, 1.0])
    assert found["f1"] == pytest.approx([1 / 2, 2 / 3, 1.0])
    expected = [roc_auc_score(labels == number, outputs[:, number]) for number in range(3)]
    assert found["auroc"] == pytest.approx(expected)
    assert expected[2] == 1.0


def test_what_nothing_defines_is_not_a_number() -> None:
    found = class_scores(np.array([0, 0, 1]), np.array([[2, 1, 0], [1, 2, 0], [1, 2, 0]], dtype=float))
    assert np.isnan([found[name][2] for name in ("precision", "recall", "f1", "auroc")]).all()
    assert found["support"][2] == 0
    found = class_scores(np.array([0, 2]), np.array([[2.0, 1, 0], [2, 1, 0]]))
    assert np.isnan(found["precision"][2]) and (found["recall"][2], found["f1"][2]) == (0.0, 0.0)
    assert np.isnan(class_scores(np.array([0, 0]), np.array([[2.0, 1], [2, 1]]))["auroc"]).all()


# A table


def test_one_row_per_cell_arm_and_class_over_the_seeds(root: Root) -> None:
    table = table_of(root)
    assert table["arm"].tolist() == ["cnn"] * 4 + ["vit"] * 4
    assert table["class"].tolist() == CLASSES * 2 and table["support"].tolist() == [2, 1, 1, 1] * 2
    row = where(table, {"arm": "cnn", "class": "meningioma"}).iloc[0]
    expected = summarise([0.5, 1.0])
    assert (row["precision_mean"], row["precision_low"]) == pytest.approx((expected.mean, expected.low))
    assert (row["recall_mean"], row["recall_n"]) == (1.0, 2)
    pituitary = where(table, {"arm": "cnn", "class": "pituitary"}).iloc[0]
    assert (pituitary["precision_mean"], pituitary["precision_n"]) == (1.0, 1)
    assert pituitary["f1_mean"] == 0.5
    assert row["trial_ids"].split() == [root.results.trial(root.digest(trial)).id for trial in TRIALS]


def test_the_validation_images_do_not_count(root: Root) -> None:
    predict(root, TRIALS[1], [0, 1], [1, 0], split="validation")
    assert set(table_of(root)["f1_n"]) == {1}


def test_trials_without_readable_predictions_are_left_out_and_named(root: Root) -> None:
    folder = root.results.trial(root.digest(TRIALS[1]))
    local(folder.predictions).write_bytes(b"PAR1 torn")
    assert set(table_of(root)["recall_n"]) == {1}
    sheets = {sheet.name: sheet for sheet in tables.sheets(root.study)}
    for name in ("per_class", "images"):
        note = f"1 of 2 trials have no predictions that can be read, and are left out: {folder.id}."
        assert note in sheets[name].notes
    local(folder.predictions).unlink()
    local(root.results.trial(root.digest(TRIALS[0])).predictions).unlink()
    assert table_of(root).empty
    assert "per_class" not in {sheet.name for sheet in tables.sheets(root.study)}


def test_text_and_files(root: Root) -> None:
    text = tables.report(root.study)
    assert "Precision, recall, F1 and AUROC of each class\narm  method  batch  class       images  precision" in text
    written = (local(root.study.tables) / "per_class.md").read_text()
    assert "| cnn | cass | 8 | notumor | 1 | 0.750 [" in written
    assert max(map(len, text.splitlines())) <= 120


def test_a_long_table_is_left_to_the_files(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "DETAIL_ROWS", 7)
    text = tables.render(root.study)
    assert "of each class: 8 rows, in the files per_class.*" in text and "pituitary" not in text


# A real trial


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tiny.trial(), tmp_path_factory.mktemp("real"))


def test_the_mean_over_classes_is_what_the_trial_measured(real: Run) -> None:
    root = Root(real.root)
    frame = pd.DataFrame(
        {"arm": list(ARMS), "pretrain_method": "cass", "digest": real.folder.digest, "trial_id": real.folder.id}
    ).assign(status="done")
    wanted = {"digest": real.folder.digest, "name": "real", "config": to_json(real.trial)}
    root.study.write_plan({"axes": [], "trials": [wanted]})
    table = class_table(frame, ["pretrain.method"], load_predictions(root.study))
    assert table["class"].tolist() == sorted({item.label for item in LISTING.items}) * 2
    for arm in ARMS:
        rows, test = where(table, {"arm": arm}), real.result["arms"][arm]["test"]
        f1, recall, auroc = (np.nanmean(rows[f"{name}_mean"].to_numpy()) for name in ("f1", "recall", "auroc"))
        assert f1 == pytest.approx(test["macro_f1"], abs=1e-6)
        assert recall == pytest.approx(test["balanced_accuracy"], abs=1e-6)
        assert auroc == pytest.approx(test["auroc"], abs=1e-4)
        assert sum(rows["support"].tolist()) == test["n"]
