"""Which trial starts when: those that are ready, as many as there are places, and none that another process computes.

Ray Tune has no dependencies between trials. A trial that must wait is kept PAUSED: it holds neither a process nor a CPU
or GPU. The states that this relies on are Ray 2.60's; `tests/test_scheduler.py` holds them fast.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from cass_tune.runner.trainable import HELD

ASK_EVERY_S = 2.0
"""Least time between two questions to the results root about the trials that wait."""
IDLE_S = 0.1
"""Pause of Ray Tune's loop while nothing runs: without it the loop spins."""


class Places(Protocol):
    """Where trials can run."""

    def choose(self, waiting: Sequence[Trial], live: Sequence[Trial]) -> Trial | None:
        """Return the trial that starts now, with the resources of its place, or None.

        Args:
            waiting: trials that wait.
            live: trials that run, or are about to.
        """
        ...

    def is_stuck(self, trial: Trial, live: Sequence[Trial]) -> bool:
        """Return whether a trial that has a place, but has not started, should get another one."""
        ...


class StudyScheduler(TrialScheduler):
    """Holds trials back until they are ready and there is a place; everything else is another scheduler's decision.

    Args:
        places: says which trial starts; asked at most every `ASK_EVERY_S`, and whenever a trial has ended.
        is_stopping: whether no trial may start any more.
        ask_every_s: least time between two rounds of questions.
        inner: decides about the trials that run, for example an ``ASHAScheduler``.
        asking: returns a block for one round of questions.
    """

    def __init__(
        self,
        places: Places,
        is_stopping: Callable[[], bool] = lambda: False,
        ask_every_s: float | None = None,
        inner: TrialScheduler | None = None,
        asking: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        super().__init__()
        self._places = places
        self._is_stopping = is_stopping
        self._ask_every_s = ASK_EVERY_S if ask_every_s is None else ask_every_s
        self._inner = inner or FIFOScheduler()
        self._asking = asking
        self._waiting: list[Trial] = []
        self._known: set[str] = set()
        self._held: set[str] = set()
        self._asked = 0.0
        self._looked = 0.0
        self._next: Trial | None = None
        """The trial that takes over the place, and with it the process, of one that has just ended."""

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
            _unwrapped(tune_controller)._resetting_trials.discard(trial)  # it would never be started again (Ray 2.60)
            tune_controller._set_trial_status(trial, Trial.PAUSED)
            place = len(self._waiting) if trial.trial_id in self._held else 0
            self._held.discard(trial.trial_id)
            self._waiting.insert(place, trial)
        self._asked = 0.0

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the next trial that has a place; a new answer at most every 2 s, or when a trial has ended."""
        following = self._take_back(tune_controller)
        live = _live(tune_controller)
        if self._is_stopping():
            self._rest(live)
            return None
        if following is not None:
            self._waiting.remove(following)
            return following
        self._free_the_stuck(tune_controller, live)
        if self._waiting and time.monotonic() - self._asked >= self._ask_every_s:
            chosen = self._choose(_live(tune_controller))
            if chosen is not None:
                self._waiting.remove(chosen)
                return chosen
            self._asked = time.monotonic()
        seen: Any = _Without(tune_controller, self._waiting)
        chosen = self._inner.choose_trial_to_run(seen)
        if chosen is None:
            self._rest(live)
        return chosen

    def _choose(self, live: Sequence[Trial]) -> Trial | None:
        with self._asking():
            return self._places.choose(self._waiting, live)

    def _free_the_stuck(self, tune_controller: Any, live: Sequence[Trial]) -> None:
        """Let trials wait again that cannot get their places."""
        if time.monotonic() - self._looked < self._ask_every_s:
            return
        self._looked = time.monotonic()
        for trial in [trial for trial in live if trial.status == Trial.PENDING]:
            if self._places.is_stuck(trial, live):
                _unwrapped(tune_controller)._unstage_trial_with_resources(trial)
                tune_controller.pause_trial(trial, should_checkpoint=False)
                self._waiting.insert(0, trial)
                self._asked = 0.0

    def _rest(self, live: Sequence[Trial]) -> None:
        if not live:
            time.sleep(IDLE_S)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._asked = 0.0
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if result.get("phase") == HELD:
            self._held.add(trial.trial_id)
        return self._inner.on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._asked = 0.0
        self._inner.on_trial_complete(tune_controller, trial, result)
        self._take_back(tune_controller)
        if self._waiting and not self._is_stopping():
            self._hand_over(_unwrapped(tune_controller), trial)

    def _hand_over(self, controller: Any, ended: Trial) -> None:
        """Let Ray Tune keep a process whose place the next trial gets: it does so for trials that it has staged."""
        chosen = self._choose([trial for trial in _live(controller) if trial is not ended])
        if chosen is not None:
            controller._staged_trials.add(chosen)
            controller._actor_cache.increase_max(chosen.placement_group_factory)
            self._next = chosen

    def _take_back(self, tune_controller: Any) -> Trial | None:
        """Return the trial that was said to be staged, if there is one; it still waits."""
        chosen, self._next = self._next, None
        if chosen is not None:
            _unwrapped(tune_controller)._unstage_trial_with_resources(chosen)
        return chosen

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        if self._next is trial:
            self._take_back(tune_controller)
        self._waiting = [waiting for waiting in self._waiting if waiting is not trial]
        self._inner.on_trial_remove(tune_controller, trial)

    def debug_string(self) -> str:
        return f"StudyScheduler: {len(self._waiting)} trials wait\n{self._inner.debug_string()}"


def _live(controller: Any) -> list[Trial]:
    return [trial for trial in controller.get_trials() if trial.status in (Trial.PENDING, Trial.RUNNING)]


def _unwrapped(controller: Any) -> Any:
    """Return Ray Tune's controller itself: schedulers are given it with or without a wrapper that hides most of it."""
    return getattr(controller, "_tune_controller", controller)


class _Without:
    """A Tune controller that does not show the trials that wait: FIFO would start every paused one."""

    def __init__(self, controller: Any, hidden: list[Trial]) -> None:
        self._controller = controller
        self._hidden = hidden

    def get_trials(self) -> list[Trial]:
        return [trial for trial in self._controller.get_trials() if trial not in self._hidden]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._controller, name)
