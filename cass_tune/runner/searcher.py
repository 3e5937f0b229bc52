"""Handing trials to Ray Tune one by one: those of a search are not known before others have ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune.search import Searcher

MOST_TRIALS = 2**31
"""More than any search has: it ends by itself, not by Ray Tune's count."""

Run = Mapping[str, Any]


class TrialSearcher(Searcher):
    """Ray Tune's view of a supply of trials.

    While no trial is live, Ray Tune waits for an answer in a loop that heeds no signal; so it is then told that there
    will be no more, and whoever started it starts it again with what is left.

    Args:
        first: what the first trials are told, in order.
        further: returns what a further trial is told, or None: none at present.
        is_stopping: whether no trial may start any more.
    """

    def __init__(
        self, first: Sequence[Run], further: Callable[[], Run | None], is_stopping: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._first = list(first)
        self._further = further
        self._is_stopping = is_stopping
        self._live: set[str] = set()

    def __reduce__(self) -> Any:  # Ray pickles the Tuner with its searcher; nobody of ours ever restores it
        return Searcher, ()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the configuration of the next trial, None to be asked again, or `Searcher.FINISHED`."""
        if self._is_stopping():
            return Searcher.FINISHED
        run = self._first.pop(0) if self._first else self._further()
        if run is not None:
            self._live.add(trial_id)
            return {"run": dict(run)}
        return None if self._live else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take note that a trial is over."""
        self._live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: what a search knows is in its own records."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""
