"""Text files that only grow, line by line, on a disk or in an object store."""

from __future__ import annotations

import logging
import threading
from io import FileIO
from pathlib import Path
from types import TracebackType

from cass_tune import object_store
from cass_tune.disk import sync
from cass_tune.errors import StorageError
from cass_tune.objects import ObjectPath
from cass_tune.patience import PATIENCE_S
from cass_tune.storage import AnyPath, explained

logger = logging.getLogger(__name__)

OBJECT_INTERVAL_S = 10.0
"""Time between two writes of `Lines` to an object store."""


class Lines:
    """A text file that only grows, with one writer; it is made by the first line.

    Local lines are in the file at once. Those of an object are kept in memory and written by a thread, the whole object
    every `OBJECT_INTERVAL_S`, so that ``append`` never waits. What cannot be written is kept and written with the next.
    Characters that UTF-8 cannot hold, such as those of a file name in another encoding, are escaped.

    Args:
        path: the file; what is in it already stays.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        self._file = _LocalLines(path) if isinstance(path, Path) else _ObjectLines(path)
        self._is_closed = False

    def append(self, line: str) -> None:
        """Append a line; one that cannot be written for the moment is warned about.

        Raises:
            ValueError: it is closed.
        """
        if self._is_closed:
            raise ValueError(f"{self.path} is closed")
        self._file.append(f"{line}\n")

    def flush(self) -> None:
        """Return when every line is in the file.

        Raises:
            StorageError: it cannot be written.
        """
        self._file.flush()

    def close(self) -> None:
        """Flush and end it; errors as in `flush`."""
        self._is_closed = True
        self._file.close()

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StorageError as failure:
            if error is None:
                raise
            logger.warning("%s is not complete: %s", self.path, failure)


class _LocalLines:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: FileIO | None = None
        self._pending = b""
        self._is_failing = False

    def append(self, text: str) -> None:
        self._pending += text.encode(errors="backslashreplace")
        try:
            self.flush()
            self._is_failing = False
        except StorageError as error:
            was_failing, self._is_failing = self._is_failing, True  # first: the warning may come back here as a line
            if not was_failing:
                logger.warning("%s is not up to date, which is tried again: %s", self._path, error)

    def flush(self) -> None:
        with explained(self._path):
            while self._pending:
                if self._stream is None:
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    self._stream = self._path.open("ab", buffering=0)
                self._pending = self._pending[self._stream.write(self._pending) :]

    def close(self) -> None:
        try:
            self.flush()
            if self._stream is not None:
                sync(self._path)
        finally:
            if self._stream is not None:
                self._stream.close()


class _ObjectLines:
    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self._earlier: bytes | None = None
        self._lines: list[bytes] = []
        self._written = 0
        self._is_failing = False
        self._one_at_a_time = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def append(self, text: str) -> None:
        self._lines.append(text.encode(errors="backslashreplace"))
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_now_and_then, name=f"lines of {self._path}", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        self._write(PATIENCE_S)

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def _write_now_and_then(self) -> None:
        while not self._closing.wait(OBJECT_INTERVAL_S):
            try:
                self._write(patience_s=0)
                self._is_failing = False
            except OSError as error:
                if not self._is_failing and not object_store.is_away(
                    self._path.key
                ):  # an outage has been logged already
                    logger.warning("%s is not up to date, which is tried again: %s", self._path, error)
                self._is_failing = True

    def _write(self, patience_s: float) -> None:
        with self._one_at_a_time:
            count = len(self._lines)
            if count == self._written:
                return
            if self._earlier is None:
                self._earlier = self._read(patience_s)
            object_store.write(self._path.key, b"".join([self._earlier, *self._lines[:count]]), patience_s)
            self._written = count

    def _read(self, patience_s: float) -> bytes:
        try:
            return object_store.read(self._path.key, patience_s)
        except FileNotFoundError:
            return b""
