"""A whole trial: its rows, its files, its failures, and that the same trial always gives the same numbers."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import cass_tune.trial as trial_module
from cass_tune.config import ARMS, PROBES, Trial, control, from_json, to_json
from cass_tune.data.phantom import phantom_listing
from cass_tune.data.pixels import decode
from cass_tune.data.splits import split
from cass_tune.errors import Collapsed, FailedElsewhere, UsageError
from cass_tune.identity import segments, trial_digest
from cass_tune.results import Results, TrialFolder
from cass_tune.training import collapse, finetune
from cass_tune.training.loop import DivergedError
from cass_tune.training.metrics import classification_metrics
from cass_tune.training.rows import COLUMNS
from cass_tune.trial import RunOptions, read_inputs, run_trial
from tests import tiny
from tests.runs import LISTING, Run, run
from tests.small import local

TRIAL = tiny.trial()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(TRIAL, tmp_path_factory.mktemp("finished"), probes=PROBES)


@pytest.fixture
def shared(finished: Run, tmp_path: Path) -> Run:
    """A copy of the finished trial's results root, for other trials to run in."""
    return replace(finished, root=Path(shutil.copytree(finished.root, tmp_path / "shared")))


def files(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return time and content of every file."""
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.read_bytes()) for p in paths}


def test_rows(finished: Run) -> None:
    phases = [(row["phase"], row["epoch"]) for row in finished.rows]
    assert phases == [(phase, epoch) for phase in ("pretrain", "finetune_cnn", "finetune_vit") for epoch in (1, 2)]
    assert {tuple(row) for row in finished.rows} == {COLUMNS}
    assert {(row["epochs"], row["reused"]) for row in finished.rows} == {(2, False)}
    json.dumps(finished.rows, allow_nan=False)


def test_files(finished: Run) -> None:
    digest = trial_digest(TRIAL, read_inputs(TRIAL, LISTING))
    stage = segments(TRIAL, read_inputs(TRIAL, LISTING))[-1].stage
    (attempt,) = {path.stem for path in finished.root.glob("*/*/epochs/*")}
    of_trial = ("config.json", "environment.json", "log.txt", "predictions.parquet", "probes.json", "result.json")
    expected = {f"trials/{digest[:12]}/{name}" for name in (*of_trial, "cnn.safetensors", "vit.safetensors")}
    expected |= {f"stages/{stage[:12]}/{name}" for name in ("config.json", "environment.json")}
    expected |= {f"{place}/.holder.lock" for place in (f"trials/{digest[:12]}", f"stages/{stage[:12]}")}
    expected.add(f"trials/{digest[:12]}/attempts/{attempt}.json")
    ends = ("run.json", "state.safetensors", *(f"{arm}.safetensors" for arm in ARMS))
    expected |= {f"stages/{stage[:12]}/epoch-0002/{name}" for name in ends}
    expected |= {str(path.relative_to(finished.root)) for path in finished.root.glob("stages/*/wanted/*.json")}
    expected |= {f"{place}/epochs/{attempt}.jsonl" for place in (f"trials/{digest[:12]}", f"stages/{stage[:12]}")}
    expected.add(f"splits/{finished.result['split'][:16]}.json")
    assert set(files(finished.root)) == expected
    assert finished.folder.status() == "done"


def test_stored_rows_are_those_yielded(finished: Run) -> None:
    stage = Results(finished.root).stage(segments(TRIAL, read_inputs(TRIAL, LISTING))[-1].stage)
    assert stage.rows() + finished.folder.rows() == finished.rows


def test_stored_configuration_is_the_trial(finished: Run) -> None:
    config = json.loads((finished.folder.path / "config.json").read_text())
    assert from_json(json.dumps(config["trial"])) == TRIAL
    assert config["trial"] == json.loads(json.dumps(to_json(TRIAL)))
    assert config["digest"] == finished.folder.digest
    assert config["inputs"] == {"data": LISTING.fingerprint, "cnn": "random", "vit": "random"}
    environment = json.loads((finished.folder.path / "environment.json").read_text())
    assert environment["threads"] == 1 and environment["versions"]["torch"]


def test_result(finished: Run) -> None:
    result = finished.result
    assert result["classes"] == list(LISTING.classes)
    assert result["class_weights"] == dict.fromkeys(LISTING.classes, 1.0)
    assert result["images"] == {"pretrain": 32, "labelled": 32, "validation": 80, "test": 200}
    (segment,) = segments(TRIAL, read_inputs(TRIAL, LISTING))
    expected = {"digest": segment.stage, "epoch": 2, "reused": False, "segments": [asdict(segment)]}
    assert result["stage"] == expected
    assert (result["seed"], result["results_version"], result["bad_images"]) == (0, 1, {})
    assert result["collapsed"] == finished.rows[1]["collapsed"]
    phases = {"pretrain": finished.rows[:2], "cnn": finished.rows[2:4], "vit": finished.rows[4:]}
    assert result["seconds"] == {name: pytest.approx(sum(r["seconds"] for r in of)) for name, of in phases.items()}
    assert result["seconds"].keys() == {"pretrain", *ARMS}
    for arm, name in (("cnn", tiny.CNN), ("vit", tiny.VIT)):
        record = result["arms"][arm]
        assert record["model"] == name
        state = load_file(local(finished.folder.weights(arm)))
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        assert record["parameters"] == sum(v.numel() for key, v in state.items() if not key.endswith(buffers))
        assert (record["validation"]["n"], record["test"]["n"]) == (80, 200)


def test_the_arms_are_tested_with_the_weights_of_their_best_epoch(finished: Run) -> None:
    for arm in ARMS:
        scores = [row["micro_f1_at_half"] for row in finished.rows if row["phase"] == f"finetune_{arm}"]
        record = finished.result["arms"][arm]
        assert record["best_epoch"] == scores.index(max(scores)) + 1
        assert record["validation"]["micro_f1_at_half"] == max(scores)


def test_predictions_give_the_metrics_of_the_result(finished: Run) -> None:
    table = pd.read_parquet(local(finished.folder.predictions))
    assert list(table.columns) == ["arm", "split", "image", "group", "label", "outputs"]
    parts = split(LISTING, TRIAL.data, TRIAL.seed)
    for arm, part in itertools.product(ARMS, ("validation", "test")):
        rows = table[(table["arm"] == arm) & (table["split"] == part)]
        positions = parts.test if part == "test" else parts.validation
        assert list(rows["image"]) == [LISTING.items[p].path for p in positions]
        assert list(rows["label"]) == [LISTING.items[p].label for p in positions]
        outputs = np.stack(rows["outputs"].tolist())
        assert outputs.dtype == np.float32
        labels = [LISTING.classes.index(label) for label in rows["label"]]
        found = dict(finished.result["arms"][arm][part])
        assert found.pop("loss") == pytest.approx(tiny.published_focal_loss(outputs, labels, np.ones(4)), abs=1e-6)
        assert classification_metrics(torch.from_numpy(outputs), torch.tensor(labels)) == found
    assert table.groupby(["arm", "split"]).size().to_dict() == {
        (arm, part): count for arm in ARMS for part, count in (("test", 200), ("validation", 80))
    }


@pytest.mark.parametrize("arm", ARMS)
def test_kept_arm_loads_by_timm_and_gives_the_stored_outputs(finished: Run, arm: str) -> None:
    """Each file holds its own arm (D5: the published ViT file held the CNN), with its best epoch's weights."""
    path = finished.folder.weights(arm)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    model = timm.create_model(metadata["name"], checkpoint_path=str(path), **json.loads(metadata["arguments"])).eval()
    assert metadata["name"] == {"cnn": tiny.CNN, "vit": tiny.VIT}[arm]
    assert json.loads(metadata["classes"]) == list(LISTING.classes)
    mean, std = (torch.tensor(json.loads(metadata[key])).view(3, 1, 1) for key in ("mean", "std"))
    table = pd.read_parquet(local(finished.folder.predictions))
    rows = table[(table["arm"] == arm) & (table["split"] == "test")]
    items = {item.path: item for item in LISTING.items}
    size = int(metadata["image_size_px"])
    images = np.stack([decode(LISTING, items[path], size).transpose(2, 0, 1) for path in rows["image"]])
    with torch.inference_mode():
        outputs = model((torch.from_numpy(images) / 255 - mean) / std)
    torch.testing.assert_close(outputs, torch.from_numpy(np.stack(rows["outputs"].tolist())), rtol=1e-4, atol=1e-5)


def test_a_finished_trial_yields_its_rows_again_and_changes_nothing(shared: Run) -> None:
    before = files(shared.root)
    again = run(TRIAL, shared.root)
    assert again.rows == [{**row, "reused": True} for row in shared.rows]
    assert files(shared.root) == before


def test_a_trial_that_finds_its_pretraining_gives_the_same_numbers(shared: Run, tmp_path: Path) -> None:
    other = tiny.trial({"data.label_fraction": 0.2, "finetune.learning_rate": 1e-3})
    alone = run(other, tmp_path / "alone")
    found = run(other, shared.root)
    assert [row["reused"] for row in found.rows] == [True, True, False, False, False, False]
    assert found.result["stage"] == {**alone.result["stage"], "reused": True}
    assert found.numbers() == alone.numbers()
    assert found.numbers() != shared.numbers()
    assert found.rows[:2] == [{**row, "reused": True} for row in shared.rows[:2]]
    assert len(list(shared.root.glob("stages/*"))) == 1


def test_a_longer_pretraining_is_another_end_of_the_same_stage(shared: Run, tmp_path: Path) -> None:
    """Only the pretraining is longer (D25: a reproduction's epoch study changed finetuning too)."""
    longer = tiny.trial({"pretrain.epochs": 3})
    found = run(longer, shared.root)
    assert [(row["phase"], row["reused"]) for row in found.rows] == [
        *[("pretrain", True)] * 2,
        ("pretrain", False),
        *[("finetune_cnn", False)] * 2,
        *[("finetune_vit", False)] * 2,
    ]
    assert found.result["stage"]["digest"] == shared.result["stage"]["digest"]
    assert found.numbers() == run(longer, tmp_path / "alone").numbers()
    assert found.numbers()["weights"] != shared.numbers()["weights"]
    assert [row["epochs"] for row in run(TRIAL, shared.root).rows] == [2] * 6


def test_same_numbers_whatever_ran_before(finished: Run, tmp_path: Path) -> None:
    run(tiny.trial({"seed": 4, "data.label_fraction": 0.05}), tmp_path / "between")
    torch.manual_seed(123)
    np.random.seed(5)
    torch.rand(17)
    assert run(TRIAL, tmp_path / "again").numbers() == finished.numbers()


def test_same_numbers_for_any_number_of_workers(finished: Run, tmp_path: Path) -> None:
    assert run(TRIAL, tmp_path, workers=2).numbers() == finished.numbers()


def test_another_seed_is_another_replica(finished: Run, tmp_path: Path) -> None:
    """The published code had one seed (D26): here a seed changes labels, start, order and views, not validation."""
    other = run(tiny.trial({"seed": 1}), tmp_path)
    ours, theirs = finished.numbers(), other.numbers()
    assert all(ours["weights"][arm] != theirs["weights"][arm] for arm in ARMS)
    assert all(a["loss"] != b["loss"] for a, b in zip(finished.rows, other.rows, strict=True))
    assert other.result["seed"] == 1
    first, second = (pd.read_parquet(local(one.folder.predictions)) for one in (finished, other))
    assert first["image"].equals(second["image"])


def test_control_has_no_pretraining(finished: Run, tmp_path: Path) -> None:
    found = run(control(TRIAL), tmp_path)
    assert [row["phase"] for row in found.rows] == ["finetune_cnn"] * 2 + ["finetune_vit"] * 2
    assert found.result["stage"] is None and found.result["collapsed"] is False
    assert found.result["images"] == {"pretrain": 0, "labelled": 32, "validation": 80, "test": 200}
    assert found.result["seconds"]["pretrain"] == 0
    assert not (tmp_path / "stages").exists()
    assert found.rows[0]["loss"] != finished.rows[2]["loss"]


def test_the_label_fraction_leaves_pretraining_alone(tmp_path: Path) -> None:
    """D14, from end to end: the same pretraining, on all its images, whatever is labelled."""
    few, many = (tiny.trial({"data.label_fraction": f, "data.pretrain_fraction": 0.2}) for f in (0.01, 1.0))
    first, second = run(few, tmp_path), run(many, tmp_path)
    assert (first.result["images"]["labelled"], second.result["images"]["labelled"]) == (4, 320)
    assert first.result["images"]["pretrain"] == second.result["images"]["pretrain"] == 64
    assert second.result["stage"] == {**first.result["stage"], "reused": True}


def test_class_weights_are_recorded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rare classes weigh more (D4), each by its own name (D15), from the labelled images alone."""
    kept = [i for i in LISTING.items if i.label != "notumor" or i.path[-1] not in "02468"]
    uneven = replace(LISTING, items=tuple(kept), fingerprint="0" * 64)
    monkeypatch.setattr(trial_module, "list_images", lambda data, progress: uneven)
    results, described = Results(tmp_path), control(TRIAL)
    list(run_trial(described, results, RunOptions()))
    found = results.trial(trial_digest(described, read_inputs(described, uneven))).result()
    assert found is not None
    assert found["class_weights"] == {
        label: pytest.approx(28 / (4 * (4 if label == "notumor" else 8))) for label in LISTING.classes
    }


def test_weights_are_kept_when_asked(tmp_path: Path) -> None:
    found = run(TRIAL, tmp_path, keep_weights="none")
    assert not list(tmp_path.glob("trials/*/*.safetensors"))
    assert found.folder.predictions.exists()


@pytest.fixture
def collapsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapse, "COLLAPSED_BELOW", 10.0)


def failed(trial: Trial, root: Path, error: type[Exception], **options: Any) -> TrialFolder:
    with pytest.raises(error):
        run(trial, root, **{"max_failures": 0, **options})
    return Run(trial=trial, root=root, rows=[]).folder


def test_collapse_stops_the_trial_when_asked(collapsing: None, tmp_path: Path) -> None:
    folder = failed(TRIAL, tmp_path, Collapsed, on_collapse="stop")
    assert folder.status() == "collapsed"
    failure = folder.failure()
    assert failure is not None and failure["type"] == "Collapsed" and failure["attempts"] == 1
    assert "nearly constant after epoch 1" in failure["message"]
    assert folder.result() is None and not list(tmp_path.glob("stages/*/epoch-*"))


def test_collapse_is_otherwise_recorded(collapsing: None, tmp_path: Path) -> None:
    found = run(TRIAL, tmp_path)
    assert found.result["collapsed"] is True
    assert found.folder.log.read_text().count("nearly constant after epoch") == 2


def test_an_exception_is_recorded_and_the_next_run_succeeds(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no luck today")

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "focal_loss", broken)
        for attempts in (1, 2):
            folder = failed(TRIAL, tmp_path, RuntimeError)
            failure = folder.failure()
            assert failure is not None
            assert (failure["type"], failure["message"]) == ("RuntimeError", "no luck today")
            assert failure["attempts"] == attempts
            assert failure["log"] == str(folder.log)
            assert "in broken" in failure["traceback"] and failure["traceback"] in folder.log.read_text()
            assert folder.status() == "failed"
    after = run(TRIAL, tmp_path)
    assert after.folder.status() == "done" and after.folder.failure() is None
    assert after.numbers() == finished.numbers()


@pytest.mark.parametrize("field", ["pretrain.learning_rate", "finetune.learning_rate"])
def test_divergence_is_recorded(field: str, tmp_path: Path) -> None:
    folder = failed(tiny.trial({field: 1e30, "pretrain.embedding_dim": 1000}), tmp_path, DivergedError)
    failure = folder.failure()
    assert failure is not None and failure["type"] == "DivergedError"
    assert "try a lower learning rate" in failure["message"]


def test_a_configuration_that_does_not_fit_the_data(tmp_path: Path) -> None:
    folder = failed(tiny.trial({"pretrain.batch_size": 33}), tmp_path, UsageError)
    failure = folder.failure()
    assert failure is not None and failure["type"] == "UsageError" and "32 pretraining images" in failure["message"]


@pytest.mark.parametrize(
    ("change", "what"), [({"data": "0" * 64}, "images"), ({"vit": "sha256:0"}, "weights of the vit")]
)
def test_a_machine_that_sees_other_inputs_trains_nothing(change: Mapping[str, str], what: str, tmp_path: Path) -> None:
    expected = replace(read_inputs(TRIAL, LISTING), **change)
    results = Results(tmp_path)
    with pytest.raises(UsageError, match=f"This machine sees other {what} than the driver"):
        list(run_trial(TRIAL, results, RunOptions(), expected))
    failure = results.trial(trial_digest(TRIAL, expected)).failure()  # where the driver looks for it
    assert failure is not None and failure["type"] == "UsageError"
    assert not list(tmp_path.glob("stages/*")) and not list(tmp_path.glob("trials/*/epochs"))
    assert next(iter(run_trial(TRIAL, results, RunOptions(), read_inputs(TRIAL, LISTING))))["epoch"] == 1


def test_an_interrupted_trial_is_not_finished_and_leaves_no_handlers(finished: Run, tmp_path: Path) -> None:
    logger = logging.getLogger("cass_tune")
    before = (list(logger.handlers), logger.propagate)
    rows = run_trial(TRIAL, Results(tmp_path), RunOptions())
    assert isinstance(rows, Iterator)
    for _ in range(3):
        next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert (logger.handlers, logger.propagate) == before
    folder = Run(trial=TRIAL, root=tmp_path, rows=[]).folder
    assert folder.status() == "missing"
    after = run(TRIAL, tmp_path)
    assert [row["reused"] for row in after.rows] == [True, True, False, False, False, False]
    assert after.numbers() == finished.numbers()
    stored = [(row["phase"], row["epoch"]) for row in after.folder.rows()]
    assert stored == [(f"finetune_{arm}", epoch) for arm in ARMS for epoch in (1, 2)]


def test_warnings_about_the_data_are_logged(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    found = run(control(tiny.trial({"data.label_fraction": 0.001})), tmp_path)
    assert "took one of: glioma, meningioma, notumor, pituitary" in found.folder.log.read_text()
    assert not recwarn.list
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"]


def test_a_failure_of_another_process_is_not_tried_again(tmp_path: Path) -> None:
    """Of several drivers one runs a trial; the others take its failure over. A known failure is tried again."""
    folder = _folder(tmp_path)
    folder.write_config({})
    folder.fail("RuntimeError", "no luck", "Traceback")
    failure = folder.failure()
    assert failure is not None
    for known in (None, "another"):
        with pytest.raises(FailedElsewhere, match="RuntimeError: no luck"):
            list(run_trial(tiny.BASE, Results(tmp_path), RunOptions(), known_failure=known))
        assert folder.failure() == failure and folder.attempts() == []
    list(run_trial(tiny.BASE, Results(tmp_path), RunOptions(), known_failure=failure["id"]))
    assert folder.status() == "done"


def _folder(root: Path) -> TrialFolder:
    return Results(root).trial(trial_digest(tiny.BASE, read_inputs(tiny.BASE, phantom_listing())))
