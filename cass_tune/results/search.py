"""The folder of a search."""

from __future__ import annotations

from cass_tune.results.records import Record
from cass_tune.storage import AnyPath, read_json, write_json


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
