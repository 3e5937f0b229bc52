"""What happens to the trials of a run: shown to the user, and looked at for a mistake that will fail them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cass_tune.budget import Budget
from cass_tune.console import Progress
from cass_tune.notices import Stop
from cass_tune.overview import failure_line, headline, position_text
from cass_tune.pace import PHASES
from cass_tune.results import Record, Results

ALIKE = 2
"""So many first trials that fail with one and the same error before any training step stop the study."""


class TrialEvents:
    """Takes note of what the trials of one run do.

    Args:
        results: root of all records.
        progress: shows it.
        stop: asked to stop the study when the first trials fail alike.
        finished: called with the identity of every trial that has a result.
        budget: learns how long trials take.
    """

    def __init__(
        self,
        results: Results,
        progress: Progress,
        stop: Stop,
        finished: Callable[[str], object] = lambda digest: None,
        budget: Budget | None = None,
    ) -> None:
        self._results = results
        self._progress = progress
        self._stop = stop
        self._finished = finished
        self._budget = budget
        self._settled: list[Record | None] = []
        self._resumed: set[str] = set()
        self._pretrained: set[str] = set()
        self.common_failure: Record | None = None
        self.failed_digests: set[str] = set()
        """Trials that failed for good in this run, whatever another process makes of them meanwhile."""

    def started(self, digest: str) -> None:
        """Take note that a trial starts, for the first time or again."""
        self._progress.start(digest)
        self._resumed.discard(digest)
        self._pretrained.discard(digest)
        if self._budget:
            self._budget.started(digest)

    def row(self, digest: str, row: Mapping[str, Any]) -> None:
        """Take note of an epoch's row."""
        if row["phase"] in PHASES[1:]:
            self._pretrained.add(digest)
        if row["reused"] is not True and digest not in self._resumed:
            self._resumed.add(digest)
            attempts = self._results.trial(digest).attempts()
            if attempts and attempts[-1]["resumed"]:
                self._progress.resume(digest, position_text(attempts[-1]["resumed"]))
        self._progress.row(digest, row)
        if self._budget:
            self._budget.row(digest, row)

    def ended(self, digest: str) -> None:
        """Take note that a trial ended by itself; without a result it is still to be run."""
        record = self._results.trial(digest).outcome()
        if record is not None:
            self._settled.append(None)
            self._progress.finish(digest, headline(record))
            self._finished(digest)
            if self._budget:
                self._budget.ended(digest)

    def has_pretrained(self, digest: str) -> bool:
        """Return whether a trial has finished an epoch after its pretraining since it started last."""
        return digest in self._pretrained

    def has_settled(self, digest: str) -> bool:
        """Return whether a trial is done, pruned or failed; after an interruption some are not."""
        return self._progress.has_settled([digest])

    def waiting(self) -> None:
        """Take note that other processes compute all that is left."""
        self._progress.waiting()

    def left(self, digest: str, why: str) -> None:
        """Take note that a trial was interrupted, or waits, and will be run again."""
        self._pretrained.discard(digest)
        self._progress.interrupt(digest, why)

    def failed(self, digest: str) -> None:
        """Take note that a trial failed for good; without a recorded failure it is still to be run."""
        failure = self._results.trial(digest).failure()
        if failure is None:
            return
        if failure["type"] == "Pruned":
            self._settled.append(None)
            self._progress.prune(digest, failure["message"])
            return
        self._settled.append(failure)
        self.failed_digests.add(digest)
        self._progress.fail(digest, failure_line(failure))
        first = self._settled[:ALIKE]
        if len(self._settled) == ALIKE and all(map(_before_any_step, first)) and len(set(map(_error, first))) == 1:
            self.common_failure = failure
            self._stop.request("the first trials failed alike")

    def stopping(self, reason: str) -> None:
        """Take note that the study is being stopped."""
        self._progress.stopping(reason)


def _before_any_step(failure: Record | None) -> bool:
    if failure is None or failure["may_pass"]:
        return False
    position = failure.get("position")
    return not position or (position["phase"] != "finetune_vit" and not position["epoch"] and not position["batch"])


def _error(failure: Record | None) -> tuple[str, str]:
    assert failure is not None
    return failure["type"], (failure["message"].strip().splitlines() or [""])[0]
