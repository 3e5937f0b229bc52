"""Requests to stop: from signals, from commands, from any source."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cass_tune import notices
from cass_tune.errors import Terminated
from cass_tune.notices import Stop, command_source, ended_by_signals, held_signals, stopped_by_signals, watched


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_first_reason_stays_and_a_parents_counts() -> None:
    parent = Stop()
    stop = Stop(parent)
    assert stop.reason is None
    parent.request("first")
    assert stop.reason == "first"
    stop.request("own")
    stop.request("later")
    assert (stop.reason, parent.reason) == ("own", "first")


def test_sources_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "POLL_S", 3600)
    stop = Stop()
    with watched(stop, [lambda: None, lambda: "now"]):
        assert stop.reason == "now"


def test_sources_are_asked_until_one_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(notices, "POLL_S", 0.01)
    stop, flag = Stop(), tmp_path / "stop"

    def broken() -> str | None:
        raise OSError("away")

    with watched(stop, [broken, lambda: "there is the file" if flag.exists() else None]):
        assert stop.reason is None
        flag.touch()
        wait_for(lambda: stop.reason)
    assert stop.reason == "there is the file"


def test_watching_ends_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "POLL_S", 0.01)
    asked: list[float] = []
    with watched(Stop(), [lambda: asked.append(time.monotonic())]):
        wait_for(lambda: len(asked) > 3)
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name == "notices"])


def test_a_command_is_a_notice_when_it_succeeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(notices, "COMMAND_EVERY_S", 0.0)
    ask = command_source(f"test -e {tmp_path / 'gone'}")
    assert ask() is None
    (tmp_path / "gone").touch()
    assert "--preemption-command" in (ask() or "")


def test_a_command_is_run_every_5_s(tmp_path: Path) -> None:
    ask = command_source(f"echo x >> {tmp_path / 'runs'}; false")
    for _ in range(5):
        assert ask() is None
    assert (tmp_path / "runs").read_text() == "x\n"


def test_a_command_that_hangs_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(notices, "COMMAND_EVERY_S", 0.0)
    monkeypatch.setattr(notices, "COMMAND_TIMEOUT_S", 0.05)
    ask = command_source("sleep 5")
    with caplog.at_level(logging.WARNING):
        assert [ask(), ask()] == [None, None]
    assert len(caplog.records) == 1 and "sleep 5" in caplog.text


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "terminated")],
)
def test_a_signal_asks_and_a_second_interrupt_ends(number: signal.Signals, reason: str) -> None:
    stop = Stop()
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), stopped_by_signals(stop) as came:
        for count in (1, 2):
            os.kill(os.getpid(), number)
            if number == signal.SIGINT and count == 2:
                time.sleep(1)
            wait_for(lambda: len(came) == count)  # noqa: B023
            assert stop.reason == reason
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: len(came) == 3)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals(Stop()) as came:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
        assert came == []
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_until_trials_run_a_signal_raises(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Terminated), ended_by_signals():
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert signal.getsignal(number) is before


def test_a_signal_whose_exception_got_lost_stops_the_trials() -> None:
    stop = Stop()
    with ended_by_signals():
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        with stopped_by_signals(stop) as came:
            assert (stop.reason, came) == ("interrupted", [signal.SIGINT])


def test_held_signals_come_at_the_end_of_the_block() -> None:
    ended = False
    with pytest.raises(Terminated), ended_by_signals():
        with held_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
            ended = True
        time.sleep(1)
    assert ended


def test_outside_the_main_thread_signals_stay_as_they_are() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def run() -> None:
        with ended_by_signals(), stopped_by_signals(Stop()) as came:
            seen.append(list(came))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [[]]
    assert signal.getsignal(signal.SIGINT) is before


STUCK = """
import os, sys, time
from cass_tune.notices import Stop
from cass_tune.runner import leaving
leaving.STUCK_S = 0.5
stop = Stop()
with leaving.leaving_for_sure(stop, lambda: {at_work}, lambda: os._exit(143), most_s={most_s}):
    if {stops}:
        stop.request("terminated")
    time.sleep({seconds})
sys.exit(7)
"""


@pytest.mark.parametrize(
    ("at_work", "most_s", "stops", "seconds", "code"),
    [
        ("False", 60, True, 60, 143),  # Ray hangs, no trial runs
        ("True", 0.5, True, 60, 143),  # a trial does not leave in time
        ("False", 60, False, 1.5, 7),  # nobody asked to stop
        ("True", 60, True, 1.5, 7),  # Ray ends by itself
    ],
)
def test_a_process_that_is_stuck_leaves(at_work: str, most_s: float, stops: bool, seconds: float, code: int) -> None:
    script = STUCK.format(at_work=at_work, most_s=most_s, stops=stops, seconds=seconds)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], timeout=60, cwd=Path(__file__).parents[1])
    assert done.returncode == code
    assert time.monotonic() - began < 40
