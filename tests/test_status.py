"""What a study is doing, from its files alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cass_tune.config import Trial, control, to_json, with_field
from cass_tune.errors import UsageError
from cass_tune.leases import HOLDER_FILE, Holder, Lease
from cass_tune.pace import Pace, images_passed
from cass_tune.results import Results, StudyFolder
from cass_tune.status import status_lines
from cass_tune.storage import write_json
from tests import small, tiny

COUNTS = {"train": {"a": 200, "b": 200}, "test": {"a": 50, "b": 50}}
TRIALS = {
    "batch_size=8": tiny.trial({"pretrain.batch_size": 8, "pretrain.epochs": 4, "finetune.epochs": 2}),
    "batch_size=16": tiny.trial({"pretrain.batch_size": 16, "pretrain.epochs": 4, "finetune.epochs": 2}),
}
TRIALS["none"] = control(TRIALS["batch_size=8"])


def digest(name: str, kind: str = "trial") -> str:
    return hashlib.sha256(f"{kind}-{name}".encode()).hexdigest()


def segment(name: str, end: int) -> dict[str, Any]:
    return {"stage": digest(name, "stage"), "start": 0, "end": end}


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    """Three trials that were asked for, and nothing else."""
    folder = Results(tmp_path / "results").study("batch_ablation", "phantom-demo")
    wanted = [
        {
            "digest": digest(name),
            "name": name,
            "segments": [] if name == "none" else [segment(name, trial.pretrain.epochs)],
            "config": to_json(trial),
        }
        for name, trial in TRIALS.items()
    ]
    folder.write_plan({"study": "batch_ablation", "demo": True, "data": {"counts": COUNTS}, "trials": wanted})
    return folder


def rows(phase: str, epochs: int, seconds: float = 2.0) -> Iterator[dict[str, Any]]:
    for epoch in range(1, epochs + 1):
        yield {"phase": phase, "epoch": epoch, "epochs": 99, "seconds": seconds, "images_per_second": 123.4}


def write_rows(folder: Any, phase: str, epochs: int, seconds: float = 2.0) -> None:
    with folder.row_file("a1") as lines:
        for row in rows(phase, epochs, seconds):
            lines.append(json.dumps(row))


def line_of(study: StudyFolder, name: str) -> str:
    (found,) = [line for line in status_lines(study)[1:] if f"  {name}" in line]
    return found


def test_memory_and_utilisation_of_the_last_epoch(study: StudyFolder) -> None:
    folder = study.results.trial(digest("none"))
    row = {**next(rows("finetune_cnn", 1)), "peak_memory_gib": 3.21, "utilisation": 0.934}
    with folder.row_file("a1") as lines:
        lines.append(json.dumps(row))
    folder.begin("a1", "run")
    assert line_of(study, "none").endswith("finetune_cnn 1/2, 123 images/s, 3.2 GiB, 93% busy")


def test_before_anything_ran(study: StudyFolder) -> None:
    first, *lines = status_lines(study)
    assert first == f"DEMO batch_ablation ({study.path}): 3 trials: 3 missing"
    assert [line.split() for line in lines] == [[digest(name)[:12], "missing", name] for name in TRIALS]


def test_a_running_trial_shows_where_how_fast_and_how_long(study: StudyFolder) -> None:
    folder, stage = study.results.trial(digest("batch_size=8")), study.results.stage(digest("batch_size=8", "stage"))
    write_rows(stage, "pretrain", 3, seconds=2.0)
    with Lease.acquire(folder.path, "a1"), Lease.acquire(stage.path, "a1"):
        first, *_ = status_lines(study)
        line = line_of(study, "batch_size=8")
        waiting = line_of(study, "batch_size=16")
    assert "3 trials: 1 running, 2 missing; about " in first
    assert "  running    batch_size=8  " in line
    assert ", process " in line and ": pretrain 3/4, 123 images/s, about " in line
    assert waiting.split()[1] == "missing"


def test_the_time_left_counts_a_shared_pretraining_once(tmp_path: Path) -> None:
    labels = [with_field(TRIALS["batch_size=8"], "data.label_fraction", share) for share in (0.1, 1.0)]
    folder = Results(tmp_path).study("labels", "phantom-demo")
    wanted = [
        {"digest": digest(f"{n}"), "name": f"labels-{n}", "segments": [segment("both", 4)], "config": to_json(trial)}
        for n, trial in enumerate(labels)
    ]
    folder.write_plan({"study": "labels", "demo": False, "data": {"counts": COUNTS}, "trials": wanted})
    stage = folder.results.stage(digest("both", "stage"))
    write_rows(stage, "pretrain", 2, seconds=100.0)
    with Lease.acquire(folder.results.trial(digest("0")).path, "a1"), Lease.acquire(stage.path, "a1"):
        first, *_ = status_lines(folder)
        assert "1 running, 1 waiting" in first
        assert f"waiting    labels-1  for its pretraining, which {_here(stage)} computes" in line_of(folder, "labels-1")
    per_image = 100.0 / images_passed(wanted[0]["config"], COUNTS, "pretrain")
    finetuning = [2 * 2 * images_passed(w["config"], COUNTS, "finetune_cnn") * per_image for w in wanted]
    seconds = 2 * 100.0 + sum(finetuning)
    assert first.endswith(f"about {round(seconds) // 60} min {round(seconds) % 60:02d} s left")


def test_patience_makes_the_time_left_an_upper_bound(tmp_path: Path) -> None:
    """An arm that it ended has nothing left; the next one may take all its epochs."""
    trial = with_field(with_field(TRIALS["none"], "finetune.epochs", 50), "finetune.patience", 5)
    folder = Results(tmp_path).study("labels", "phantom-demo")
    wanted = {"digest": digest("0"), "name": "none", "segments": [], "config": to_json(trial)}
    folder.write_plan({"study": "labels", "demo": False, "data": {"counts": COUNTS}, "trials": [wanted]})
    rows_of = folder.results.trial(digest("0"))
    for phase, epochs in (("finetune_cnn", 8), ("finetune_vit", 10)):
        with rows_of.row_file(phase) as lines:
            for row in rows(phase, epochs):
                lines.append(json.dumps(row))
    with Lease.acquire(rows_of.path, "a1"):
        assert status_lines(folder)[0].endswith("; at most about 1 min 20 s left"), "40 epochs of the ViT, 2 s each"
        assert line_of(folder, "none").endswith("finetune_vit 10/50, 123 images/s, at most about 1 min 20 s left")


def _here(folder: Any) -> str:
    return Holder.this_process("a1").describe()


def test_a_trial_that_left_shows_how_far_it_was(study: StudyFolder) -> None:
    folder = study.results.trial(digest("none"))
    folder.begin("a1", "run")
    write_rows(folder, "finetune_cnn", 1)
    folder.ended("a1", "interrupted")
    assert line_of(study, "none").endswith("missing    none  interrupted after finetune_cnn 1/2, 123 images/s")


def test_a_holder_that_is_silent_is_told(study: StudyFolder) -> None:
    folder = study.results.trial(digest("none"))
    record = Holder.this_process("a1").record()
    silent = datetime.now(UTC) - timedelta(minutes=5)
    record |= {"host": "far", "machine": "far/1/2", "heartbeat": silent.isoformat()}
    write_json(folder.path / HOLDER_FILE, record)
    assert ", not heard of for 5 min" in line_of(study, "none") and "  silent     none  far" in line_of(study, "none")
    assert "3 trials: 1 silent, 2 missing" in status_lines(study)[0], "and no time left: nothing is known to run"
    assert status_lines(study)[0].endswith("2 missing")


def test_failed_and_finished_trials(study: StudyFolder) -> None:
    failed, done = (study.results.trial(digest(name)) for name in ("batch_size=8", "batch_size=16"))
    failed.fail("RuntimeError", "no luck\nmore", "Traceback")
    arms = {arm: {"test": {"macro_f1": 0.5}} for arm in ("cnn", "vit")}
    write_json(done.path / "result.json", {"arms": arms})
    assert "3 trials: 1 failed, 1 done, 1 missing" in status_lines(study)[0]
    assert "RuntimeError: no luck  (log: " in line_of(study, "batch_size=8")
    assert line_of(study, "batch_size=16").endswith("macro-F1 cnn 0.500, vit 0.500")


def test_pace_prefers_trials_alike() -> None:
    pace = Pace()
    small_batch, large_batch = (to_json(TRIALS[name]) for name in ("batch_size=8", "batch_size=16"))
    assert pace.seconds(small_batch, COUNTS, "pretrain") is None
    pace.learn(small_batch, COUNTS, rows("pretrain", 2, seconds=3.0))
    assert pace.seconds(small_batch, COUNTS, "pretrain") == 3.0
    assert pace.seconds(large_batch, COUNTS, "pretrain") == pytest.approx(3.0)  # as many images
    pace.learn(large_batch, COUNTS, rows("pretrain", 2, seconds=1.0))
    assert pace.seconds(large_batch, COUNTS, "pretrain") == 1.0
    assert pace.seconds(small_batch, COUNTS, "pretrain") == 3.0


def test_images_passed() -> None:
    config = to_json(Trial())
    assert images_passed(config, COUNTS, "pretrain") == 2 * 320
    assert images_passed(config, {**COUNTS, "val": {"a": 30}}, "finetune_vit") == 400 + 10


def test_nothing_was_asked_for_yet(tmp_path: Path) -> None:
    """A driver that was killed in its first write."""
    folder = Results(tmp_path).study("batch_ablation", "phantom-demo")
    (tmp_path / "batch_ablation" / "phantom-demo" / "plans").mkdir(parents=True)
    with pytest.raises(UsageError, match="Nothing has been asked for"):
        status_lines(folder)


class TestCommandLine:
    """``--status`` among the other options."""

    def test_it_needs_neither_data_nor_weights(
        self, study: StudyFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        from studies.batch_ablation import STUDY

        code = STUDY.main(small.report, ["--status", "--results", str(tmp_path / "results"), "--seeds", "7"])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        assert out.splitlines() == status_lines(study)

    @pytest.mark.parametrize(
        ("options", "code"), [(["--data.name", "brain_mri"], 2), (["--preset", "paper"], 2), (["--preset", "demo"], 0)]
    )
    def test_data_and_preset_choose(
        self, study: StudyFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], code: int
    ) -> None:
        from studies.batch_ablation import STUDY

        assert STUDY.main(small.report, ["--status", "--results", str(tmp_path / "results"), *options]) == code
        assert ("there are: phantom-demo" in capsys.readouterr().err) == (code == 2)

    def test_a_study_that_never_ran(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert small.run("--status", results=tmp_path) == 2
        assert "No study 'small'" in capsys.readouterr().err
