"""What the folders of trials and stages have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from cass_tune.errors import UsageError
from cass_tune.leases import HOLDER_FILE, is_held
from cass_tune.lines import Lines
from cass_tune.results.records import Record, files, read_rows, whole
from cass_tune.storage import AnyPath, read_json, write_json


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
        if whole(self.path / "config.json", "digest") is None:
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
        return files(self.path, leave_out=("checkpoints", "earlier", "ends", HOLDER_FILE))

    def weights(self, arm: str) -> AnyPath:
        return self.path / f"{arm}.safetensors"

    def is_held(self) -> bool:
        """Return whether a process that lives works here (`cass_tune.leases`)."""
        return is_held(self.path)
