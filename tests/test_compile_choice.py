"""``--compile``: what it sets, what `auto` makes of a measurement, and that it stays what it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from cass_tune import compile_choice, compile_speed
from cass_tune.compile_choice import judge, typical
from cass_tune.compile_speed import CompileSpeed, check_apart, measure_apart
from cass_tune.config import ARMS, Trial, with_field
from cass_tune.errors import UsageError
from cass_tune.fitting import main_phase
from cass_tune.results import Results
from tests import small, tiny, toy_search
from tests.compilers import needs_compiler

FAST = CompileSpeed(plain_s=0.2, compiled_s=0.1, first_s=0.05)
SLOW = CompileSpeed(plain_s=0.2, compiled_s=0.3, first_s=40.0)


@pytest.mark.parametrize(
    ("speed", "is_on", "why"),
    [
        (FAST, True, "a training step takes 0.50 of its time (0.1 s for 0.2 s), and the first one"),
        (FAST, True, "made up for after 1 steps"),
        (CompileSpeed(plain_s=0.2, compiled_s=0.1, first_s=99.0), True, "made up for after 991 steps"),
        (CompileSpeed(plain_s=0.2, compiled_s=0.1, first_s=101.0), False, "steps; at most 1,000 would be worth it"),
        (CompileSpeed(plain_s=0.2, compiled_s=0.195, first_s=0.0), False, "at most 0.95 would be worth it"),
        (SLOW, False, "a training step takes 1.50 of its time"),
    ],
)
def test_what_a_measurement_says(speed: CompileSpeed, is_on: bool, why: str) -> None:
    chosen = judge(speed)
    assert chosen.is_on == is_on and why in chosen.why
    assert str(chosen).startswith(f"compile: {'on' if is_on else 'off'}, because a training step")


def test_the_trial_by_which_is_chosen_depends_on_no_order() -> None:
    cells = [tiny.trial({"pretrain.method": method}) for method in ("none", "dino", "cass", "supervised")]
    cells += [tiny.trial({"pretrain.batch_size": 4})]
    assert {typical(order, main_phase) for order in permutations(cells)} == {cells[-1]}
    assert typical(cells[:1], main_phase) == cells[0]


# Measuring


@needs_compiler
def test_steps_are_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = tiny.trial({"pretrain.method": "none"})
    found = measure_apart(trial, "finetune_vit", device="cpu", threads=1, workers=0, seconds=1.0)
    assert 0 < found.plain_s < 30 and 0 < found.compiled_s < 30
    assert found.first_s > found.compiled_s, "the compiler takes longer than a step"


@needs_compiler
def test_a_network_that_cannot_be_trained_is_said() -> None:
    trial = tiny.trial({"pretrain.vit": "no_such_network"})
    with pytest.raises(UsageError, match="no_such_network"):
        measure_apart(trial, "finetune_vit", device="cpu", threads=1, workers=0)


@needs_compiler
def test_a_network_without_blocks_is_not_measured() -> None:
    trial = tiny.trial({"pretrain.cnn": "inception_v3", "pretrain.vit": "cait_xxs24_224"})
    for phase, name in (("finetune_cnn", "inception_v3"), ("finetune_vit", "cait_xxs24_224")):
        with pytest.raises(UsageError, match=f"timm does not say which blocks .* {name} has"):
            measure_apart(with_field(trial, "data.image_size_px", 224), phase, device="cpu", threads=1, workers=0)


def test_a_process_that_gives_no_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_speed, "LIMIT_S", 0.01)
    with pytest.raises(UsageError, match=r"could not be tried \(TimeoutExpired\). Give --compile off, or try again"):
        check_apart("cpu")


# From the command line

Measure = Callable[[CompileSpeed | UsageError], list[dict[str, Any]]]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Sets what is measured, and returns a list of what was asked for."""

    def give(speed: CompileSpeed | UsageError) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def measure(trial: Trial, phase: str, **how: Any) -> CompileSpeed:
            asked.append({"method": trial.pretrain.method, "phase": phase, **how})
            if isinstance(speed, UsageError):
                raise speed
            return speed

        monkeypatch.setattr(compile_choice, "measure_apart", measure)
        return asked

    return give


LINE = ("--local", "--pretrain.method", "none", "--finetune.epochs", "1", "--keep-weights", "none")


def planned(results: Path) -> tuple[bool, bool, str]:
    """Return what a plan says of both phases, and its command."""
    plan = Results(results).study("small", "phantom-demo").plans()[-1]
    (found,) = {tuple(t["config"][s]["compile"] for s in ("pretrain", "finetune")) for t in plan["trials"]}
    return (*found, plan["command"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (False, False)),
        (["--compile", "off"], (False, False)),
        pytest.param(["--compile", "on", "--finetune.compile", "false"], (True, False), marks=needs_compiler),
    ],
)
def test_the_short_form_is_that_of_both_phases(options: list[str], expected: tuple[bool, bool], tmp_path: Path) -> None:
    assert small.run(*LINE, *options, results=tmp_path) == 0
    *found, command = planned(tmp_path)
    assert tuple(found) == expected
    assert "--compile" not in command
    assert ("--pretrain.compile" in command) == bool(options)


@needs_compiler
def test_a_compiled_study_runs_and_is_another_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.run(*LINE, results=tmp_path) == 0
    first = small.wanted(tmp_path)
    assert small.run(*LINE, "--compile", "on", results=tmp_path) == 0
    other = small.wanted(tmp_path)
    assert first.keys() == other.keys() and not set(first.values()) & set(other.values())
    scores = [Results(tmp_path).trial(digests["none seed=0"]).result() for digests in (first, other)]
    assert all(score and score["arms"].keys() == set(ARMS) for score in scores)


def test_auto_is_chosen_once_and_stays(tmp_path: Path, measured: Measure, capsys: pytest.CaptureFixture[str]) -> None:
    asked = measured(SLOW)
    assert small.run(*LINE, "--compile", "auto", results=tmp_path) == 0
    assert asked == [{"method": "none", "phase": "finetune_vit", "device": "cpu", "threads": 1, "workers": 0}]
    out = capsys.readouterr().out
    assert "compile: off, because a training step takes 1.50 of its time" in out
    assert planned(tmp_path)[:2] == (False, False)

    asked = measured(FAST)
    assert small.run("--dry-run", *LINE, "--compile", "auto", "--seeds", "0", "1", results=tmp_path) == 0
    assert not asked and "compile: off" in capsys.readouterr().out, "a study that grows stays what it was"
    (record,) = (tmp_path / "choices").glob("compile-*.json")
    assert json.loads(record.read_text())["compiled_s"] == SLOW.compiled_s


def test_auto_is_one_choice_for_a_study_and_its_parts(
    tmp_path: Path, measured: Measure, capsys: pytest.CaptureFixture[str]
) -> None:
    study = small.Study(name="small", title="t", axes={"pretrain.method": ("cass", "supervised")})
    asked = measured(SLOW)
    line = ["--local", "--compile", "auto", "--finetune.epochs", "1", "--pretrain.epochs", "1"]
    assert small.run(*line, "--only", "pretrain.method=supervised", study=study, results=tmp_path) == 0
    assert [each["method"] for each in asked] == ["cass"]
    assert "compile: off" in capsys.readouterr().out
    asked = measured(FAST)
    for others in (["--pretrain.method", "supervised", "cass"], ["--only", "pretrain.method=cass"], ["--seeds", "7"]):
        assert small.run(*line, *others, "--dry-run", study=study, results=tmp_path) == 0
        assert "compile: off" in capsys.readouterr().out
    assert not asked


def test_only_the_finetuning_is_measured_where_the_pretraining_is_settled(tmp_path: Path, measured: Measure) -> None:
    asked = measured(SLOW)
    line = ["--only", "pretrain.learning-rate=7", "--compile", "auto", "--pretrain.compile", "true"]
    assert small.run(*line, results=tmp_path) == 2, "there is no such cell"
    assert [each["phase"] for each in asked] == ["finetune_vit"]


def test_what_cannot_be_measured_is_off_for_now(
    tmp_path: Path, measured: Measure, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(UsageError("there is no compiler."))
    assert small.run(*LINE, "--compile", "auto", results=tmp_path) == 0
    assert "compile: off, because there is no compiler." in capsys.readouterr().out
    assert not list(tmp_path.rglob("compile-*.json"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--preset", "paper"], "--preset paper trains ResNet-50 and ViT-B/16 at 384 px, and there is no GPU here"),
        (["--device", "cuda"], "--device cuda, but torch sees no GPU"),
        (["--results", "/proc/nope"], "Cannot write to the results root /proc/nope"),
        (["--pretrain.epochs", "0"], "--pretrain.epochs must be at least 1"),
    ],
)
def test_mistakes_are_named_before_anything_is_measured(
    options: list[str], problem: str, tmp_path: Path, measured: Measure, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = measured(FAST)
    results = None if "--results" in options else tmp_path
    assert small.run("--compile", "auto", *options, results=results) == 2
    assert problem in capsys.readouterr().err and not asked


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--dry-run"], "in a dry run nothing is measured, and nothing was chosen before"),
        (["--address", "10.0.0.1:1", "--device", "cpu"], "a cluster at --address is not measured"),
        (["--address", "10.0.0.1:1", "--dry-run"], "--compile auto: a dry run does not ask the cluster"),
    ],
)
def test_where_nothing_can_be_measured_auto_is_refused(
    options: list[str], problem: str, tmp_path: Path, measured: Measure, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = measured(FAST)
    assert small.run(*options, "--compile", "auto", results=tmp_path) == 2
    assert problem in capsys.readouterr().err and not asked


def test_without_a_compiler_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    assert small.run(*LINE, "--compile", "on", results=tmp_path / "results") == 2
    error = capsys.readouterr().err
    assert error.count("torch.compile does not work here") == 1 and "needs a C++ compiler" in error
    assert not (tmp_path / "results" / "trials").exists()


def test_a_compiled_search_is_another_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    for options in ([], ["--compile", "off"], ["--compile", "on"]):
        assert toy_search.run("--dry-run", *options, results=tmp_path) == 0
        lines += [line for line in capsys.readouterr().out.splitlines() if line.startswith("search ")]
    assert lines[0] == lines[1] != lines[2]
