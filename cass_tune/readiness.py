"""Whether a trial can start: nobody computes it, and nobody computes the pretraining that it would take."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cass_tune.plan import Wanted
from cass_tune.results import Results
from cass_tune.storage import patience


class Readiness:
    """Asks the results root.

    Args:
        results: root of all records.
        redo: name of the command's run if it computes every trial anew, otherwise None.
        has_pretrained: whether a trial that this driver runs is past its pretraining, by its identity.
    """

    def __init__(
        self, results: Results, redo: str | None = None, has_pretrained: Callable[[str], bool] = lambda digest: False
    ) -> None:
        self._results = results
        self._redo = redo
        self._has_pretrained = has_pretrained

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
        needs = self._missing(wanted)
        if needs:
            at_it = [other for other in live if not self._has_pretrained(str(other.digest))]
            computed_here = {stage for other in at_it for stage in self._missing(other)}
            if not computed_here.isdisjoint(needs) or any(self._results.stage(stage).is_held() for stage in needs):
                return folder.is_finished_for(self._redo)
        return not folder.is_held() or folder.is_finished_for(self._redo)

    def _missing(self, wanted: Wanted) -> list[str]:
        """Return the stages in which a trial would have to compute something: those after the last stored end."""
        missing: list[str] = []
        for segment in reversed(wanted.segments):
            if self._results.stage(segment.stage).has_end(segment.end):
                break
            missing.append(segment.stage)
        return missing
