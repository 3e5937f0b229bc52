"""Checkpoints of a part in progress: written whole or not at all, checksummed, the newest two kept.

    checkpoints/000007-1f08c3.safetensors   tensors
    checkpoints/000007-1f08c3.json          everything else, the tensors' SHA-256 and a checksum of its own; written
                                            last, so a checkpoint is there exactly when this file is

Training waits for the copy of its state; the file is written by a thread meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from torch import Tensor

from cass_tune.storage import AnyPath, StorageError, patience, remove, sweep, write_json
from cass_tune.tensors import read_tensors, write_tensors
from cass_tune.training.state import State

logger = logging.getLogger(__name__)

KEPT = 2
EPOCH_END_S = 10.0
"""Least time between two checkpoints at the ends of epochs."""
LARGEST_STALL = 0.025
"""Share of its time that training may wait for copies at the ends of epochs; CheckFreq (FAST 2021) allows 0.035."""
PATIENCE_S = 600.0
"""How long training goes on, beyond the interval, when no checkpoint can be written."""


def _checksum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, allow_nan=False).encode()).hexdigest()


class Checkpoints:
    """The checkpoints of one part.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder
        self._others: set[str] = set()
        self._damaged: set[str] = set()

    def names(self) -> list[str]:
        """Return the names of the complete checkpoints, oldest first."""
        return [name for name, endings in sorted(self._files().items()) if ".json" in endings]

    def _files(self) -> dict[str, set[str]]:
        """Return the endings of the files that there are, by name."""
        found: dict[str, set[str]] = {}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name[:6].isdigit():
                found.setdefault(path.stem, set()).add(path.suffix)
        return found

    def write(self, state: State, check: Callable[[], None] = lambda: None) -> str:
        """Write a checkpoint, then delete all but the newest two that are whole; return its name.

        Those that `newest` found to be of no use here are another run's: they stay.

        Args:
            state: on the CPU; its values must be plain JSON.
            check: raises when this process may no longer write here; called before the checkpoint becomes valid.

        Raises:
            StorageError: it could not be written; the earlier ones are untouched.
        """
        number = max((int(name[:6]) for name in self._files()), default=0) + 1
        name = f"{number:06d}-{uuid.uuid4().hex[:6]}"  # a holder that was taken over may be writing this number, too
        self._write(name, state, check)
        self._prune(name)
        return name

    def _prune(self, name: str) -> None:
        """Delete all before a checkpoint but the newest two that are whole; what fails is done after the next one."""
        newest = [old for old in self.names() if old not in self._others | self._damaged][-KEPT:]
        for old in self._files():
            if old < name[:6] and old not in (*newest, *self._others):
                with suppress(OSError):
                    self._remove(old)
        sweep(self.folder)

    def _write(self, name: str, state: State, check: Callable[[], None]) -> None:
        try:
            digest = write_tensors(self.folder / f"{name}.safetensors", state.tensors)
            check()
            record = {"values": dict(state.values), "sha256": digest}
            write_json(self.folder / f"{name}.json", {**record, "checksum": _checksum(record)})
        except BaseException:
            with suppress(OSError), patience(0):
                self._remove(name)
            raise

    def _remove(self, name: str) -> None:
        remove(self.folder / f"{name}.json")
        remove(self.folder / f"{name}.safetensors")

    def newest(
        self,
        fits: Callable[[Mapping[str, Any]], bool] = lambda values: True,
        progress: Callable[[Mapping[str, Any]], Any] = lambda values: 0,
    ) -> State | None:
        """Return the checkpoint that is furthest, of equal ones the newest, or None; of damaged ones it warns.

        Args:
            fits: whether the values are of use here; others are left out.
            progress: of the values, how far a checkpoint is.
        """
        found = [(name, record) for name in self.names() if (record := self._record(name))]
        fitting = [(name, record) for name, record in found if fits(record["values"])]
        self._others = {name for name, _ in found} - {name for name, _ in fitting}
        for name, record in sorted(fitting, key=lambda item: (progress(item[1]["values"]), item[0]), reverse=True):
            tensors = self._tensors(name, record)
            if tensors is not None:
                return State(tensors=tensors, values=record["values"])
        return None

    def _record(self, name: str) -> dict[str, Any] | None:
        try:
            record = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
            if record.pop("checksum") != _checksum(record):
                raise ValueError("its description was changed")
        except StorageError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            self._warn(name, error)
            return None
        return record

    def _tensors(self, name: str, record: Mapping[str, Any]) -> dict[str, Tensor] | None:
        try:
            return read_tensors(self.folder / f"{name}.safetensors", record["sha256"])
        except StorageError:
            raise
        except (ValueError, OSError) as error:
            self._warn(name, error)
            return None

    def _warn(self, name: str, error: Exception) -> None:
        self._damaged.add(name)
        logger.warning("checkpoint %s is damaged (%s); the one before is used", self.folder / name, error)

    def clear(self) -> None:
        """Delete all checkpoints but those that are another run's."""
        if not self._others:
            remove(self.folder)
        for name in self._files():
            if name not in self._others:
                self._remove(name)


class Checkpointer:
    """Decides when a checkpoint is due, copies the state, and lets a thread write it: at most one at a time.

    Args:
        checkpoints: where they go.
        state: returns the state between two steps.
        every_s: longest time between two checkpoints.
        check: see `Checkpoints.write`.
    """

    def __init__(
        self, checkpoints: Checkpoints, state: Callable[[], State], *, every_s: float, check: Callable[[], None]
    ) -> None:
        self._checkpoints = checkpoints
        self._state = state
        self._every_s = every_s
        self._check = check
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[str] | None = None
        self._last = self._last_written = time.monotonic()
        self._longest_stall_s = 0.0
        self.stalls_s: list[float] = []

    def after_step(self) -> None:
        """Write a checkpoint when the interval is over, and the one before has been written."""
        if time.monotonic() - self._last < self._every_s:
            return
        if self._is_writing():
            self._check_promise()
            return
        self._settle()
        self._begin()

    def after_epoch(self) -> None:
        """Write a checkpoint when the last one is old enough to be worth it."""
        least_s = max(EPOCH_END_S, self._longest_stall_s / LARGEST_STALL)
        if not self._is_writing() and time.monotonic() - self._last >= min(least_s, self._every_s):
            self._settle()
            self._begin()

    def save(self) -> None:
        """Write a checkpoint now and wait for it.

        Raises:
            StorageError: it could not be written.
        """
        self._settle()
        self._begin()
        assert self._writing is not None
        self._writing.result()
        self._writing = None

    def close(self) -> None:
        """Wait for the write in flight; its failure no longer matters."""
        self._thread.shutdown(wait=True)

    def _is_writing(self) -> bool:
        return self._writing is not None and not self._writing.done()

    def _check_promise(self, error: OSError | None = None) -> None:
        """Raise when no state has been saved for longer than the promise allows."""
        unsaved_s = time.monotonic() - self._last_written
        if unsaved_s > self._every_s + PATIENCE_S:
            text = f"No checkpoint could be written in {self._checkpoints.folder} for {unsaved_s:.0f} s."
            raise StorageError(error.errno if error else None, f"{text} {error or ''}".strip()) from error

    def _begin(self) -> None:
        started = time.monotonic()
        self._last = started
        copy = self._state().on_cpu()
        self._writing = self._thread.submit(self._checkpoints.write, copy, self._check)
        self.stalls_s.append(time.monotonic() - started)
        self._longest_stall_s = max(self.stalls_s)

    def _settle(self) -> None:
        """Wait for the write in flight; a failed one is tried again later, as long as the promise can be kept."""
        if self._writing is None:
            return
        waited = time.monotonic()
        try:
            self._writing.result()
            self._last_written = self._last
        except OSError as error:
            self._check_promise(error)
            logger.warning("no checkpoint could be written, training goes on: %s", error)
        finally:
            self._writing = None
            self.stalls_s.append(time.monotonic() - waited)
