"""Whether a trial can start: nobody computes it, and nobody computes the pretraining that it would take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from cass_tune.identity import Segment
from cass_tune.patience import patience
from cass_tune.plan import Wanted
from cass_tune.results import Results


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
        self._answers: dict[object, bool] | None = None

    @contextmanager
    def round(self) -> Iterator[None]:
        """Ask about each stage once in the block, however many trials need it."""
        self._answers = {}
        try:
            yield
        finally:
            self._answers = None

    def __call__(self, wanted: Wanted, live: Iterable[Wanted] = ()) -> bool:
        """Return whether a trial can start now; while records cannot be read, none can.

        Args:
            wanted: the trial.
            live: trials that this driver runs now.
        """
        try:
            with patience(0):
                return self._ask(wanted, list(live))
        except OSError:
            return False

    def _ask(self, wanted: Wanted, live: Sequence[Wanted]) -> bool:
        if self._is_computed(self._missing(wanted), live):
            return not live and self._is_finished(wanted)  # elsewhere; while others run, that can wait
        return not self._results.trial(str(wanted.digest)).is_held() or self._is_finished(wanted)

    def _is_computed(self, needs: Sequence[str], live: Sequence[Wanted]) -> bool:
        """Return whether one of these stages is being computed, or is about to be."""
        at_it = [other for other in live if needs and not self._has_pretrained(str(other.digest))]
        here = {stage for other in at_it for stage in self._missing(other)}
        return not here.isdisjoint(needs) or any(map(self._is_held, needs))

    def _is_finished(self, wanted: Wanted) -> bool:
        return self._results.trial(str(wanted.digest)).is_finished_for(self._redo)

    def _missing(self, wanted: Wanted) -> list[str]:
        """Return the stages in which a trial would have to compute something: those after the last stored end."""
        missing: list[str] = []
        for segment in reversed(wanted.segments):
            if self._has_end(segment):
                break
            missing.append(segment.stage)
        return missing

    def _has_end(self, segment: Segment) -> bool:
        return self._once(segment, lambda: self._results.stage(segment.stage).has_end(segment.end))

    def _is_held(self, stage: str) -> bool:
        return self._once(stage, lambda: self._results.stage(stage).is_held())

    def _once(self, question: object, ask: Callable[[], bool]) -> bool:
        if self._answers is None:
            return ask()
        if question not in self._answers:
            self._answers[question] = ask()
        return self._answers[question]
