"""Which trial starts when: in order, as many as there is room for, and none that another process computes.

Ray Tune has no dependencies between trials. A trial that must wait is kept PAUSED: it holds neither a process nor a CPU
or GPU. The states that this relies on are Ray 2.60's; `tests/test_scheduler.py` holds them fast.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from cass_tune.runner.trainable import HELD

ASK_EVERY_S = 2.0
"""Least time between two questions to the results root about the trials that wait."""
IDLE_S = 0.1
"""Pause of Ray Tune's loop while nothing runs: without it the loop spins."""


class StudyScheduler(TrialScheduler):
    """Holds trials back until they are ready; everything else is another scheduler's decision.

    Args:
        is_ready: whether a trial can start now, given those that are live; asked at most every `ASK_EVERY_S`.
        room: how many trials can run at once.
        is_stopping: whether no trial may start any more.
        ask_every_s: least time between two rounds of questions.
        inner: decides about the trials that run, for example an ``ASHAScheduler``.
        asking: returns a block for one round of questions.
    """

    def __init__(
        self,
        is_ready: Callable[[Trial, list[Trial]], bool],
        room: Callable[[], int],
        is_stopping: Callable[[], bool] = lambda: False,
        ask_every_s: float | None = None,
        inner: TrialScheduler | None = None,
        asking: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        super().__init__()
        self._is_ready = is_ready
        self._room = room
        self._is_stopping = is_stopping
        self._ask_every_s = ASK_EVERY_S if ask_every_s is None else ask_every_s
        self._inner = inner or FIFOScheduler()
        self._asking = asking
        self._waiting: list[Trial] = []
        self._known: set[str] = set()
        self._held: set[str] = set()
        self._asked = 0.0
        self._free_places = 0
        """Places of trials that have just ended, which the next trial that is asked for would be given."""

    def __reduce__(self) -> Any:  # Ray pickles the Tuner with its scheduler; nobody of ours ever restores it
        return FIFOScheduler, ()

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return self._inner.set_search_properties(metric, mode, **spec)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Hold a new trial, or one that is to be tried again: the first in order, unless others hold what it needs."""
        if trial.is_finished():
            return
        if trial.trial_id not in self._known:
            self._known.add(trial.trial_id)
            self._inner.on_trial_add(tune_controller, trial)
            trial.set_status(Trial.PAUSED)  # the controller files a new trial after this call
            self._waiting.append(trial)
        else:
            tune_controller._set_trial_status(trial, Trial.PAUSED)
            place = len(self._waiting) if trial.trial_id in self._held else 0
            self._held.discard(trial.trial_id)
            self._waiting.insert(place, trial)
        self._asked = 0.0

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the first trial in order that is ready, if there is room; a new answer at most every 2 s.

        Where a place has become free, the trial that waits for one comes first.
        """
        live = [trial for trial in tune_controller.get_trials() if trial.status in (Trial.PENDING, Trial.RUNNING)]
        if self._is_stopping():
            self._rest(live)
            return None
        staged = [trial for trial in live if trial.status == Trial.PENDING]
        if self._free_places and staged:  # otherwise a later trial overtakes the one that waits for this place
            self._free_places -= 1
            return staged[0]
        self._free_places = 0
        if self._waiting and time.monotonic() - self._asked >= self._ask_every_s and len(live) < self._room():
            with self._asking():
                ready = next((trial for trial in self._waiting if self._is_ready(trial, live)), None)
            if ready is not None:
                self._waiting.remove(ready)
                return ready
            self._asked = time.monotonic()
        seen: Any = _Without(tune_controller, self._waiting)
        chosen = self._inner.choose_trial_to_run(seen)
        if chosen is None:
            self._rest(live)
        return chosen

    def _rest(self, live: list[Trial]) -> None:
        if not live:
            time.sleep(IDLE_S)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if result.get("phase") == HELD:
            self._held.add(trial.trial_id)
        return self._inner.on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._asked = 0.0
        self._free_places += 1
        self._inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self._waiting = [waiting for waiting in self._waiting if waiting is not trial]
        self._inner.on_trial_remove(tune_controller, trial)

    def debug_string(self) -> str:
        return f"StudyScheduler: {len(self._waiting)} trials wait\n{self._inner.debug_string()}"


class _Without:
    """A Tune controller that does not show the trials that wait: FIFO would start every paused one."""

    def __init__(self, controller: Any, hidden: list[Trial]) -> None:
        self._controller = controller
        self._hidden = hidden

    def get_trials(self) -> list[Trial]:
        return [trial for trial in self._controller.get_trials() if trial not in self._hidden]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._controller, name)
