"""Networks compared image by image, with predictions written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from analysis.frames import records, where
from analysis.paired import comparison_rows, model_comparison
from analysis.predictions import class_names, load_predictions, outputs
from analysis.results import load
from analysis.statistics import holm
from cass_tune.config import ARMS, Trial
from cass_tune.errors import UsageError
from tests.analysis.synthetic import SMALL, Root, cells
from tests.small import local

AXES = ["pretrain.batch_size"]
CLASSES = ["glioma", "meningioma", "notumor", "pituitary"]
CONTROL, EIGHT, SIXTEEN = cells(SMALL, "pretrain.batch_size", [8, 16], [0])
LABELS = np.arange(40) % 4


def predict(root: Root, trial: Trial, right: float, *, groups: int = 40, seed: int = 0) -> None:
    """Write predictions of 40 test images and 4 validation images of both arms, a share of them right."""
    rng = np.random.default_rng(seed)
    rows = []
    for arm in ARMS:
        for split, count in (("validation", 4), ("test", 40)):
            for number in range(count):
                logits = rng.normal(size=4).astype(np.float32)
                logits[LABELS[number]] += 9 * (rng.random() < right)
                group = f"patient{number % groups}"
                rows.append((arm, split, f"{split}/{number}", group, CLASSES[LABELS[number]], logits.tolist()))
    names = ("arm", "split", "image", "group", "label", "outputs")
    table = pa.table({name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)})
    pq.write_table(table, local(root.results.trial(root.digest(trial)).predictions))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path)
    root.plan([CONTROL, EIGHT, SIXTEEN])
    for number, (trial, right) in enumerate(((CONTROL, 0.2), (EIGHT, 0.9))):
        root.finish(trial, 0.5)
        predict(root, trial, right, seed=number)
    return root


def test_predictions_as_a_table(root: Root) -> None:
    found = load_predictions(root.study)
    assert len(found) == 2 * 2 * 44 and class_names(found) == CLASSES
    assert found["name"].unique().tolist() == ["control seed=0", "batch_size=8 seed=0"]
    one = found.iloc[0]
    assert (one["arm"], one["split"], one["image"], one["group"], one["label"]) == (
        "cnn",
        "validation",
        "validation/0",
        "patient0",
        "glioma",
    )
    logits = outputs(found)
    assert logits.dtype == np.float32 and logits.shape == (len(found), 4)
    stored = pq.read_table(local(root.results.trial(root.digest(CONTROL)).predictions)).column("outputs")
    assert logits[:88].tolist() == pytest.approx(np.array(stored.to_pylist(), dtype=np.float32))
    assert found["predicted"].tolist() == [CLASSES[position] for position in logits.argmax(axis=1)]


def test_trials_of_other_classes_stand_beside_one_another(root: Root) -> None:
    root.finish(SIXTEEN, 0.4, classes=["b", "glioma"])
    table = pa.table(
        {
            name: [value]
            for name, value in zip(("arm", "split", "image", "group"), ("cnn", "test", "i", "g"), strict=True)
        }
        | {"label": ["b"], "outputs": [[0.25, 0.5]]}
    )
    pq.write_table(table, local(root.results.trial(root.digest(SIXTEEN)).predictions))
    found = load_predictions(root.study)
    assert class_names(found) == [*CLASSES, "b"]
    last = found.iloc[-1]
    assert (last["label"], last["predicted"], last["logit_b"], last["logit_glioma"]) == ("b", "glioma", 0.25, 0.5)
    assert np.isnan(last["logit_notumor"]) and found["logit_b"].dropna().tolist() == [0.25]


def test_without_predictions_there_are_no_rows(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan([CONTROL, EIGHT])
    assert load_predictions(root.study).empty
    root.finish(EIGHT, 0.5)
    found = load_predictions(root.study)
    assert found.empty and class_names(found) == []
    assert model_comparison(found, load(root.study), AXES).empty


@pytest.mark.parametrize(
    "damage",
    [
        lambda content, table: content[: len(content) // 2],
        lambda content, table: b"",
        lambda content, table: _parquet(table.drop_columns("label")),
        lambda content, table: _parquet(table.set_column(4, "label", pa.array(["another"] * len(table)))),
        lambda content, table: _parquet(table.set_column(5, "outputs", pa.array([[0.5]] * len(table)))),
    ],
)
def test_damaged_predictions_are_named(root: Root, damage) -> None:
    path = local(root.results.trial(root.digest(EIGHT)).predictions)
    path.write_bytes(damage(path.read_bytes(), pq.read_table(path)))
    with pytest.raises(UsageError, match=rf"{path} is damaged: .*Delete it"):
        load_predictions(root.study)


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def test_a_network_alone_and_against_its_control(root: Root) -> None:
    predictions, frame = load_predictions(root.study), load(root.study)
    table = model_comparison(predictions, frame, AXES, replicates=200)
    found = [(row["arm"], row["pretrain_method"], row["pretrain_batch_size"]) for row in records(table)]
    assert found == [("cnn", "cass", 8), ("cnn", "none", None), ("vit", "cass", 8), ("vit", "none", None)]
    model, control = (row for row in records(where(table, {"arm": "cnn"})))
    own = predictions.loc[(predictions["arm"] == "cnn") & (predictions["split"] == "test")]
    of_model, of_control = (own.loc[own["trial_id"] == row["trial_id"]] for row in (model, control))
    labels, first, second = (
        rows.astype(str).to_numpy() for rows in (of_model["label"], of_model["predicted"], of_control["predicted"])
    )
    assert model["macro_f1_mean"] == pytest.approx(f1_score(labels, first, average="macro"), abs=1e-9)
    assert model["macro_f1_low"] < model["macro_f1_mean"] < model["macro_f1_high"]
    assert (model["macro_f1_n"], model["unit"], model["compared"]) == (40, "images", 40)
    only_model = int(np.sum((first == labels) & (second != labels)))
    only_control = int(np.sum((first != labels) & (second == labels)))
    assert (model["only_model"], model["only_control"]) == (only_model, only_control)
    assert model["p"] == pytest.approx(binomtest(only_model, only_model + only_control).pvalue, abs=1e-9)
    assert table["p_holm"].dropna().tolist() == pytest.approx(holm(table["p"].dropna().tolist()), abs=1e-12)
    assert model["control_id"] == control["trial_id"]
    assert control["p"] is None and control["control_id"] is None and control["macro_f1_low"] is not None


def test_patients_are_drawn_where_the_data_name_them(root: Root) -> None:
    predict(root, EIGHT, 0.9, groups=10, seed=1)
    table = model_comparison(load_predictions(root.study), load(root.study), AXES, replicates=50)
    row = records(table)[0]
    assert (row["macro_f1_n"], row["unit"]) == (10, "groups")


def test_without_the_controls_predictions_there_is_no_test(root: Root) -> None:
    local(root.results.trial(root.digest(CONTROL)).predictions).unlink()
    table = model_comparison(load_predictions(root.study), load(root.study), AXES, replicates=50)
    assert table["p"].dropna().empty and len(table["macro_f1_mean"].dropna()) == len(table) == 2


def test_as_text(root: Root) -> None:
    table = model_comparison(load_predictions(root.study), load(root.study), AXES, replicates=50)
    headers, first, second, *_ = comparison_rows(table, AXES)
    assert headers == ["arm", "method", "batch", "seed", "macro-F1", "n", "only model", "only control", "p"]
    assert first[:4] == ["cnn", "cass", "8", "0"] and first[5] == "40 images"
    assert second[:3] == ["cnn", "none", "-"] and second[-3:] == ["-", "-", "-"]


def test_nothing_is_left_to_chance(root: Root) -> None:
    predictions, frame = load_predictions(root.study), load(root.study)
    once, again = (model_comparison(predictions, frame, AXES, replicates=50) for _ in range(2))
    pd.testing.assert_frame_equal(once, again)
