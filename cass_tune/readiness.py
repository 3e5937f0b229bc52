"""Whether a trial can start: nobody computes it, and nobody computes the pretraining that it would take."""

from __future__ import annotations

from collections.abc import Iterable

from cass_tune.plan import Wanted
from cass_tune.results import Results
from cass_tune.storage import patience


class Readiness:
    """Asks the results root.

    Args:
        results: root of all records.
    """

    def __init__(self, results: Results) -> None:
        self._results = results
        self._stored: set[tuple[str, int]] = set()

    def __call__(self, wanted: Wanted, live: Iterable[Wanted] = ()) -> bool:
        """Return whether a trial can start now; while records cannot be read, none can.

        Args:
            wanted: the trial.
            live: trials that this driver runs now.
        """
        try:
            with patience(0):
                return self._ask(wanted, live)
        except OSError:
            return False

    def _ask(self, wanted: Wanted, live: Iterable[Wanted]) -> bool:
        folder = self._results.trial(str(wanted.digest))
        if wanted.pretraining and not self._is_stored(*wanted.pretraining):
            computed_here = any(self._computes(other, wanted.stage) for other in live)
            if computed_here or self._results.stage(str(wanted.stage)).is_held():
                return folder.is_finished()
        return not folder.is_held() or folder.is_finished()

    def _computes(self, other: Wanted, stage: str | None) -> bool:
        return other.stage == stage and other.pretraining is not None and not self._is_stored(*other.pretraining)

    def _is_stored(self, stage: str, epochs: int) -> bool:
        if (stage, epochs) not in self._stored and self._results.stage(stage).has_end(epochs):
            self._stored.add((stage, epochs))
        return (stage, epochs) in self._stored
