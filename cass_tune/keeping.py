"""Which ends of pretrainings are kept, and how much room they take."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Literal

from cass_tune.errors import UsageError
from cass_tune.patience import patience
from cass_tune.results import Results, StageFolder
from cass_tune.storage import remove

logger = logging.getLogger(__name__)

Keep = Literal["all", "wanted", "unfinished"]


def gigabytes(size: float) -> str:
    """Return a number of bytes in words, for example ``1.35 GB``."""
    return f"{size / 1e9:.3g} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"


class Keeping:
    """Deletes the ends of pretrainings that are not needed any more.

    Of what trials of any study go on from, ``wanted`` keeps the ends from which they are finetuned, so that other
    label fractions and settings never pretrain again, and of a trunk, once its trials are finished, the furthest fork;
    ``unfinished`` keeps what trials without a result need, ``all`` everything.

    Args:
        results: root of all records.
        keep: what is kept.
    """

    def __init__(self, results: Results, keep: Keep) -> None:
        self._results = results
        self._keep = keep

    def tidy(self, stages: Iterable[str], to_run: Collection[str] = ()) -> int:
        """Delete what is not needed of these stages and return how many bytes that freed; does not raise.

        Args:
            stages: identities of pretrainings.
            to_run: identities of trials that will still run, whatever result they have already.
        """
        freed = 0
        for digest in stages:
            with suppress(OSError, UsageError), patience(0):
                freed += self._tidy(self._results.stage(digest), to_run)
        return freed

    def tidied(self, stages: Iterable[str]) -> list[str]:
        """Delete what is not needed of these stages; return what is kept and what was freed, in words, if anything."""
        stages = list(stages)
        freed = self.tidy(stages)
        with suppress(OSError, UsageError), patience(0):
            ends, kept = self.size(stages)
            more = f"; {gigabytes(freed)} deleted, which --keep-stages {self._keep} does not keep" if freed else ""
            return [f"pretrainings kept: {ends}, {gigabytes(kept)}{more}"] if ends or freed else []
        return []

    def size(self, stages: Iterable[str]) -> tuple[int, int]:
        """Return how many ends of these stages are stored, and their bytes."""
        found = [(stage, epoch) for stage in map(self._results.stage, stages) for epoch in stage.ends()]
        return len(found), sum(stage.end_bytes(epoch) for stage, epoch in found)

    def _tidy(self, stage: StageFolder, to_run: Collection[str]) -> int:
        ends, wanted = stage.ends(), stage.wanted_ends()
        if ends and wanted and set(wanted) <= set(ends) and not stage.is_held():
            remove(stage.checkpoints)  # left by a process that was killed after it had stored the last end
        freed = 0
        for epoch in ends if self._keep != "all" else ():
            trials = wanted.get(epoch, set())
            if trials.isdisjoint(to_run) and not self._is_needed(stage, trials, is_furthest=epoch == ends[-1]):
                size = stage.end_bytes(epoch)
                stage.remove_end(epoch)
                freed += size
                logger.info("deleted %s, %d bytes, which no trial needs", stage.end(epoch), size)
        return freed

    def _is_needed(self, stage: StageFolder, trials: Iterable[str], *, is_furthest: bool) -> bool:
        if self._keep == "wanted" and not (stage.is_trunk() and not is_furthest):
            return bool(trials)
        return any(not self._results.trial(trial).is_finished() for trial in trials)
