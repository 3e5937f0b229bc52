"""A set of several labels for each image through the whole trial, and through the analyses."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.frames import where
from analysis.plots import draw
from analysis.predictions import MULTI_LABEL, class_names, load_predictions, outputs, predicted_labels, true_labels
from analysis.results import load
from analysis.study_sheets import study_sheets
from cass_tune.results import Results, StudyFolder
from tests import small

OPTIONS = (
    *("--data.name", "csv", "--data.label-columns", "dark,red,tall", "--data.image-size-px", "32"),
    *("--preset", "demo", "--local", "--device", "cpu", "--data.label-fraction", "0.5", "--finetune.epochs", "1"),
    *("--pretrain.epochs", "1", "--pretrain.learning-rate", "1e-3", "--data.pretrain-fraction", "1"),
)


def write_images(root: Path) -> None:
    """Write pictures of every combination of three labels, four for training and two for testing."""
    rows = ["path,dark,red,tall,split"]
    for number, (dark, red, tall) in enumerate(list(itertools.product((0, 1), repeat=3)) * 6):
        rng = np.random.default_rng(number)
        array = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8) + np.uint8(60 if dark else 180)
        array[..., 1:] //= np.uint8(3 if red else 1)
        array[:, 12 if tall else 0 : 20 if tall else 32] //= 2
        Image.fromarray(array).save(root / f"{number:02}.png")
        rows.append(f"{number:02}.png,{dark},{red},{tall},{'train' if number < 32 else 'test'}")
    (root / "labels.csv").write_text("\n".join(rows))


def test_the_whole_trial_and_its_analyses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, results = tmp_path / "data", tmp_path / "results"
    root.mkdir()
    write_images(root)
    monkeypatch.chdir(tmp_path)
    assert small.run("--data.root", str(root), *OPTIONS, "--pretrain.batch-size", "4", results=results) == 0
    study = StudyFolder(results / "small" / "csv-demo")
    (digest,) = {t["digest"] for t in study.plans()[-1]["trials"] if t["config"]["pretrain"]["method"] == "cass"}
    folder = Results(results).trial(digest)
    result = folder.result()
    assert result is not None and result["task"] == "multi-label" and result["classes"] == ["dark", "red", "tall"]
    kept = json.loads(small.local(Results(results).split(result["split"])).read_text())
    assert len(kept["parts"]["test"]) == 16 and sum(len(part) for part in kept["parts"].values()) == 48
    for arm in ("cnn", "vit"):
        tested = result["arms"][arm]["test"]
        assert len(tested["auroc_by_class"]) == 3 and 0 <= tested["mean_average_precision"] <= 1
        assert tested["macro_f1"] == tested["macro_f1_at_half"] and "confusion_matrix" not in tested
    stored = pd.read_parquet(small.local(folder.predictions))
    labels = {image: tuple(label) for image, label in zip(stored["image"], stored["label"], strict=True)}
    assert labels["32.png"] == () and labels["39.png"] == ("dark", "red", "tall")

    found = load_predictions(study)
    rows = where(found, {"digest": digest, "arm": "cnn", "split": "test"})
    assert set(rows["task"]) == {MULTI_LABEL} and class_names(rows) == ["dark", "red", "tall"]
    assert true_labels(rows).tolist() == [[int(name in labels[i]) for name in class_names(rows)] for i in rows["image"]]
    assert np.array_equal(predicted_labels(rows), outputs(rows) > 0)

    tables = {sheet.name.removeprefix("DEMO_"): sheet for sheet in study_sheets(study, load(study), {})}
    assert {"images", "per_class"} <= set(tables)
    assert set(tables["per_class"].numbers["class"]) == {"dark", "red", "tall"}
    names = {path.name.removeprefix("DEMO_") for path in draw(study)}
    assert "examples.png" in names and "confusion.png" not in names
