"""Trials in real Ray on this machine."""

from __future__ import annotations

import csv
import importlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cass_tune.config import Data, Finetune, Pretrain, Trial, to_json
from cass_tune.errors import UsageError
from cass_tune.notices import Stop
from cass_tune.results import Results, TrialFolder
from cass_tune.runner import check_resources, cluster_gpus, trainable
from cass_tune.runner.nodes import version_problems
from cass_tune.training.rows import COLUMNS, epoch_row
from tests import small

pytestmark = pytest.mark.ray
REPOSITORY = Path(__file__).parents[1]


def test_a_failing_trial_is_shown_and_the_others_go_on(
    one_cpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = small.run("--pretrain.learning-rate", "0.001", "1e30", results=tmp_path)
    out = capsys.readouterr().out
    assert code == 1
    assert out.count("left     learning_rate=1e+30 seed=0  an error") == 1, "an error that returns at once is final"
    digests = small.wanted(tmp_path)
    results = Results(tmp_path)
    states = {name: results.trial(digest).status() for name, digest in digests.items()}
    assert states == {
        "learning_rate=0.001 seed=0": "done",
        "learning_rate=1e+30 seed=0": "failed",
        "none seed=0": "done",
    }
    folder = results.trial(digests["learning_rate=1e+30 seed=0"])
    failure = folder.failure()
    assert failure is not None
    assert failure["type"] == "DivergedError"
    assert "FAILED   learning_rate=1e+30 seed=0  DivergedError: the loss is nan" in out
    assert str(folder.log) in out
    assert "DivergedError" in folder.log.read_text()

    rows_before = {name: results.trial(digest).rows() for name, digest in digests.items()}
    assert small.run("--pretrain.learning-rate", "0.001", "1e30", "--redo", "none", results=tmp_path) == 1
    assert "to run: 0" in capsys.readouterr().out
    assert small.run("--pretrain.learning-rate", "0.001", "1e30", results=tmp_path) == 1
    assert "to run: 1" in capsys.readouterr().out
    assert {name: results.trial(digest).rows() for name, digest in digests.items()} == rows_before
    failure = folder.failure()
    assert failure is not None
    assert failure["attempts"] == 4
    ends = [(attempt["run"], attempt["ended"]) for attempt in folder.attempts()]
    assert [end["how"] for _, end in ends] == ["failed"] * 4
    assert [run for run, _ in ends] == [ends[0][0]] * 2 + [ends[2][0]] * 2 and ends[0][0] != ends[2][0]
    assert all(end["position"] == failure["position"] for _, end in ends)


def test_rays_own_records_have_every_column_from_the_first_row_on_and_may_be_damaged(
    one_cpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk Ray leaves empty files, and Ray Tune's last step, which reads them, raises."""

    def damaged(analysis: object) -> None:
        raise EOFError("Ran out of input")

    monkeypatch.setattr("ray.tune.impl.tuner_internal.ResultGrid", damaged)
    assert small.run("--pretrain.learning-rate", "0.001", results=tmp_path) == 0
    digest = small.wanted(tmp_path)["seed=0"]
    assert Results(tmp_path).trial(digest).is_finished()
    (folder,) = (tmp_path / "ray" / "small").glob(f"*/{digest[:12]}")
    rows = small.json_lines(folder / "result.json")
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        (phase, epoch) for phase in ("pretrain", "finetune_cnn", "finetune_vit") for epoch in (1, 2)
    ]
    assert all(set(COLUMNS) <= set(row) for row in rows)
    assert all(math.isnan(row["macro_f1"]) for row in rows[:2] if isinstance(row["macro_f1"], float))
    with (folder / "progress.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert set(COLUMNS) <= set(table[0])
    assert [row["phase"] for row in table] == [row["phase"] for row in rows]


def test_the_trainable_runs_in_a_bare_tuner_and_agrees_with_the_records(one_cpu: None, tmp_path: Path) -> None:
    from ray import tune

    trial = Trial(
        data=Data(image_size_px=32, label_fraction=0.05, pretrain_fraction=0.1),
        pretrain=Pretrain(cnn="test_resnet", vit="test_vit", weights="random", epochs=1, batch_size=8),
        finetune=Finetune(epochs=2),
    )
    trials = [to_json(replace(trial, seed=seed)) for seed in (0, 1)]
    space = {"run": tune.grid_search([{"trial": t} for t in trials]), "results": str(tmp_path / "results")}
    run_config = tune.RunConfig(storage_path=str(tmp_path / "ray"), verbose=0)
    grid = tune.Tuner(tune.with_resources(trainable, {"cpu": 1}), param_space=space, run_config=run_config).fit()
    assert not grid.errors
    folders = [p.parent for p in (tmp_path / "results" / "trials").glob("*/result.json")]
    stored = {json.loads((f / "result.json").read_text())["seed"]: f for f in folders}
    assert set(stored) == {0, 1}
    for result in grid:
        assert result.config is not None
        assert result.metrics is not None
        (epochs,) = (stored[result.config["run"]["trial"]["seed"]] / "epochs").glob("*.jsonl")
        assert result.metrics["macro_f1"] == small.json_lines(epochs)[-1]["macro_f1"]


def test_asking_for_more_than_any_machine_has(one_cpu: None) -> None:
    with pytest.raises(UsageError, match=r"No machine has --cpus-per-trial 500 .* Ask for less"):
        check_resources(500, cluster_gpus())


def test_the_largest_machines_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(64.0, 0.0), (8.0, 1.0), (4.0, 1.0), (8.0, 0.0)]
    nodes = [{"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus}} for cpus, gpus in sizes]
    monkeypatch.setattr("ray.nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}])
    check_resources(8, 1)
    check_resources(64, 0)
    with pytest.raises(UsageError, match=r"the largest has 64 CPUs and 0 GPUs or 8 CPUs and 1 GPUs\. Ask"):
        check_resources(16, 1)


ADDRESS = """
import ray
from cass_tune.runner import ray_session
with ray_session(None):
    print(ray.get_runtime_context().gcs_address, flush=True)
    input()
"""


def test_ray_listens_on_loopback_alone() -> None:
    own = subprocess.Popen(  # Ray reads the setting when it is first imported: a process of its own
        [sys.executable, "-c", ADDRESS], cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert own.stdout is not None
    try:
        _knock_at(own.stdout.readline().strip())
    finally:
        own.communicate("\n", timeout=60)


def _knock_at(address: str) -> None:
    host, _, port = address.rpartition(":")
    assert host == "127.0.0.1"
    with socket.create_connection((host, int(port)), timeout=5):
        pass
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent; the kernel picks the address it would use
            own = probe.getsockname()[0]
        except OSError:
            own = "127.0.0.1"
    if own != "127.0.0.1":
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((own, int(port)), timeout=5)


def test_a_node_with_other_versions_is_named() -> None:
    here = {"python": "3.11.7", "torch": "2.15.0"}
    (problem,) = version_problems(here, {"10.0.0.1 ab12cd": here, "10.0.0.2 ef34ab": {**here, "torch": "2.14.0"}})
    assert problem.startswith("Node 10.0.0.2 ef34ab has other versions: torch 2.14.0 (driver: 2.15.0).")


def _start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    code = "from tests import small; import sys; sys.exit(small.run(*sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, "--results", str(tmp_path), *arguments],
        cwd=REPOSITORY,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _wait_for(
    pattern: str, tmp_path: Path, study: subprocess.Popen[str] | None = None, deadline_s: float = 120
) -> None:
    """Wait until a running study, in a process of its own or in this one, has written a file that matches."""
    end = time.monotonic() + deadline_s
    while not list(tmp_path.glob(pattern)):
        assert study is None or study.poll() is None, study.communicate()
        assert time.monotonic() < end, f"there is no {pattern} in time"
        time.sleep(0.1)


def _trials(tmp_path: Path) -> dict[str, TrialFolder]:
    results = Results(tmp_path)
    return {name: results.trial(digest) for name, digest in small.wanted(tmp_path).items()}


def _ends(folder: TrialFolder) -> list[str | None]:
    """Return how each attempt ended, None of those whose process died."""
    return [attempt["ended"] and attempt["ended"]["how"] for attempt in folder.attempts()]


def test_a_trial_that_must_leave_does_not_wait_for_a_driver_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("cass_tune.runner.trainable")
    answers, stop = threading.Event(), Stop()
    monkeypatch.setattr(module, "PROCESS", stop)
    monkeypatch.setattr(module, "REPORT_S", 0.5)
    monkeypatch.setattr(module.tune, "report", lambda row: answers.wait(60))
    threading.Timer(0.5, stop.request, ["SIGTERM came"]).start()
    started = time.monotonic()
    module._report(epoch_row(phase="pretrain"))
    assert 0.5 <= time.monotonic() - started < 30
    answers.set()


def test_what_ray_tune_raises_reaches_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("cass_tune.runner.trainable")

    def ended(row: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(module.tune, "report", ended)
    with pytest.raises(SystemExit):
        module._report(epoch_row(phase="pretrain"))


def test_a_trial_whose_process_is_killed_goes_on_from_its_checkpoint(
    one_cpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def kill() -> None:
        _wait_for("stages/*/checkpoints/*.json", tmp_path)
        (attempt,) = _trials(tmp_path)["seed=0"].attempts()
        os.kill(attempt["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    line = ["--pretrain.learning-rate", "0.001", "--pretrain.epochs", "40", "--checkpoint-every-minutes", "0.001"]
    code = small.run(*line, results=tmp_path)
    killer.join()
    out = capsys.readouterr().out
    assert code == 0, out
    trials = _trials(tmp_path)
    assert {name: trial.status() for name, trial in trials.items()} == {"seed=0": "done", "none seed=0": "done"}
    assert "left     seed=0  its process or machine was lost" in out
    assert "FAILED" not in out
    assert _ends(trials["seed=0"]) == [None, "finished"] and _ends(trials["none seed=0"]) == ["finished"]
    position = trials["seed=0"].attempts()[-1]["resumed"]
    assert position is not None and (position["epoch"], position["batch"]) > (0, 0)


def test_an_interrupted_study_continues_with_what_is_missing(one_cpu: None, tmp_path: Path) -> None:
    """SIGTERM; SIGINT is among the faults of `tests.faults`."""
    line = ["--pretrain.learning-rate", "0.001", "--finetune.epochs", "100"]  # seconds longer than it takes to stop
    study = _start(tmp_path, *line)
    _wait_for("stages/*/epochs/*.jsonl", tmp_path, study)
    finetuning = f"trials/{_trials(tmp_path)['seed=0'].id}/epochs/*.jsonl"
    _wait_for(finetuning, tmp_path, study)  # after the probes, which begin anew
    study.send_signal(signal.SIGTERM)
    out, _ = study.communicate(timeout=120)
    assert study.returncode == 143, out
    assert "stopping (terminated)" in out
    assert "the same command goes on from" in out
    trials = _trials(tmp_path)
    assert trials["seed=0"].status() == "missing" and _ends(trials["seed=0"]) == ["interrupted"]
    assert small.run(*line, results=tmp_path) == 0
    assert {trial.status() for trial in trials.values()} == {"done"}
    assert _ends(trials["seed=0"]) == ["interrupted", "finished"]
    assert trials["seed=0"].attempts()[-1]["resumed"] is not None
