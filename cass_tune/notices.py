"""Notices that a machine is about to be taken away, or that the user wants to stop: a flag that trials look at."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from cass_tune.errors import Terminated
from cass_tune.patience import patience

logger = logging.getLogger(__name__)

POLL_S = 1.0
COMMAND_EVERY_S = 5.0
COMMAND_TIMEOUT_S = 10.0
INTERRUPTED, TERMINATED = "interrupted", "terminated"
"""Why to stop after SIGINT, and after another signal."""

Source = Callable[[], "str | None"]
"""Returns why to stop, or None."""


class Stop:
    """A request to finish the step, save the state and leave. Trials look at it between two steps.

    Args:
        parent: another request that counts as well.
    """

    def __init__(self, parent: Stop | None = None) -> None:
        self._parent = parent
        self._reason: str | None = None

    def request(self, reason: str) -> None:
        """Ask to stop; the first reason stays."""
        self._reason = self._reason or reason

    @property
    def reason(self) -> str | None:
        """Why to stop, or None."""
        return self._reason or (self._parent.reason if self._parent else None)


PROCESS = Stop()
"""The request that a signal to this process makes."""


def on_signal(number: int, *_: object) -> None:
    """Handle a signal by asking this process's trial to stop."""
    PROCESS.request(f"{signal.Signals(number).name} came")


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_came: list[int] = []
"""Signals that came while `ended_by_signals` was in charge: an exception can get lost where nobody passes it on."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `Terminated` in the block, as SIGINT raises KeyboardInterrupt.

    Outside the main thread the caller's own handlers stay.
    """

    def handler(number: int, *_: object) -> None:
        _came.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    _came.clear()
    try:
        with _handled_by(handler):
            yield
    finally:
        _came.clear()


@contextmanager
def held_signals() -> Iterator[None]:
    """Keep signals for the end of a block that does not survive an exception; then they are delivered."""
    held: list[int] = []
    try:
        with _handled_by(lambda number, *_: held.append(number)):
            yield
    finally:
        if held:
            os.kill(os.getpid(), held[0])


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[list[int]]:
    """Let a signal ask a driver's study to stop, and a second SIGINT end it at once.

    Outside the main thread the caller's own handlers stay. Yields the signals that came.

    Raises:
        KeyboardInterrupt: at the second SIGINT.
    """
    came: list[int] = []

    def handler(number: int, *_: object) -> None:
        came.append(number)
        if came.count(signal.SIGINT) > 1:
            raise KeyboardInterrupt
        stop.request(INTERRUPTED if number == signal.SIGINT else TERMINATED)

    with _handled_by(handler):
        for number in _came:
            handler(number)
        yield came


@contextmanager
def _handled_by(handler: Callable[..., None]) -> Iterator[None]:
    before: dict[int, Any] = {}
    with suppress(ValueError):  # outside the main thread
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # of nohup
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def every(seconds: float, source: Source) -> Source:
    """Return a source that asks another one, but not more often than so."""
    next_time = 0.0

    def ask() -> str | None:
        nonlocal next_time
        if time.monotonic() < next_time:
            return None
        next_time = time.monotonic() + seconds
        return source()

    return ask


def command_source(command: str) -> Source:
    """Return a source that runs a shell command every 5 s: exit status 0 means that the machine will be taken away."""
    is_broken = False

    def ask() -> str | None:
        nonlocal is_broken
        try:
            done = subprocess.run(
                command, shell=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            if not is_broken:
                logger.warning("--preemption-command %r: %s", command, error)
            is_broken = True
            return None
        return "--preemption-command says that the machine will be taken away" if done.returncode == 0 else None

    return every(COMMAND_EVERY_S, ask)


@contextmanager
def watched(stop: Stop, sources: Sequence[Source]) -> Iterator[None]:
    """Ask every source at once and then once per second, in a thread, until one says why to stop or the block ends."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_S):
            if _ask(sources, stop):
                return

    if sources and not _ask(sources, stop):
        threading.Thread(target=watch, name="notices", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _ask(sources: Sequence[Source], stop: Stop) -> bool:
    """Return whether a source says why to stop, which is then requested."""
    for source in sources:
        try:
            with patience(0):  # while storage is away, the other sources are still heard
                reason = source()
        except Exception as error:  # a broken source must not end the trial
            logger.debug("a source of notices failed: %s", error)
            continue
        if reason:
            stop.request(reason)
            return True
    return False
