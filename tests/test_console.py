"""What a run shows: one line per event in a pipe, a live view on a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from cass_tune.console import Console, Progress, Work, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("cass_tune.console.time.monotonic", clock)
    return clock


@pytest.fixture
def pipe() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    yield Terminal()


def works(number: int = 3, epochs: int = 10) -> dict[str, Work]:
    return {f"d{n}": Work(name=f"cell {n}", phases={"pretrain": (100.0, epochs)}) for n in range(number)}


def row(epoch: int, reused: Any = None, seconds: float = 1.0, phase: str = "pretrain") -> dict[str, Any]:
    return {"phase": phase, "epoch": epoch, "epochs": 10, "seconds": seconds, "reused": reused}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (25_900, "7 h 11 min"),
        (400_000, "111 h 06 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines(pipe: io.StringIO) -> None:
    console = Console(pipe)
    console.say("one", "two")
    console.say()
    assert pipe.getvalue() == "one\ntwo\n" and not console.is_terminal


def test_events_in_a_pipe(pipe: io.StringIO, clock: Clock) -> None:
    progress = Progress(Console(pipe), works(2), finished=3)
    with progress.shown():
        progress.start("d0")
        clock.now += 70
        progress.finish("d0", "macro-F1 cnn 0.900")
        progress.start("d1")
        progress.start("d1")  # said once
        clock.now += 5
        progress.fail("d1", "RuntimeError: no  (log: there)")
    assert pipe.getvalue().splitlines() == [
        "  started  cell 0  (3 of 5 done, 1 running, 0 s)",
        "  done     cell 0  macro-F1 cnn 0.900  in 1 min 10 s  (4 of 5 done, 0 running, 1 min 10 s)",
        "  started  cell 1  (4 of 5 done, 1 running, 1 min 10 s)",
        "  FAILED   cell 1  RuntimeError: no  (log: there)  (4 of 5 done, 0 running, 1 failed, 1 min 15 s)",
    ]


def test_a_pipe_gets_a_line_at_most_every_15_seconds(pipe: io.StringIO, clock: Clock) -> None:
    progress = Progress(Console(pipe), works(1))
    progress.start("d0")
    for epoch in range(1, 8):
        clock.now += 4
        progress.row("d0", row(epoch))
    lines = pipe.getvalue().splitlines()
    assert len(lines) == 2 and lines[1].endswith("cell 0: pretrain 4/10") and lines[1].startswith("  0 of 1 done")


def test_the_first_row_starts_a_trial(pipe: io.StringIO, clock: Clock) -> None:
    progress = Progress(Console(pipe), works(1))
    progress.row("d0", row(1))
    assert pipe.getvalue().startswith("  started  cell 0")


def test_time_left_follows_the_work(pipe: io.StringIO, clock: Clock) -> None:
    progress = Progress(Console(pipe), works(2))
    progress.start("d0")
    assert "left" not in progress.summary(), "nothing is known yet"
    for epoch in (1, 2, 3, 4):
        clock.now += 10
        progress.row("d0", row(epoch, seconds=10.0))
    # 4 epochs of 100 images took 40 s; 6 + 10 epochs are left
    assert progress.summary() == "0 of 2 done, 1 running, 40 s, about 2 min 40 s left"
    progress.fail("d0", "reason")
    assert progress.summary().endswith("about 1 min 40 s left"), "a failed trial has no work left"
    progress.finish("d1", "")
    assert "left" not in progress.summary()


def test_time_left_counts_computed_work_only(pipe: io.StringIO, clock: Clock) -> None:
    trials = {
        name: Work(name=name, phases={"pretrain": (900.0, 10), "finetune_cnn": (100.0, 10)}) for name in ("a", "b")
    }
    progress = Progress(Console(pipe), trials)
    for epoch in range(1, 11):
        progress.row("a", row(epoch, reused=True, seconds=50.0))
    assert "left" not in progress.summary(), "what was read from the disk says nothing about speed"
    clock.now += 10
    progress.row("a", row(1, phase="finetune_cnn", seconds=10.0))
    # 100 images in 10 s; 900 are left of a, and 10,000 of b
    assert progress.summary().endswith("about 18 min 10 s left")


def test_columns_of_ray_may_be_nan(pipe: io.StringIO, clock: Clock) -> None:
    progress = Progress(Console(pipe), works(1))
    clock.now += 1
    progress.row("d0", {**row(1, reused=float("nan")), "loss": float("nan")})
    assert "about 9 s left" in progress.summary()


def test_a_terminal_shows_the_running_cells(terminal: Terminal) -> None:
    console = Console(terminal)
    assert console.is_terminal
    progress = Progress(console, works(2), finished=1)
    with progress.shown():
        progress.start("d0")
        progress.row("d0", row(3))
        progress.finish("d0", "macro-F1 cnn 0.900 [bold]")
        progress.row("d1", row(7))
    text = terminal.getvalue()
    assert "started  cell 0" in text and "done     cell 0  macro-F1 cnn 0.900 [bold]" in text
    assert "running  cell 1  pretrain 7/10" in text
    assert "2 of 3 done, 1 running" in text


def test_a_long_line_is_not_cut_on_a_terminal(terminal: Terminal) -> None:
    progress = Progress(Console(terminal), works(1))
    with progress.shown():
        progress.fail("d0", "x" * 300)
    assert "x" * 300 in terminal.getvalue().replace("\n", "")


def test_after_the_live_view_lines_are_plain(terminal: Terminal) -> None:
    console = Console(terminal)
    progress = Progress(console, works(1))
    with pytest.raises(KeyboardInterrupt), progress.shown():
        raise KeyboardInterrupt
    before = len(terminal.getvalue())
    progress.start("d0")
    assert terminal.getvalue()[before:].startswith("  started  cell 0  (0 of 1 done")


def test_a_quick_count_is_silent(pipe: io.StringIO, terminal: Terminal, clock: Clock) -> None:
    for stream in (pipe, terminal):
        count = Console(stream).counter("reading images")
        for done in range(101):
            count(done, 100)
            clock.now += 0.001
        assert stream.getvalue() == ""


def test_a_slow_count_in_a_pipe(pipe: io.StringIO, clock: Clock) -> None:
    count = Console(pipe).counter("reading images")
    for done in range(101):
        count(done, 100)
        clock.now += 0.4
    assert pipe.getvalue().splitlines() == [
        "reading images: 38 of 100, about 25 s left",
        "reading images: 76 of 100, about 10 s left",
    ]


def test_a_slow_count_on_a_terminal_is_rewritten_and_wiped(terminal: Terminal, clock: Clock) -> None:
    count = Console(terminal).counter("reading images")
    for done in range(5):
        count(done, 4)
        clock.now += 1
    text = terminal.getvalue()
    assert text.count("\r\033[Kreading images: ") == 3 and "\n" not in text
    assert text.endswith("\r\033[K")


def test_the_default_is_what_is_stdout_now(capsys: pytest.CaptureFixture[str]) -> None:
    Console().say("here")
    assert capsys.readouterr().out == "here\n"
