"""Notices that a machine is about to be taken away, or that the user wants to stop: a flag that trials look at."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from cass_tune.errors import Terminated
from cass_tune.storage import patience

logger = logging.getLogger(__name__)

POLL_S = 1.0
COMMAND_EVERY_S = 5.0
COMMAND_TIMEOUT_S = 10.0

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


@contextmanager
def terminated_by_signal() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in the block, so that it ends in good order; only in the main thread."""

    def handler(*_: object) -> None:
        raise Terminated

    try:
        earlier = signal.signal(signal.SIGTERM, handler)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[list[int]]:
    """Let SIGINT and SIGTERM ask a driver's study to stop, and a second one end it at once.

    Outside the main thread the caller's own handlers stay. Yields the signals that came.

    Raises:
        KeyboardInterrupt: at the second signal.
    """
    came: list[int] = []

    def handler(number: int, *_: object) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt
        stop.request("interrupted" if number == signal.SIGINT else "terminated")

    before: dict[int, Any] = {}
    with suppress(ValueError):
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, handler)
    try:
        yield came
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def command_source(command: str) -> Source:
    """Return a source that runs a shell command every 5 s: exit status 0 means that the machine will be taken away."""
    state = {"next": 0.0, "is_broken": False}

    def ask() -> str | None:
        if time.monotonic() < state["next"]:
            return None
        state["next"] = time.monotonic() + COMMAND_EVERY_S
        try:
            done = subprocess.run(
                command, shell=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            if not state["is_broken"]:
                logger.warning("--preemption-command %r: %s", command, error)
            state["is_broken"] = True
            return None
        return "--preemption-command says that the machine will be taken away" if done.returncode == 0 else None

    return ask


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
