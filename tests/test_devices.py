"""What `--precision auto` becomes, which precisions a device does not have, and how GPUs are found out about."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cass_tune import checks, devices
from cass_tune.config import Trial
from cass_tune.devices import Gpu, auto, auto_line, check_precisions, gpus_here
from cass_tune.errors import UsageError
from cass_tune.results import Results
from cass_tune.trial import RunOptions, run_trial
from tests import small, tiny

P100, V100, T4 = Gpu("Tesla P100", (6, 0)), Gpu("Tesla V100", (7, 0)), Gpu("Tesla T4", (7, 5))
A100, H200 = Gpu("NVIDIA A100", (8, 0)), Gpu("NVIDIA H200", (9, 0))
PATHS = ("pretrain.precision", "finetune.precision")


@pytest.mark.parametrize(
    ("gpus", "precision", "why"),
    [
        ([], "fp32", "no GPU for the trials"),
        ([H200], "bf16", "on NVIDIA H200 (compute capability 9.0)"),
        ([A100, H200], "bf16", "on NVIDIA A100 (compute capability 8.0), NVIDIA H200"),
        ([H200, T4], "fp16", "because Tesla T4 (compute capability 7.5) has no bf16"),
        ([V100], "fp16", "because Tesla V100 (compute capability 7.0) has no bf16"),
        ([H200, P100], "fp32", "because Tesla P100 (compute capability 6.0) has no bf16 and Tesla P100"),
        ([T4, P100], "fp32", "has no bf16 and Tesla P100 (compute capability 6.0) has no fp16"),
    ],
)
def test_auto_is_what_all_gpus_have(gpus: list[Gpu], precision: str, why: str) -> None:
    assert auto(gpus) == precision
    assert auto_line(gpus).startswith(f"precision: {precision}, ") and why in auto_line(gpus)


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    ("precision", "old", "least", "instead"),
    [("bf16", T4, "8.0", "fp16"), ("tf32", V100, "8.0", "fp16"), ("fp16", P100, "7.0", "fp32")],
)
def test_a_gpu_too_old_is_named(phase: str, precision: str, old: Gpu, least: str, instead: str) -> None:
    trial = tiny.trial({f"{phase}.precision": precision})
    with pytest.raises(UsageError) as caught:
        check_precisions([trial, tiny.BASE, trial], [A100, old])
    (text,) = caught.value.problems
    assert f"--{phase}.precision {precision} needs a GPU of compute capability {least} or newer" in text
    assert f"but there is {old.name}" in text and f"Give {instead}" in text
    check_precisions([trial], [A100, H200])


def test_a_control_has_no_precision_of_pretraining() -> None:
    check_precisions([tiny.trial({"pretrain.precision": "bf16", "pretrain.method": "none"})], [P100])


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"pretrain.precision": "tf32"}, "--pretrain.precision tf32 is a format of GPUs"),
        ({"finetune.precision": "bf16", "data.image_size_px": 16}, "of at least 17 px, but got 16"),
        ({"pretrain.precision": "bf16", "pretrain.method": "dino"}, "of at least 17 px, but got 16"),
        ({"pretrain.precision": "bf16", "pretrain.method": "dino", "dino.local_crops": 0}, None),
        ({"finetune.precision": "bf16", "pretrain.method": "dino"}, None),
        ({"pretrain.precision": "bf16", "finetune.precision": "fp16"}, None),
    ],
)
def test_what_a_cpu_cannot_do_is_refused(fields: dict[str, Any], problem: str | None) -> None:
    if problem is None:
        check_precisions([tiny.trial(fields)], [])
        return
    with pytest.raises(UsageError) as caught:
        check_precisions([tiny.trial(fields)], [])
    assert problem in str(caught.value)


# Which GPUs there are


@pytest.fixture
def _ask_anew() -> Iterator[None]:
    gpus_here.cache_clear()
    yield
    gpus_here.cache_clear()


def test_torch_is_asked_in_a_process_of_its_own(_ask_anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers = [["NVIDIA H200", [9, 0], 140.0], ["NVIDIA A100", [8, 0], 79.5], ["NVIDIA H200", [9, 0], 140.0]]

    def run(words: list[str], **options: Any) -> Any:
        asked.extend(words)
        return subprocess.CompletedProcess(words, 0, stdout=json.dumps(answers), stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    assert gpus_here() == (replace(A100, total_gib=79.5), replace(H200, total_gib=140.0)) == gpus_here()
    assert asked == [sys.executable, "-c", devices.ASK]


def test_the_real_answer_is_torchs_own(_ask_anew: None) -> None:
    numbers = range(torch.cuda.device_count())
    found = {(torch.cuda.get_device_name(n), torch.cuda.get_device_capability(n)) for n in numbers}
    assert {(gpu.name, gpu.capability) for gpu in gpus_here()} == found


def test_a_torch_that_cannot_tell_is_an_error(_ask_anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "ASK", "raise SystemExit('no driver')")
    with pytest.raises(UsageError, match="which GPUs there are: no driver Mend that, or give --device cpu"):
        gpus_here()


# From the command line


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """GPUs that a driver finds."""
    found: list[Gpu] = []
    monkeypatch.setattr(checks, "gpus_here", lambda: tuple(found))
    return found


def planned(results: Path, *options: str) -> tuple[Any, ...]:
    """Return precisions and command of a plan that is written and not run: its one trial is done by other hands."""
    study = Results(results).study("small", "phantom-demo")
    plan = study.plans()[-1]
    (found,) = {tuple(t["config"][s]["precision"] for s in ("pretrain", "finetune")) for t in plan["trials"]}
    return (*found, plan["command"])


LINE = ("--local", "--pretrain.method", "none", "--finetune.epochs", "1", "--probes", "none", "--keep-weights", "none")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("fp32", "fp32")),
        (["--precision", "bf16"], ("bf16", "bf16")),
        (["--precision", "bf16", "--finetune.precision", "fp32"], ("bf16", "fp32")),
        (["--precision", "auto"], ("fp32", "fp32")),
    ],
)
def test_the_short_form_is_that_of_both_phases(
    options: list[str], expected: tuple[str, str], tmp_path: Path, gpus: list[Gpu]
) -> None:
    assert small.run(*LINE, *options, results=tmp_path) == 0
    *found, command = planned(tmp_path)
    assert tuple(found) == expected
    assert "auto" not in command
    assert all((value == "bf16") == (f"--{path} bf16" in command) for path, value in zip(PATHS, found, strict=True))


@pytest.mark.parametrize(
    ("there", "options", "precision"),
    [
        ([H200], [], "bf16"),
        ([H200, T4], [], "fp16"),
        ([], [], "fp32"),
        ([H200], ["--device", "cpu"], "fp32"),
    ],
)
def test_auto_is_settled_before_identities_are_computed(
    there: list[Gpu],
    options: list[str],
    precision: str,
    tmp_path: Path,
    gpus: list[Gpu],
    capsys: pytest.CaptureFixture[str],
) -> None:
    gpus.extend(there)
    line = ["--dry-run", "--pretrain.learning-rate", "0.001", *options]
    assert small.run(*line, "--precision", "auto", results=tmp_path) == 0
    out = capsys.readouterr().out
    assert f"precision: {precision}, " in out and "finished: none" in out


def test_a_dry_run_does_not_ask_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.run("--dry-run", "--address", "10.0.0.1:1", "--precision", "auto", results=tmp_path) == 2
    assert "a dry run does not ask the cluster at --address" in capsys.readouterr().err


def test_an_axis_of_precisions_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = small.Study(name="small", title="t", axes={"pretrain.precision": ("fp32", "bf16")})
    assert small.run("--dry-run", "--precision", "fp16", study=study, results=tmp_path) == 0
    out = capsys.readouterr().out
    assert "precision=fp32 seed=0" in out and "precision=bf16 seed=0" in out


def test_a_precision_that_is_not_there_stops_the_study_before_it_starts(
    tmp_path: Path, gpus: list[Gpu], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.append(T4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert small.run("--local", "--precision", "bf16", results=tmp_path) == 2
    error = capsys.readouterr().err
    assert all(f"--{phase}.precision bf16 needs a GPU" in error for phase in ("pretrain", "finetune"))
    assert not (tmp_path / "trials").exists()


def test_a_trial_on_a_device_that_cannot_says_so(tmp_path: Path) -> None:
    """A node that joins later, for example."""
    trial: Trial = tiny.trial({"finetune.precision": "tf32"})
    with pytest.raises(UsageError, match="tf32 is a format of GPUs"):
        list(run_trial(trial, Results(tmp_path), RunOptions()))


def test_without_another_precision_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> tuple[Gpu, ...]:
        raise AssertionError

    monkeypatch.setattr(checks, "gpus_here", asked)
    assert small.run(*LINE, results=tmp_path) == 0
