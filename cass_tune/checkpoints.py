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
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

from torch import Tensor

from cass_tune.errors import StorageError
from cass_tune.patience import patience, patiently
from cass_tune.storage import AnyPath, explained, remove, sweep, write_json
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
RETRY_S = 30.0
"""Time between two tries when no checkpoint can be written."""


def _checksum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, allow_nan=False).encode()).hexdigest()


class Checkpoints:
    """The checkpoints of one part.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder
        self._own: list[str] = []
        """Names of this run's checkpoints, the furthest last."""
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
        """Write a checkpoint, then delete all of this run but the two that are furthest and whole; return its name.

        Args:
            state: on the CPU; its values must be plain JSON.
            check: raises when this process may no longer write here; called before the checkpoint becomes valid.

        Raises:
            StorageError: it could not be written; the earlier ones are untouched.
        """
        self._clean()
        number = max((int(name[:6]) for name in self._files()), default=0) + 1
        name = f"{number:06d}-{uuid.uuid4().hex[:6]}"  # a holder that was taken over may be writing this number, too
        self._write(name, state, check)
        self._own.append(name)
        self._prune()
        return name

    def _clean(self) -> None:
        """Delete what writers that were killed have left: on a full disk their room is needed."""
        sweep(self.folder)
        for name, endings in self._files().items():
            if ".json" not in endings:
                with suppress(OSError):
                    self._remove(name)

    def _prune(self) -> None:
        """Delete what is old or damaged; what cannot be deleted is deleted after the next checkpoint."""
        for name in [*self._own[:-KEPT], *self._damaged]:
            with suppress(OSError):
                self._remove(name)
                self._own = [other for other in self._own if other != name]
                self._damaged.discard(name)

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
        *,
        is_own: Callable[[Mapping[str, Any]], bool] = lambda values: True,
        progress: Callable[[Mapping[str, Any]], Any] = lambda values: 0,
    ) -> State | None:
        """Return the checkpoint that is furthest, of equal ones the newest, or None; of damaged ones it warns.

        Args:
            fits: whether the values are of use here; others are left out, and stay.
            is_own: whether a checkpoint is this run's, which `write` and `clear` delete when it is old.
            progress: of the values, how far a checkpoint is.

        Raises:
            StorageError: one cannot be read, which does not mean that it is damaged.
        """
        found = [(name, record) for name in self.names() if (record := self._record(name))]
        found.sort(key=lambda item: (progress(item[1]["values"]), item[0]))
        self._own = [name for name, record in found if fits(record["values"]) and is_own(record["values"])]
        for name, record in reversed(found):
            if fits(record["values"]):
                tensors = self._tensors(name, record)
                if tensors is not None:
                    return State(tensors=tensors, values=record["values"])
        return None

    def _record(self, name: str) -> dict[str, Any] | None:
        try:
            record = json.loads(patiently(lambda: _text(self.folder / f"{name}.json")))
            if record.pop("checksum") != _checksum(record):
                raise ValueError("its description was changed")
        except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError) as error:
            self._warn(name, error)
            return None
        return record

    def _tensors(self, name: str, record: Mapping[str, Any]) -> dict[str, Tensor] | None:
        try:
            return read_tensors(self.folder / f"{name}.safetensors", record["sha256"])
        except (ValueError, FileNotFoundError) as error:
            self._warn(name, error)
            return None

    def _warn(self, name: str, error: Exception) -> None:
        self._damaged.add(name)
        self._own = [other for other in self._own if other != name]
        logger.warning("checkpoint %s is damaged (%s); the one before is used", self.folder / name, error)

    def clear(self) -> None:
        """Delete all checkpoints but those of other runs that `newest` has seen."""
        self._clean()
        for name in (*self._own, *self._damaged):
            self._remove(name)
        if not self._files():
            remove(self.folder)


def _text(path: AnyPath) -> str:
    with explained(path, "read"):
        return path.read_text(encoding="utf-8")


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
        self._begun = self._saved = time.monotonic()
        self._due = self._begun + every_s
        self._longest_stall_s = 0.0
        self.stalls_s: list[float] = []

    def after_step(self) -> None:
        """Write a checkpoint when it is due, unless the one before is still being written.

        Raises:
            StorageError: none could be written for too long.
        """
        if self._is_writing():
            if time.monotonic() - self._begun > PATIENCE_S:
                raise StorageError(
                    None, f"A checkpoint is not written within {PATIENCE_S:g} s: {self._checkpoints.folder}"
                )
            return
        self._settle()
        if time.monotonic() >= self._due:
            self._begin()

    def after_epoch(self) -> None:
        """Write a checkpoint when the last one is old enough to be worth it; errors as in `after_step`."""
        if self._is_writing():
            return
        self._settle()
        least_s = max(EPOCH_END_S, self._longest_stall_s / LARGEST_STALL)
        if time.monotonic() >= min(self._begun + least_s, self._due):
            self._begin()

    def save(self) -> None:
        """Write a checkpoint now and wait for it.

        Raises:
            StorageError: it could not be written.
        """
        if self._writing is not None:
            wait([self._writing])  # whether it failed no longer matters
            self._writing = None
        self._checkpoints.write(self._copy(), self._check)

    def close(self) -> None:
        """Wait for the write in flight; its failure no longer matters."""
        self._thread.shutdown(wait=True)

    def _is_writing(self) -> bool:
        return self._writing is not None and not self._writing.done()

    def _begin(self) -> None:
        self._begun = time.monotonic()
        self._due = self._begun + self._every_s
        self._writing = self._thread.submit(self._checkpoints.write, self._copy(), self._check)

    def _copy(self) -> State:
        """Copy the state, for which training waits."""
        started = time.monotonic()
        copy = self._state().on_cpu()
        self.stalls_s.append(time.monotonic() - started)
        self._longest_stall_s = max(self.stalls_s)
        return copy

    def _settle(self) -> None:
        """See how the last write ended; after a failed one the next is due soon, as long as the promise can be kept."""
        if self._writing is None:
            return
        try:
            self._writing.result()
            self._saved = self._begun
        except OSError as error:
            if self._begun - self._saved > self._every_s + PATIENCE_S:
                raise
            self._due = min(self._due, self._begun + RETRY_S)
            logger.warning("no checkpoint could be written, training goes on: %s", error)
        finally:
            self._writing = None
