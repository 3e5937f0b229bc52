"""Where every record of a study lies, and how it is written: the only module that knows a file name.

    stages/<stage id>/   config.json, environment.json, epochs/<attempt>.jsonl, epoch-0100/{cnn,vit}.safetensors
    trials/<trial id>/   config.json, environment.json, epochs/<attempt>.jsonl, predictions.parquet,
                         {cnn,vit}.safetensors, log.txt, failure.json, result.json (last: the trial is finished)
    <study>/<data>-<preset>/   plans/<time>.json; index.csv, results.parquet, tables/, plots/ (derived)
    ray/<study>/         Ray's own records

Files are written whole under a temporary name and renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import tomllib
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cass_tune.errors import UsageError
from cass_tune.identity import ID_DIGITS

CONFIG_FILE = "cass_tune.toml"
"""Settings of a working folder (`cass_tune.options` reads all of them)."""

Record = dict[str, Any]


def new_attempt() -> str:
    """Return a name for one run of one part; names sort by time."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%f")
    return f"{now}-{uuid.uuid4().hex[:6]}"


def write_json(path: Path, record: Any) -> None:
    """Write strict JSON (NaN becomes an error) whole or not at all."""
    write_text(path, json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success it is synced and renamed to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any | None:
    """Return a JSON file's content, or None when there is no such file.

    Raises:
        UsageError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}. Delete it; what it recorded is then done again.") from error


def read_rows(folder: Path) -> list[Record]:
    """Return the epoch rows of all attempts: of a repeated epoch the last attempt's, a torn line is left out."""
    rows: dict[tuple[str, int], Record] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            rows[row["phase"], row["epoch"]] = row
    return list(rows.values())


class Folder:
    """The folder of one trial or one stage.

    Args:
        path: the folder.
        digest: the full identity of what lies in it.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        self.digest = digest

    @property
    def id(self) -> str:
        """The first digits of the identity, which name the folder."""
        return self.path.name

    @property
    def epochs(self) -> Path:
        return self.path / "epochs"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def write_config(self, record: Record) -> None:
        """Write what lies here, if it is not written yet."""
        if not (self.path / "config.json").exists():
            write_json(self.path / "config.json", {**record, "digest": self.digest})

    def write_environment(self, record: Record) -> None:
        write_json(self.path / "environment.json", record)

    def append_row(self, attempt: str, row: Record) -> None:
        """Append one epoch's row to the attempt's file."""
        self.epochs.mkdir(parents=True, exist_ok=True)
        with (self.epochs / f"{attempt}.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, allow_nan=False) + "\n")

    def rows(self) -> list[Record]:
        """Return the epoch rows, see `read_rows`."""
        return read_rows(self.epochs)

    def weights(self, arm: str) -> Path:
        return self.path / f"{arm}.safetensors"


class TrialFolder(Folder):
    """Records of one trial."""

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.parquet"

    def result(self) -> Record | None:
        """Return the finished trial's result, or None while it is not finished."""
        return read_json(self.path / "result.json")

    def failure(self) -> Record | None:
        """Return the last error, or None."""
        return read_json(self.path / "failure.json")

    def finish(self, result: Record) -> None:
        """Write the result: from here on the trial is finished."""
        write_json(self.path / "result.json", result)
        (self.path / "failure.json").unlink(missing_ok=True)

    def begin(self) -> None:
        """Move an earlier failure aside: while the trial runs again, it has not failed."""
        if (self.path / "failure.json").exists():
            target = self.path / "earlier" / new_attempt()
            target.mkdir(parents=True)
            (self.path / "failure.json").rename(target / "failure.json")

    def fail(self, kind: str, message: str, traceback: str) -> None:
        """Record an error and how many attempts have failed so far."""
        last = self.failure() or {"attempts": len(list(self.path.glob("earlier/*/failure.json")))}
        attempts = 1 + last["attempts"]
        record = {"type": kind, "message": message, "traceback": traceback, "attempts": attempts, "log": str(self.log)}
        write_json(self.path / "failure.json", record)

    def status(self) -> str:
        """Return ``done``, ``collapsed``, ``failed`` or ``missing``."""
        if (self.path / "result.json").exists():
            return "done"
        failure = self.failure()
        if failure is None:
            return "missing"
        return "collapsed" if failure["type"] == "Collapsed" else "failed"

    def set_aside(self) -> None:
        """Move an earlier result to ``earlier/<time>/`` so that the trial runs again."""
        moved = [path for path in self.path.glob("*") if path.name not in ("earlier", "config.json")]
        if not moved:
            return
        target = self.path / "earlier" / new_attempt()
        target.mkdir(parents=True)
        for path in moved:
            path.rename(target / path.name)


class StageFolder(Folder):
    """Records of one pretraining, shared by every trial that needs it."""

    def end(self, epoch: int) -> Path:
        """Return the folder of the arms after an epoch; it is there exactly when it is complete."""
        return self.path / f"epoch-{epoch:04d}"

    def end_record(self, epoch: int) -> Record:
        """Return the rows and the environment of the run that ended there."""
        return read_json(self.end(epoch) / "run.json") or {}

    @contextmanager
    def publish(self, epoch: int) -> Iterator[Path]:
        """Give a temporary folder that becomes the end of an epoch; the first complete one stays."""
        temporary = self.path / f".epoch-{epoch:04d}.{uuid.uuid4().hex[:8]}.tmp"
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if not self.end(epoch).exists():
                temporary.rename(self.end(epoch))
        except OSError:
            if not self.end(epoch).exists():  # otherwise another process was first: its end is as good
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


class Results:
    """A results root.

    Args:
        root: local or shared folder; made when the first record is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def trial(self, digest: str) -> TrialFolder:
        """Return the folder of the trial with this identity."""
        return TrialFolder(self._place("trials", digest), digest)

    def stage(self, digest: str) -> StageFolder:
        """Return the folder of the pretraining with this identity."""
        return StageFolder(self._place("stages", digest), digest)

    def _place(self, kind: str, digest: str) -> Path:
        for digits in range(ID_DIGITS, len(digest) + 1, 4):
            path = self.root / kind / digest[:digits]
            config = read_json(path / "config.json")
            if config is None or config["digest"] == digest:
                return path
        raise AssertionError("two equal digests that differ")

    def study(self, name: str, variant: str) -> StudyFolder:
        """Return the folder of a study's plans and tables; ``variant`` is ``<data>-<preset>``."""
        return StudyFolder(self.root / name / variant)

    def ray(self, study: str) -> Path:
        """Return the folder of Ray's own records."""
        return self.root / "ray" / study

    def check_writable(self) -> None:
        """Raise a UsageError when nothing can be written below the root; it leaves nothing behind."""
        made = [place for place in (self.root, *self.root.parents) if not place.exists()]
        try:
            below = [self.root / name for name in ("trials", "stages") if (self.root / name).exists()]
            for place in (self.root, *below):
                with whole_file(place / ".writable") as temporary:
                    temporary.touch()
                (place / ".writable").unlink(missing_ok=True)
            for place in made:
                with suppress(OSError):  # another process has written there meanwhile
                    place.rmdir()
        except OSError as error:
            raise UsageError(
                f"Cannot write to the results root {self.root}: {error.strerror}. "
                "Give a folder that you may write to with --results DIR."
            ) from error


class StudyFolder:
    """What was asked for, and everything derived from the trials' records.

    Args:
        path: ``<root>/<study>/<data>-<preset>``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def results(self) -> Results:
        return Results(self.path.parent.parent)

    @property
    def tables(self) -> Path:
        return self.path / "tables"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def parquet(self) -> Path:
        return self.path / "results.parquet"

    @property
    def index(self) -> Path:
        return self.path / "index.csv"

    def write_plan(self, plan: Record) -> None:
        """Keep what was asked for, unless it is what was asked for last."""
        if self.plans()[-1:] != [plan]:
            write_json(self.path / "plans" / f"{new_attempt()}.json", {"plan": plan})

    def plans(self) -> list[Record]:
        """Return what was asked for, oldest first."""
        return [record["plan"] for record in self._plan_files()]

    def _plan_files(self) -> Iterable[Record]:
        for path in sorted((self.path / "plans").glob("*.json")):
            record = read_json(path)
            if record is not None:
                yield record


def default_root(folder: Path) -> Path:
    """Return the results root that ``cass_tune.toml`` in a folder names, or ``results``."""
    try:
        content = tomllib.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        content = {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / CONFIG_FILE} cannot be read: {error}.") from error
    return Path(str(content.get("results", "results"))).expanduser()


def find_study(name_or_path: str, root: Path) -> list[StudyFolder]:
    """Return the study folders that a name (all its variants) or a path stands for.

    Raises:
        UsageError: there is none; lists the studies that there are.
    """
    path = Path(name_or_path)
    for start in (path, root / name_or_path):
        if (start / "plans").is_dir():
            return [StudyFolder(start.absolute())]
        variants = sorted(p.parent for p in start.glob("*/plans")) if start.is_dir() else []
        if variants:
            return [StudyFolder(variant.absolute()) for variant in variants]
    there = sorted({p.parent.parent.name for p in root.glob("*/*/plans")})
    raise UsageError(
        f"No study {name_or_path!r} below {root.absolute()}. "
        + (f"There are: {', '.join(there)}." if there else "No study has run there yet;")
        + " Give a study's name or path, and the results root with --results DIR."
    )
