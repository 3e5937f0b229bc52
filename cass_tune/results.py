"""Where every record of a study lies: the only module that knows a file name.

    stages/<stage id>/   config.json, environment.json, epochs/<attempt>.jsonl, checkpoints/, holder.json,
                         epoch-0100/{cnn,vit,state}.safetensors and run.json (last: the end of epoch 100 is there),
                         wanted/<hash>.json: which trials want the ends of which epochs
    trials/<trial id>/   config.json, environment.json, epochs/<attempt>.jsonl, attempts/<attempt>.json, checkpoints/,
                         holder.json, probes.json, predictions.parquet, {cnn,vit}.safetensors, log.txt, failure.json,
                         validated.json (of a search: finished but for the test images),
                         ends/<arm>/ (of a population: states that the next generation goes on from),
                         result.json (last: the trial is finished)
    <study>/<data>-<preset>/   plans/<time>.json; derived: tables/, plots/, report.{html,md}, bundle.zip, journal.log,
                         index.csv, results.{parquet,csv} (a row per trial and arm), epochs.{parquet,csv} (per trial,
                         phase and epoch), predictions.parquet (per trial, arm, part and image);
                         search/<search id>/: suggestions/<number>.json, outcomes/<number>.json, holder.json, and
                         journal.log, the same for Optuna (derived)
    splits/<hash>.json   which image is in which part, once for all trials that have the same parts
    cards/<hash>.json    memory and speed that were measured of one kind of training step on one kind of GPU
    ray/<study>/<time>/  Ray's own records; stop: the driver asks its trials to stop

The root is a local or shared folder, or an object store (`cass_tune.storage`).
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import platform
import tomllib
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cass_tune.config import ARMS
from cass_tune.errors import Damaged, UsageError
from cass_tune.identity import ID_DIGITS, PROBES_VERSION, digest
from cass_tune.leases import HOLDER_FILE, is_held
from cass_tune.lines import Lines
from cass_tune.objects import ObjectPath
from cass_tune.storage import AnyPath, move, place, read_json, remove, size, sweep, whole_file, write_json

logger = logging.getLogger(__name__)

CONFIG_FILE = "cass_tune.toml"
"""Settings of a working folder (`cass_tune.options` reads all of them)."""
SPLIT_DIGITS = 16
"""Digits of a split's digest by which it is filed and shown."""

Record = dict[str, Any]


def new_attempt() -> str:
    """Return a name for one run of one part; names sort by time."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%f")
    return f"{now}-{uuid.uuid4().hex[:6]}"


def now() -> str:
    """Return the time in UTC, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def read_rows(folder: AnyPath) -> list[Record]:
    """Return the epoch rows of all attempts: of a repeated epoch the last attempt's, a torn line is left out."""
    rows: dict[tuple[str, int], Record] = {}
    if not folder.is_dir():
        return []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            rows[row["phase"], row["epoch"]] = row
    return list(rows.values())


def _files(folder: AnyPath, leave_out: Collection[str] = ()) -> Iterator[AnyPath]:
    """Yield the files below a folder in order of their names, without hidden ones and tensors."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else ():
        if path.name in leave_out or path.name.startswith(".") or path.suffix == ".safetensors":
            continue
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _whole(path: AnyPath, *keys: str) -> Record | None:
    """Return a record with these keys, or None: it is not there, or damaged."""
    try:
        record = read_json(path)
    except Damaged:
        return None
    return record if isinstance(record, dict) and record.keys() >= {*keys} else None


def _epoch_done(row: Record) -> Record:
    """Return what a row says of its epoch, however many epochs the trial wanted that it comes from."""
    return {name: value for name, value in row.items() if name != "epochs"}


def _rows_in(values: Record) -> list[Record]:
    """Return the epoch rows that a checkpoint holds: of a pretraining, or of arms that are finished and one in work."""
    finished = [row for done in values.get("done", {}).values() for row in done["rows"]]
    return [*finished, *values.get("rows", values.get("part", {}).get("rows", ()))]


class Folder:
    """The folder of one trial or one stage.

    Args:
        path: the folder.
        digest: the full identity of what lies in it.
    """

    def __init__(self, path: AnyPath, digest: str) -> None:
        self.path = path
        self.digest = digest

    @property
    def id(self) -> str:
        """The first digits of the identity, which name the folder."""
        return self.path.name

    @property
    def epochs(self) -> AnyPath:
        return self.path / "epochs"

    @property
    def checkpoints(self) -> AnyPath:
        return self.path / "checkpoints"

    @property
    def log(self) -> AnyPath:
        return self.path / "log.txt"

    def write_config(self, record: Record) -> None:
        """Write what lies here, if it is not written yet, or damaged."""
        if _whole(self.path / "config.json", "digest") is None:
            write_json(self.path / "config.json", {**record, "digest": self.digest})

    def write_environment(self, record: Record) -> None:
        write_json(self.path / "environment.json", record)

    def environment(self) -> Record | None:
        """Return what the last attempt ran on, or None."""
        return read_json(self.path / "environment.json")

    def row_file(self, attempt: str) -> Lines:
        """Return the attempt's file of epoch rows, one JSON object per line."""
        return Lines(self.epochs / f"{attempt}.jsonl")

    def rows(self) -> list[Record]:
        """Return the epoch rows, see `read_rows`."""
        return read_rows(self.epochs)

    def saved(self) -> list[dict[str, int]]:
        """Return for every checkpoint the last finished epoch, by phase, with which the work goes on from there."""
        found: list[dict[str, int]] = []
        for path in sorted(self.checkpoints.glob("*.json")):
            with suppress(UsageError, TypeError, KeyError, AttributeError):  # a damaged one is said when it is used
                record = read_json(path)
                if record:
                    found.append({row["phase"]: row["epoch"] for row in _rows_in(record["values"])})
        return found

    def lost_rows(self, rows: Sequence[Record]) -> list[Record]:
        """Return which of these rows are in no file as they are: a process that was killed had not written them yet."""
        there = list(map(_epoch_done, self.rows())) if rows else []
        return [row for row in rows if _epoch_done(row) not in there]

    def records(self) -> Iterator[AnyPath]:
        """Yield every file that says what was computed here: no weights, no checkpoints, no earlier results."""
        return _files(self.path, leave_out=("checkpoints", "earlier", "ends", HOLDER_FILE))

    def weights(self, arm: str) -> AnyPath:
        return self.path / f"{arm}.safetensors"

    def is_held(self) -> bool:
        """Return whether a process that lives works here (`cass_tune.leases`)."""
        return is_held(self.path)


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


class StageFolder(Folder):
    """Records of one pretraining, shared by every trial that needs it."""

    def end(self, epoch: int) -> AnyPath:
        """Return the folder of the arms after an epoch; it counts only with `has_end`."""
        return self.path / f"epoch-{epoch:04d}"

    def has_end(self, epoch: int) -> bool:
        """Return whether the arms after an epoch are stored."""
        return (self.end(epoch) / "run.json").exists()

    def ends(self) -> list[int]:
        """Return the epochs whose arms are stored, ascending."""
        if not self.path.is_dir():
            return []
        epochs = [int(path.name[6:]) for path in self.path.iterdir() if path.name.startswith("epoch-")]
        return sorted(epoch for epoch in epochs if self.has_end(epoch))

    def end_record(self, epoch: int) -> Record:
        """Return the rows and the environment of the run that ended there, and the checksums of its files.

        Of an end that is gone, or whose record is damaged, nothing.
        """
        return _whole(self.end(epoch) / "run.json") or {}

    def disown_end(self, epoch: int, record: Record) -> bool:
        """Let an end that is damaged count no longer, for any process; return whether it did until now.

        No lease is needed: nobody replaces an end that counts, and where another process has just done so with one that
        did not, its record is another one.

        Args:
            epoch: of the end.
            record: what `end_record` said.
        """
        if not self.has_end(epoch) or self.end_record(epoch) != record:
            return False
        remove(self.end(epoch) / "run.json")
        return True

    def write_end(self, epoch: int, record: Record) -> None:
        """Declare the end of an epoch complete; its other files are there already."""
        write_json(self.end(epoch) / "run.json", record)
        sweep(self.end(epoch))

    def want(self, ends: Mapping[int, Sequence[str]], *, is_trunk: bool = False) -> None:
        """Record which trials want the ends of which epochs; what was recorded before stays.

        Args:
            ends: identities of trials by epoch.
            is_trunk: whether other stages go on from these ends, and no finetuning does.
        """
        record = {"ends": {str(epoch): sorted(ends[epoch]) for epoch in sorted(ends)}, "is_trunk": is_trunk}
        path = self.path / "wanted" / f"{digest(record)[:ID_DIGITS]}.json"  # equal ones are one file, others have none
        if _whole(path) != record:
            write_json(path, record)

    def wanted_ends(self) -> dict[int, set[str]]:
        """Return the identities of the trials that want the end of an epoch, by epoch, of all studies."""
        found = defaultdict[int, set[str]](set)
        for record in self._wants():
            for epoch, trials in record["ends"].items():
                found[int(epoch)].update(trials)
        return dict(sorted(found.items()))

    def is_trunk(self) -> bool:
        """Return whether other stages go on from the ends of this one, and no finetuning does."""
        return any(record["is_trunk"] for record in self._wants())

    def _wants(self) -> list[Record]:
        folder = self.path / "wanted"
        found = {path: _whole(path, "ends", "is_trunk") for path in (folder.glob("*.json") if folder.is_dir() else ())}
        for path in (path for path, record in found.items() if record is None and path.exists()):
            logger.warning("%s is damaged and is deleted; trials that want these ends say so again", path)
            with suppress(OSError):
                remove(path)
        return [record for record in found.values() if record]

    def end_bytes(self, epoch: int) -> int:
        """Return how much room the end of an epoch takes."""
        return sum(size(path) for path in self.end(epoch).iterdir()) if self.end(epoch).is_dir() else 0

    def remove_end(self, epoch: int) -> None:
        """Delete the end of an epoch, its declaration first."""
        remove(self.end(epoch) / "run.json")
        remove(self.end(epoch))


class SearchFolder:
    """What a search has suggested, in order, and what became of it; numbers count from 0 without a gap.

    Args:
        path: the folder.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path

    @property
    def journal(self) -> AnyPath:
        return self.path / "journal.log"

    def suggest(self, number: int, record: Record) -> None:
        """Record a suggestion, before its trial starts."""
        write_json(self.path / "suggestions" / f"{number:05d}.json", record)

    def suggestions(self) -> list[Record]:
        """Return the suggestions, oldest first."""
        return self._records("suggestions")

    def end(self, number: int, record: Record) -> None:
        """Record what became of a suggestion."""
        write_json(self.path / "outcomes" / f"{number:05d}.json", {**record, "number": number})

    def outcomes(self) -> dict[int, Record]:
        """Return what became of suggestions, by number."""
        return {record["number"]: record for record in self._records("outcomes")}

    def _records(self, kind: str) -> list[Record]:
        folder = self.path / kind
        paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
        return [record for record in map(read_json, paths) if record]


class Results:
    """A results root.

    Args:
        root: local or shared folder, made when the first record is written, or ``s3://bucket/prefix``.
    """

    def __init__(self, root: AnyPath | str) -> None:
        self.root = place(root)
        self._places: dict[tuple[str, str], AnyPath] = {}

    def trial(self, digest: str) -> TrialFolder:
        """Return the folder of the trial with this identity."""
        return TrialFolder(self._place("trials", digest), digest)

    def stage(self, digest: str) -> StageFolder:
        """Return the folder of the pretraining with this identity."""
        return StageFolder(self._place("stages", digest), digest)

    def _place(self, kind: str, digest: str) -> AnyPath:
        """Return the folder of an identity; which one it is, is looked up until its config.json is there."""
        if (kind, digest) in self._places:
            return self._places[kind, digest]
        for digits in range(ID_DIGITS, len(digest) + 1, 4):
            path = self.root / kind / digest[:digits]
            config = _whole(path / "config.json", "digest")
            if config is None:  # or damaged: whoever computes it writes it again
                return path
            if config["digest"] == digest:
                self._places[kind, digest] = path
                return path
        raise AssertionError("two equal digests that differ")

    def study(self, name: str, variant: str) -> StudyFolder:
        """Return the folder of a study's plans and tables; ``variant`` is ``<data>-<preset>``."""
        return StudyFolder(self.root / name / variant)

    def studies(self) -> Iterable[StudyFolder]:
        """Yield the folder of every study that was asked for here."""
        for folder in sorted(self.root.glob("*")):
            if folder.name not in ("stages", "trials", "splits", "ray", "cards"):
                yield from (StudyFolder(plans.parent) for plans in sorted(folder.glob("*/plans")))

    def footprint(self, key: str) -> Record | None:
        """Return what was measured of one kind of training step on one kind of GPU, or None."""
        return _whole(self._footprint(key), "card", "gib", "rates")

    def keep_footprint(self, key: str, record: Record) -> None:
        """Record what was measured of one kind of training step on one kind of GPU."""
        write_json(self._footprint(key), record)

    def _footprint(self, key: str) -> AnyPath:
        return self.root / "cards" / f"{key[:ID_DIGITS]}.json"

    def keep_split(self, digest: str, record: Record) -> None:
        """Keep which image is in which part, once for all trials that have the same parts.

        Args:
            digest: that stands for the record, and is what a trial's result says of it.
            record: what `cass_tune.data.splits.split_record` returned.
        """
        path = self.split(digest)
        if not path.exists():
            write_json(path, record)

    def split(self, digest: str) -> AnyPath:
        """Return the file of a split."""
        return self.root / "splits" / f"{digest[:SPLIT_DIGITS]}.json"

    def ray(self, study: str) -> Path:
        """Return the folder of Ray's own records; with an object store as root, a local one of this user."""
        if isinstance(self.root, ObjectPath):
            return Path.home() / "ray_results" / "cass_tune" / study
        return self.root / "ray" / study

    def stop_file(self, study: str, run: str) -> AnyPath:
        """Return the file by which a run's driver asks its trials to stop."""
        return self.root / "ray" / study / run / "stop"

    def check_writable(self) -> None:
        """Raise a UsageError when nothing can be written below the root; it leaves nothing behind.

        A root that is yet to be made is not made: another process that begins now would find it gone again.
        """
        try:
            start = self.root
            if isinstance(start, Path):
                start = next(folder for folder in (start, *start.parents) if folder.exists())
            below = [self.root / name for name in ("trials", "stages") if (self.root / name).exists()]
            for folder in (start, *below):
                with whole_file(folder / ".writable") as temporary:
                    temporary.touch()
                (folder / ".writable").unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(
                f"Cannot write to the results root {self.root}: {error.strerror or error}. "
                "Give a folder that you may write to with --results DIR, or s3://BUCKET/PREFIX."
            ) from error


class StudyFolder:
    """What was asked for, and everything derived from the trials' records.

    Args:
        path: ``<root>/<study>/<data>-<preset>``.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path

    @property
    def results(self) -> Results:
        return Results(self.path.parent.parent)

    @property
    def tables(self) -> AnyPath:
        return self.path / "tables"

    @property
    def plots(self) -> AnyPath:
        return self.path / "plots"

    @property
    def parquet(self) -> AnyPath:
        return self.path / "results.parquet"

    @property
    def table(self) -> AnyPath:
        return self.path / "results.csv"

    @property
    def index(self) -> AnyPath:
        return self.path / "index.csv"

    @property
    def report(self) -> AnyPath:
        return self.path / "report.html"

    @property
    def report_markdown(self) -> AnyPath:
        return self.path / "report.md"

    @property
    def bundle(self) -> AnyPath:
        return self.path / "bundle.zip"

    @property
    def journal(self) -> AnyPath:
        return self.path / "journal.log"

    def records(self) -> Iterator[AnyPath]:
        """Yield every file that says what was asked for; what is derived from records is left out."""
        for name in ("plans", "search"):
            yield from _files(self.path / name, leave_out=(HOLDER_FILE,))

    @property
    def epochs_parquet(self) -> AnyPath:
        return self.path / "epochs.parquet"

    @property
    def epochs_table(self) -> AnyPath:
        return self.path / "epochs.csv"

    @property
    def predictions(self) -> AnyPath:
        return self.path / "predictions.parquet"

    def write_plan(self, plan: Record) -> None:
        """Keep what was asked for, unless it is what was asked for last, with whatever command."""
        last = [record["plan"] for record in self._plan_files()][-1:]
        if [_without_command(plan) for plan in last] != [_without_command(plan)]:
            write_json(self.path / "plans" / f"{new_attempt()}.json", {"plan": plan})

    def plans(self) -> list[Record]:
        """Return what was asked for, oldest first; of a search all that it has suggested so far."""
        return [self._with_suggestions(record["plan"]) for record in self._plan_files()]

    def search(self, search_id: str) -> SearchFolder:
        """Return the folder of a search."""
        return SearchFolder(self.path / "search" / search_id)

    def _with_suggestions(self, plan: Record) -> Record:
        if "search" not in plan:
            return plan
        found = self.search(plan["search"]["id"]).suggestions()[: plan["search"]["trials"]]
        axes = list(dict.fromkeys(path for record in found for path in record["fields"]))
        return {**plan, "axes": axes, "trials": [record["trial"] for record in found]}

    def _plan_files(self) -> Iterable[Record]:
        folder = self.path / "plans"
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            record = read_json(path)
            if record is not None:
                yield record


def _without_command(plan: Record) -> Record:
    return {name: value for name, value in plan.items() if name != "command"}


def default_root(folder: Path) -> AnyPath:
    """Return the results root that ``cass_tune.toml`` in a folder names, or ``results``."""
    try:
        content = tomllib.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        content = {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / CONFIG_FILE} cannot be read: {error}.") from error
    return place(str(content.get("results", "results")))


def find_study(name_or_path: str, root: AnyPath) -> list[StudyFolder]:
    """Return the study folders that a name (all its variants) or a path stands for.

    Raises:
        UsageError: there is none; lists the studies that there are.
    """
    for start in (place(name_or_path), root / name_or_path):
        if (start / "plans").is_dir():
            return [StudyFolder(start.absolute())]
        variants = sorted(p.parent for p in start.glob("*/plans")) if start.is_dir() else []
        if variants:
            return [StudyFolder(variant.absolute()) for variant in variants]
    there = sorted({p.parent.parent.name for p in root.glob("*/*/plans")}) if root.is_dir() else []
    raise UsageError(
        f"No study {name_or_path!r} below {root.absolute()}. "
        + (f"There are: {', '.join(there)}." if there else "No study has run there yet;")
        + " Give a study's name or path, and the results root with --results DIR."
    )
