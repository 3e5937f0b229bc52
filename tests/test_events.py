"""What a run shows of its trials, and when the first failures stop it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cass_tune.console import Console, Progress, Work
from cass_tune.events import TrialEvents
from cass_tune.notices import Stop
from cass_tune.results import Results
from cass_tune.storage import write_json
from cass_tune.trial import may_pass

DIGESTS = [letter * 64 for letter in "abcd"]
START = {"phase": "start", "epoch": 0, "batch": 0}
FIRST_STEP = {"phase": "pretrain", "epoch": 0, "batch": 1}


class Run:
    """Four trials of a run, and what is shown of them."""

    def __init__(self, root: Path) -> None:
        self.results = Results(root)
        self.stream = io.StringIO()
        works = {digest: Work(name=f"trial {digest[0]}", phases={"pretrain": (10, 2)}) for digest in DIGESTS}
        self.stop = Stop()
        self.events = TrialEvents(self.results, Progress(Console(self.stream), works), self.stop)

    def fail(
        self, number: int, kind: str, message: str, position: Mapping[str, Any] | None, *, may_pass: bool = False
    ) -> None:
        folder = self.results.trial(DIGESTS[number])
        write_json(folder.path / "config.json", {"digest": folder.digest})
        folder.fail(kind, message, "Traceback", position=dict(position) if position else None, may_pass=may_pass)
        self.events.failed(folder.digest)

    def finish(self, number: int) -> None:
        folder = self.results.trial(DIGESTS[number])
        arms = {arm: {"test": {"macro_f1": 0.5}} for arm in ("cnn", "vit")}
        write_json(folder.path / "result.json", {"arms": arms})
        self.events.ended(folder.digest)

    @property
    def has_stopped(self) -> bool:
        return self.stop.reason is not None


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_when_a_pretraining_is_over(run: Run) -> None:
    digest = DIGESTS[0]
    row = {"reused": True, "epoch": 1, "epochs": 1, "seconds": 1.0}
    run.events.started(digest)
    run.events.row(digest, {**row, "phase": "pretrain"})
    assert not run.events.has_pretrained(digest)
    run.events.row(digest, {**row, "phase": "finetune_cnn"})
    assert run.events.has_pretrained(digest)
    run.events.left(digest, "its process or machine was lost")
    assert not run.events.has_pretrained(digest), "it may have to pretrain again"


@pytest.mark.parametrize("position", [None, START, {**START, "phase": "pretrain"}])
def test_two_first_trials_that_fail_alike_before_any_step_stop_the_study(run: Run, position: Any) -> None:
    run.fail(0, "RuntimeError", "no such kernel\nat 0x1", position)
    assert not run.has_stopped
    run.fail(1, "RuntimeError", "no such kernel\nat 0x2", position)
    assert run.has_stopped and run.events.common_failure is not None
    assert run.events.common_failure["message"].startswith("no such kernel")


def test_errors_of_the_machine_never_do(run: Run) -> None:
    run.fail(0, "RuntimeError", "out of memory", START, may_pass=True)
    run.fail(1, "RuntimeError", "out of memory", START, may_pass=True)
    assert not run.has_stopped


@pytest.mark.parametrize(
    ("error", "may"),
    [
        (MemoryError(), True),
        (FileNotFoundError("image.png"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
            True,
        ),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 MiB"), True),
        (RuntimeError("no such kernel"), False),
        (ValueError("shape"), False),
    ],
)
def test_which_errors_are_the_machines(error: Exception, may: bool) -> None:
    assert may_pass(error) == may


def test_nor_do_different_errors_later_steps_or_later_trials(tmp_path: Path) -> None:
    different, stepped, later = (Run(tmp_path / name) for name in ("different", "stepped", "later"))
    different.fail(0, "RuntimeError", "one", START)
    different.fail(1, "RuntimeError", "another", START)
    stepped.fail(0, "RuntimeError", "one", START)
    stepped.fail(1, "RuntimeError", "one", FIRST_STEP)
    later.finish(0)
    later.fail(1, "RuntimeError", "one", START)
    later.fail(2, "RuntimeError", "one", START)
    assert not any(each.has_stopped for each in (different, stepped, later))


def test_where_a_trial_resumed_is_shown_once(run: Run) -> None:
    folder = run.results.trial(DIGESTS[0])
    folder.begin("a1", "run")
    folder.resumed("a1", {"phase": "pretrain", "epoch": 1, "batch": 4})
    run.events.started(DIGESTS[0])
    row = {"phase": "pretrain", "epoch": 1, "epochs": 2, "seconds": 1.0, "reused": True}
    run.events.row(DIGESTS[0], row)
    assert "resumed" not in run.stream.getvalue()
    for _ in range(2):
        run.events.row(DIGESTS[0], {**row, "epoch": 2, "reused": False})
    assert run.stream.getvalue().count("resumed  trial a  from pretrain, after epoch 1, batch 4") == 1


def test_a_trial_without_a_record_is_neither_done_nor_failed(run: Run) -> None:
    run.events.started(DIGESTS[0])
    run.events.ended(DIGESTS[0])
    run.events.failed(DIGESTS[0])
    assert "done  " not in run.stream.getvalue() and "FAILED" not in run.stream.getvalue()
