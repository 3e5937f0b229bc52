"""The folder of a pretraining."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress

from cass_tune.identity import ID_DIGITS, digest
from cass_tune.results.folder import Folder
from cass_tune.results.records import Record, whole
from cass_tune.storage import AnyPath, remove, size, sweep, write_json

logger = logging.getLogger(__name__)


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
        return whole(self.end(epoch) / "run.json") or {}

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
        if whole(path) != record:
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
        found = {path: whole(path, "ends", "is_trunk") for path in (folder.glob("*.json") if folder.is_dir() else ())}
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
