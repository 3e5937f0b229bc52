"""A driver of the disturbed study: a process of its own, started, watched and sent signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 240.0


class TooLate(Exception):
    """The study ended before what was waited for came."""


class Driver:
    """One process that runs the command line of `tests.faults.subject`.

    Args:
        log: file for what it says.
        arguments: options beside those of the study.
        environment: variables beside those of this process.
    """

    def __init__(self, log: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        self._stream = log.open("a")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.subject", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **(environment or {})},
            stdout=self._stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        """What it has said so far, and what earlier drivers with the same log have."""
        return self.log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
        """Return when a condition holds.

        Raises:
            TooLate: the driver ended before.
            AssertionError: it takes too long.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                raise TooLate(what)
            assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s\n{self.text}"
            time.sleep(0.05)

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the driver alone, or to its whole process group.

        Raises:
            TooLate: it has ended.
        """
        if self.process.poll() is not None:
            raise TooLate(number.name)
        (os.killpg if group else os.kill)(self.pid, number)

    def child(self, word: str) -> int:
        """Return a process that it has started, by a word of its command line.

        Raises:
            TooLate: there is none.
        """
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(path.read_text().rpartition(")")[2].split()[1])
                line = (path.parent / "cmdline").read_bytes().split(b"\0")[0].decode()
            except (OSError, ValueError, IndexError):
                continue
            if parent == self.pid and line.endswith(word):
                return int(path.parent.name)
        raise TooLate(word)

    def end(self) -> int:
        """Wait for its end and return the exit code, negative for a signal that killed it."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the driver does not end\n{self.text}") from None
        finally:
            self._stream.close()

    def stop(self) -> None:
        """Kill it and all that it has started, if it runs."""
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
        self._stream.close()
