"""Which trials can still finish within the hours that a study may take; the others are not started."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from statistics import fmean
from typing import Any

from cass_tune.config import to_json
from cass_tune.estimate import Estimator, seconds
from cass_tune.pace import PHASES, Pace
from cass_tune.patience import patience
from cass_tune.plan import Wanted
from cass_tune.readiness import Readiness
from cass_tune.results import Results


class Budget:
    """Compares what a trial will take with the time that is left, and learns from the trials of this run.

    Args:
        hours: by the clock, for everything that is started.
        started: when they began, by `clock`.
        estimator: judges what has not run yet in this run.
        results: root of all records.
        items: trials of the run.
        clock: returns seconds.
        redo: name of the command's run if it computes every trial anew, otherwise None.
    """

    def __init__(
        self,
        hours: float,
        started: float,
        estimator: Estimator,
        results: Results,
        items: Iterable[Wanted],
        clock: Callable[[], float] = time.monotonic,
        redo: str | None = None,
    ) -> None:
        self._end = started + 3600 * hours
        self._estimator = estimator
        self._results = results
        self._configs = {str(item.digest): to_json(item.trial) for item in items}
        self._clock = clock
        self._redo = redo
        self._pace = Pace()
        self._starts: dict[str, float] = {}
        self._epochs_s: dict[str, float] = {}
        self._overheads_s: list[float] = []

    def add(self, item: Wanted) -> None:
        """Take note of a trial that has been added to the run."""
        self._configs[str(item.digest)] = to_json(item.trial)

    def started(self, digest: str) -> None:
        """Take note that a trial starts."""
        self._starts[digest], self._epochs_s[digest] = self._clock(), 0.0

    def row(self, digest: str, row: Mapping[str, Any]) -> None:
        """Learn from an epoch that was computed in this run."""
        if row["reused"] is not True and row["phase"] in PHASES:
            self._pace.learn(self._configs[digest], self._estimator.counts, [row])
            self._epochs_s[digest] = self._epochs_s.get(digest, 0.0) + row["seconds"]

    def ended(self, digest: str) -> None:
        """Learn how much longer than its epochs a finished trial took: building networks, testing, saving."""
        if self._epochs_s.get(digest):
            whole = self._clock() - self._starts[digest]
            self._overheads_s.append(max(0.0, whole - self._epochs_s[digest]))

    def fits(self, item: Wanted) -> bool:
        """Return whether a trial can finish in the time that is left; what cannot be judged may take any of it."""
        is_finished = self._results.trial(str(item.digest)).is_finished_for(self._redo)
        return is_finished or self._seconds(item) < self._left()

    def may_fit_later(self, item: Wanted) -> bool:
        """Return whether a trial could finish if its pretraining, which another process computes, were there now."""
        return self._seconds(item, is_pretrained=True) < self._left()

    def is_over(self) -> bool:
        """Return whether no time is left."""
        return self._left() <= 0

    def _left(self) -> float:
        return self._end - self._clock()

    def _seconds(self, item: Wanted, *, is_pretrained: bool = False) -> float:
        """Return at least how many seconds a trial will take from now on."""
        digest = str(item.digest)
        own = 0 if is_pretrained else self._estimator.own_epochs([item])[digest]
        is_anew = self._results.trial(digest).starts_anew_for(self._redo)
        epochs = {"pretrain": own, **self._estimator.finetuning(item, is_anew=is_anew)}
        known, _ = seconds(self._configs[digest], self._estimator.counts, epochs, self._judge)
        return known + (fmean(self._overheads_s) if self._overheads_s else 0.0)

    def _judge(self, config: Mapping[str, Any], phase: str) -> float | None:
        here = self._pace.of_kind(config, self._estimator.counts, phase)
        return self._estimator.judge(config, phase) if here is None else here


HELD_BACK_S = 30.0
"""How long a trial is not started again that found a folder held which seemed to be free."""


class Gate:
    """Says which trial may start: nobody computes it or what it needs, and it fits into the budget, if there is one.

    Args:
        results: root of all records.
        budget: the hours that the study may take, or None.
        readiness: says the former; by default what is known of any run.
    """

    def __init__(self, results: Results, budget: Budget | None, readiness: Readiness | None = None) -> None:
        self._is_ready = readiness or Readiness(results)
        self._budget = budget
        self._held_back: dict[str, float] = {}

    @property
    def has_budget(self) -> bool:
        """Whether there are only so many hours."""
        return self._budget is not None

    def round(self) -> AbstractContextManager[None]:
        """Return a block in which many trials are asked about at once, see `Readiness.round`."""
        return self._is_ready.round()

    def hold_back(self, item: Wanted) -> None:
        """Take note that a trial left because another process holds what it needs, whatever is stored: others first."""
        self._held_back[str(item.digest)] = time.monotonic() + HELD_BACK_S

    def __call__(self, item: Wanted, live: Iterable[Wanted] = ()) -> bool:
        """Return whether a trial may start now; while records cannot be read, none may.

        Args:
            item: the trial.
            live: trials that this driver runs now.
        """
        if time.monotonic() < self._held_back.get(str(item.digest), 0.0):
            return False
        if self._budget is None:
            return self._is_ready(item, live)
        try:
            with patience(0):
                return self._is_ready(item, live) and self._budget.fits(item)
        except OSError:
            return False

    def is_closed(self, waiting: Iterable[Wanted]) -> bool:
        """Return whether trials wait of which none will ever fit, while none runs; asking takes its time.

        While records cannot be read, that is so when the time is over.
        """
        budget, items = self._budget, list(waiting)
        if budget is None or not items:
            return False
        try:
            with patience(0), self.round():
                return not any(budget.fits(w) if self._is_ready(w) else budget.may_fit_later(w) for w in items)
        except OSError:
            return budget.is_over()

    def waiting_for_others(self, items: Iterable[Wanted]) -> int:
        """Return how many trials wait for another process, which computes them or what they need."""
        with self.round():
            return sum(not self._is_ready(item) for item in items)
