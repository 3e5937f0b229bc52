"""The trials of a run: those that are known when it begins, and those that are found while others run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cass_tune.budget import Gate
from cass_tune.console import Progress
from cass_tune.durations import Durations
from cass_tune.estimate import Estimator
from cass_tune.events import TrialEvents
from cass_tune.notices import Stop
from cass_tune.plan import Wanted


class Supply(Protocol):
    """Trials that are not known before others have ended."""

    def next(self, has_settled: Callable[[str], bool]) -> Wanted | None:
        """Return a trial to be run, or None: none at present; it does not wait.

        Args:
            has_settled: returns whether a trial of this run is over, by its identity.
        """
        ...

    def is_over(self) -> bool:
        """Return whether no trial will come any more."""
        ...


class Further(Protocol):
    """The further trials of a run."""

    def next(self) -> Wanted | None:
        """Return a further trial, or None: none at present."""
        ...

    def is_over(self) -> bool:
        """Return whether no trial will come any more."""
        ...


class NothingMore:
    """The supply of a study whose trials are all known."""

    def next(self, has_settled: Callable[[str], bool]) -> Wanted | None:
        """Return None."""
        return None

    def is_over(self) -> bool:
        """Return True."""
        return True


@dataclass(frozen=True, kw_only=True)
class Run:
    """The trials of a run, and what follows them.

    Args:
        missing: trials to run, in order; those of the supply are added.
        late: finished trials that are only probed.
        own: epochs of pretraining that each computes itself, by its identity.
        estimator: judges them.
        progress: shows them.
        events: is told what they do.
        gate: says which may start.
        durations: how long they take on which kind of card.
        supply: further trials.
        added: is told about each of them.
        stop: asked to stop the run when the supply fails.
        errors: with which the supply failed.
    """

    missing: list[Wanted]
    late: Sequence[Wanted]
    own: Mapping[str, int]
    estimator: Estimator
    progress: Progress
    events: TrialEvents
    gate: Gate
    durations: Durations
    supply: Supply
    added: Callable[[Wanted], None]
    stop: Stop
    errors: list[Exception] = field(default_factory=list)

    def next(self) -> Wanted | None:
        """Return a further trial, which is part of the run from now on, or None: none at present."""
        if self.errors:
            return None
        try:
            item = self.supply.next(self.events.has_settled)
        except Exception as error:  # trials that run save their state first
            self.errors.append(error)
            self.stop.request("no further trial can be found")
            return None
        if item is not None:
            self.missing[:] = [*(other for other in self.missing if other.digest != item.digest), item]
            self.added(item)
        return item

    def is_over(self) -> bool:
        """Return whether no trial will come any more."""
        return self.supply.is_over()

    def rest(self) -> list[Wanted]:
        """Return the trials of this run that are neither done nor failed."""
        return [item for item in (*self.missing, *self.late) if not self.events.has_settled(str(item.digest))]
