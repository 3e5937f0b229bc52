"""What becomes of a trial whose process ended without finishing it: tried again, or failed for good.

A lost process or machine is not the trial's failure. But three deaths in a row without a new checkpoint in between are
its own doing (it kills its process, or what it needs is more than there is), and it fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial

from cass_tune.plan import Wanted
from cass_tune.results import Results
from cass_tune.runner.trainable import FAILED, HELD, LEFT, OUT_OF_MEMORY, RETRIED, UNSAVED

MOST_DEATHS = 3
MOST_SHORTAGES = 1
"""So often a trial that ran out of memory is tried again, alone on a card."""
_EVENTS = (FAILED, HELD, LEFT, OUT_OF_MEMORY, RETRIED, UNSAVED)


@dataclass
class _State:
    event: str | None = None
    """The last of `_EVENTS` that the trial reported; None: its process died."""
    retries: int = 0
    shortages: int = 0
    """How often the GPU's memory was not enough."""
    deaths: int = 0
    mark: Any = None
    """What was stored of the trial at its last death."""


class Retries:
    """Decides for Ray Tune, whose own count of failures takes a lost machine for one.

    Args:
        results: root of all records.
        max_failures: how often an exception of a trial's own code may be followed by another attempt.
    """

    def __init__(self, results: Results, max_failures: int) -> None:
        self._results = results
        self._max_failures = max_failures
        self._states: dict[str, _State] = {}

    def _state(self, wanted: Wanted) -> _State:
        return self._states.setdefault(str(wanted.digest), _State())

    def reported(self, trial: Trial, wanted: Wanted, phase: object) -> None:
        """Take note of a row; a trial that says that it has failed for good is not tried again."""
        state = self._state(wanted)
        state.event = phase if phase in _EVENTS else None  # type: ignore[assignment]
        if phase == RETRIED:
            state.retries += 1
        if phase == OUT_OF_MEMORY:
            state.shortages += 1
        if phase == FAILED or state.retries > self._max_failures or state.shortages > MOST_SHORTAGES:
            trial.max_failures = 0
        elif state.event is not None or state.deaths < MOST_DEATHS - 1:  # an epoch alone is no progress that stays
            trial.max_failures = -1

    def recovered(self, trial: Trial, wanted: Wanted) -> str:
        """Take note that Ray Tune tries a trial again; return why: HELD, LEFT, OUT_OF_MEMORY, or words for people."""
        state = self._state(wanted)
        event, state.event = state.event, None
        if event is not None:
            self._limit(trial, state)
            return {RETRIED: "an error", UNSAVED: "its records cannot be written"}.get(event, event)
        self._count_death(state, wanted)
        self._limit(trial, state)
        return "its process or machine was lost"

    def _limit(self, trial: Trial, state: _State) -> None:
        """Allow no further death on the last chance: Ray Tune decides before it asks."""
        if state.deaths >= MOST_DEATHS - 1:
            trial.max_failures = trial.run_metadata.num_failures

    def look_for_progress(self, trial: Trial, wanted: Wanted) -> None:
        """Allow a trial that is on its last chance further ones, when a checkpoint was written."""
        state = self._state(wanted)
        if state.deaths >= MOST_DEATHS - 1 and self._mark(wanted) != state.mark:
            state.deaths = 0
            trial.max_failures = -1

    def is_on_last_chance(self, wanted: Wanted) -> bool:
        """Return whether the next death without a new checkpoint fails the trial."""
        return self._state(wanted).deaths >= MOST_DEATHS - 1

    def gave_up(self, wanted: Wanted, text: str) -> None:
        """Record the failure of a trial that Ray Tune does not try again, if the trial could not do so itself."""
        state, folder = self._state(wanted), self._results.trial(str(wanted.digest))
        event, state.event = state.event, None
        if folder.failure() is not None or folder.result() is not None or event in (HELD, LEFT, UNSAVED):
            return
        if event is not None:
            folder.fail("NotRecorded", f"the trial failed and could not record it: {text}", text, may_pass=True)
            return
        self._count_death(state, wanted)
        if state.deaths >= MOST_DEATHS:
            message = f"dies without progress: its process died {state.deaths} times without a new checkpoint between"
            folder.fail("DiesWithoutProgress", f"{message}. {text}".strip(), text, may_pass=True)

    def _count_death(self, state: _State, wanted: Wanted) -> None:
        mark = self._mark(wanted)
        state.deaths = state.deaths + 1 if mark == state.mark else 1
        state.mark = mark

    def _mark(self, wanted: Wanted) -> Any:
        """Return something that changes with every new checkpoint and every stored pretraining."""
        from cass_tune.checkpoints import Checkpoints  # with torch, which takes two seconds to import

        trial = Checkpoints(self._results.trial(str(wanted.digest)).checkpoints).names()
        stages = [self._results.stage(segment.stage) for segment in wanted.segments]
        return trial, [(Checkpoints(stage.checkpoints).names(), stage.ends()) for stage in stages]
