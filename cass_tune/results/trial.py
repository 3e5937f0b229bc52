"""The folder of a trial."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from typing import Any

from cass_tune.config import ARMS
from cass_tune.identity import PROBES_VERSION
from cass_tune.leases import HOLDER_FILE
from cass_tune.results.folder import Folder
from cass_tune.results.records import Record, new_attempt, now
from cass_tune.storage import AnyPath, move, read_json, remove, sweep, write_json


class TrialFolder(Folder):
    """Records of one trial."""

    @property
    def predictions(self) -> AnyPath:
        return self.path / "predictions.parquet"

    def is_finished(self) -> bool:
        return (self.path / "result.json").exists()

    def is_finished_for(self, redo: str | None) -> bool:
        """Return whether a run of the command takes this trial as finished.

        Args:
            redo: name of the run if it computes every trial anew, so that only its own result counts; otherwise None.
        """
        return self.is_finished() and not self.starts_anew_for(redo)

    def starts_anew_for(self, redo: str | None) -> bool:
        """Return whether a run that computes every trial anew, see `is_finished_for`, has not begun this one yet."""
        return redo is not None and all(attempt["run"] != redo for attempt in self.attempts())

    def result(self) -> Record | None:
        """Return the finished trial's result, or None while it is not finished."""
        return read_json(self.path / "result.json")

    def validated(self) -> Record | None:
        """Return the result without anything of the test images, of a trial whose test was left out, or None."""
        return read_json(self.path / "validated.json")

    def outcome(self) -> Record | None:
        """Return the result, or that without the test, or None while the trial is not finished."""
        return self.result() or self.validated()

    def failure(self) -> Record | None:
        """Return the last error, or None."""
        return read_json(self.path / "failure.json")

    def probes(self) -> Record | None:
        """Return the probes of the frozen features, or None: there are none, or of another version."""
        record = read_json(self.path / "probes.json")
        return record if record and record["version"] == PROBES_VERSION else None

    def write_probes(self, record: Record) -> None:
        write_json(self.path / "probes.json", record)

    def missing_probes(self, probes: Iterable[str]) -> list[str]:
        """Return which of these probes are not there of both arms."""
        arms = (self.probes() or {}).get("arms", {})
        return [probe for probe in probes if any(probe not in arms.get(arm, {}) for arm in ARMS)]

    def begin(self, attempt: str, run: str, **how: Any) -> None:
        """Record that an attempt starts; an earlier failure is moved aside: while the trial runs, it has not failed.

        Args:
            attempt: its name.
            run: name of the command's run that it belongs to.
            **how: the attempt runs, where attempts at one trial may differ.
        """
        if (self.path / "failure.json").exists():
            target = self.path / "earlier" / new_attempt()
            target.mkdir(parents=True)
            move(self.path / "failure.json", target / "failure.json")
        record = {"run": run, "host": platform.node(), "pid": os.getpid(), "started": now(), **how}
        write_json(self._attempt(attempt), {**record, "attempt": attempt, "resumed": None, "ended": None})

    def resumed(self, attempt: str, position: Record) -> None:
        """Record where an attempt goes on from."""
        self._update(attempt, {"resumed": position})

    def ended(self, attempt: str, how: str, **details: Any) -> None:
        """Record how an attempt ended: ``finished``, ``failed``, ``interrupted``; without it, its process died."""
        self._update(attempt, {"ended": {"how": how, "time": now(), **details}})

    def attempts(self) -> list[Record]:
        """Return the attempts, oldest first."""
        folder = self.path / "attempts"
        paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
        return [record for record in map(read_json, paths) if record]

    def _attempt(self, attempt: str) -> AnyPath:
        return self.path / "attempts" / f"{attempt}.json"

    def _update(self, attempt: str, changes: Record) -> None:
        write_json(self._attempt(attempt), {**(read_json(self._attempt(attempt)) or {}), **changes})

    def finish(self, result: Record) -> None:
        """Write the result, unless there is one: from here on the trial is finished, and its checkpoints go."""
        if not self.is_finished():
            write_json(self.path / "result.json", result)
        for name in ("failure.json", "validated.json"):
            remove(self.path / name)
        self._tidy()

    def leave_untested(self, record: Record) -> None:
        """Write the result of a trial whose test is left out; its last checkpoint stays, to go on from."""
        write_json(self.path / "validated.json", record)

    def end(self, arm: str) -> AnyPath:
        """Return the folder of the state at the end of an arm's finetuning (`cass_tune.checkpoints`)."""
        return self.path / "ends" / arm

    def remove_ends(self) -> None:
        """Delete the states at the ends of both arms' finetunings."""
        remove(self.path / "ends")

    def prune(self) -> None:
        """Delete the checkpoints of a trial that was pruned: its pretraining is stored, so little is lost."""
        remove(self.checkpoints)

    def _tidy(self) -> None:
        remove(self.checkpoints)
        sweep(self.path)

    def tidy(self) -> None:
        """Delete what a process that was killed right after it had finished this trial has left."""
        if self.is_finished() and (self.path / HOLDER_FILE).exists() and not self.is_held():
            self._tidy()
            remove(self.path / HOLDER_FILE)

    def fail(
        self, kind: str, message: str, traceback: str, position: Record | None = None, *, may_pass: bool = False
    ) -> None:
        """Record the error that the trial failed with, where, and how many attempts have failed so far.

        Args:
            kind: type of the error.
            message: its text.
            traceback: where in the code.
            position: where in the trial, or None when that is unknown.
            may_pass: whether it is the machine's error, which may spare the next trial.
        """
        attempts = sum((item["ended"] or {}).get("how") == "failed" for item in self.attempts()) or 1
        record = {"type": kind, "message": message, "traceback": traceback, "position": position, "may_pass": may_pass}
        more = {"id": new_attempt(), "attempts": attempts, "log": str(self.log)}
        write_json(self.path / "failure.json", {**record, **more})

    def status(self) -> str:
        """Return ``done``, ``untested``, ``collapsed``, ``pruned``, ``failed``, ``running`` or ``missing``."""
        if self.is_finished():
            return "done"
        failure = self.failure()
        if failure is not None:
            return {"Collapsed": "collapsed", "Pruned": "pruned"}.get(failure["type"], "failed")
        if self.is_held():
            return "running"
        return "missing" if self.validated() is None else "untested"

    def set_aside(self) -> None:
        """Move an earlier result to ``earlier/<time>/`` so that the trial runs again."""
        stay = ("earlier", "config.json", "holder.json", ".holder.lock")
        moved = [path for path in self.path.iterdir() if path.name not in stay] if self.path.is_dir() else []
        if not moved:
            return
        first = (
            "result.json",
            "validated.json",
            "checkpoints",
        )  # without them nothing that is left counts, should this be interrupted
        moved.sort(key=lambda path: (first.index(path.name) if path.name in first else len(first), path.name))
        target = self.path / "earlier" / new_attempt()
        target.mkdir(parents=True)
        for path in moved:
            move(path, target / path.name)
