"""Which trial starts next, with which place: the decisions of `cass_tune.placement` for Ray Tune's trials."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from ray.tune.experiment import Trial

from cass_tune.errors import UsageError
from cass_tune.fitting import Fit, Fitting
from cass_tune.placement import CPU, Busy, Group, Node, Place, Placement, shared
from cass_tune.plan import Wanted
from cass_tune.runner.autoscaling import Autoscaling
from cass_tune.runner.places import PlaceManager, PlaceRequest, is_alive, nodes

if TYPE_CHECKING:
    from cass_tune.durations import Durations

NODES_EVERY_S = 1.0
"""Least time between two questions about the machines that there are."""
ORDER_EVERY_S = 10.0
"""Least time between two judgements of the order of the same trials."""
PATIENCE_S = 10.0
"""How long a trial waits for a card that somebody else on the cluster may have, when another one is free."""
LACK_EVERY_S = 10.0
"""Least time between two judgements of which machines are lacking."""
TAKEN_S = 60.0
"""How long a card that was waited for in vain is left out."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What the trials of a run ask for.

    Args:
        cpus: cores of each.
        fitting: how a trial is placed on a kind of card.
        uses_cards: whether trials want cards at all.
        device: of trials with a card, ``cuda``, or ``cpu`` where cards are only counted.
        probed: identities of finished trials that are only probed, for which cores alone do, too.
        alone: how a trial is placed that ran out of memory.
        kinds: of card by machine, and by Ray's label for other machines; where neither is known it is the label.
        may_grow: whether machines may be added for trials that wait (`cass_tune.runner.autoscaling`).
        is_own_ray: whether Ray's processes have the environment of this one.
    """

    cpus: float
    fitting: Fitting
    uses_cards: bool
    device: str
    probed: Collection[str] = ()
    alone: Fit = field(default_factory=Fit)
    kinds: Mapping[str, str] = field(default_factory=dict)
    may_grow: bool = False
    is_own_ray: bool = False

    def named(self, node: Node) -> Node:
        """Return a machine that Ray describes with the kind of its cards by which the fitting knows them."""
        return replace(node, kind=self.kinds.get(node.name) or self.kinds.get(node.kind, node.kind))

    def fit(self, item: Wanted, kind: str, *, is_alone: bool = False) -> Fit | None:
        """Return how a trial is placed on a kind of machine, or None: not at all.

        Args:
            item: the trial.
            kind: of the machine's cards, or `CPU`.
            is_alone: whether it ran out of memory, and so wants a whole card.
        """
        if not self.uses_cards:
            return replace(self.fitting(item, CPU), share=0.0)
        if kind == CPU:
            return Fit(share=0.0) if item.digest in self.probed else None
        if is_alone:
            return self.alone
        fit = self._fit(item, kind)
        if fit is not None:
            return replace(fit, share=shared(fit.share))
        # one that was suggested meanwhile, and fits on no card, would wait for ever: alone it fails with what to do
        return None if any(self._fit(item, other) for other in self.kinds.values()) else self.alone

    def _fit(self, item: Wanted, kind: str) -> Fit | None:
        """Return how a trial fits on a kind of card, or None: it has not enough memory."""
        try:
            return self.fitting(item, kind)
        except UsageError:
            return None


class Placing:
    """Gives trials their places.

    Args:
        of: returns what is wanted of one of Ray's trials.
        is_ready: whether a trial can start now, given those that are live.
        demand: what trials ask for.
        durations: how long they take.
        manager: sets the places aside.
    """

    def __init__(
        self,
        of: Callable[[Trial], Wanted],
        is_ready: Callable[[Wanted, list[Wanted]], bool],
        demand: Demand,
        durations: Durations,
        manager: PlaceManager,
    ) -> None:
        self._of = of
        self._is_ready = is_ready
        self._demand = demand
        self._durations = durations
        self._manager = manager
        self._placement = Placement[Wanted](self._share, demand.cpus, durations.seconds)
        self._alone: set[str] = set()
        self._since: dict[str, float] = {}
        self._nodes: list[Node] = []
        self._looked = -NODES_EVERY_S
        self._taken: list[tuple[float, str]] = []
        """Cards that others on the cluster have: until when that is believed, and the machine."""
        self._ranks: dict[str, int] = {}
        self._ranked = -ORDER_EVERY_S
        self._autoscaling = Autoscaling() if demand.may_grow else None
        self._lacking: list[Group] = []
        self._judged = -LACK_EVERY_S

    def choose(self, waiting: Sequence[Trial], live: Sequence[Trial]) -> Trial | None:
        """Return the trial that starts now, which has its place from then on, or None.

        Args:
            waiting: trials in order, where nothing else is known of them.
            live: trials that run, or are about to.
        """
        present = self._present()
        running = [self._of(trial) for trial in live]
        trials = {str(self._of(trial).digest): trial for trial in self._in_order(waiting, running, present)}
        items = [self._of(trial) for trial in trials.values()]

        def is_ready(item: Wanted, ahead: list[Wanted]) -> bool:
            return self._is_ready(item, [*running, *ahead])

        chosen = self._placement.choose(items, present, self._busy(live), is_ready)
        if chosen is None:
            self._ask_for_machines(items, is_ready)
            return None
        self.ask_for_nothing()  # which could be given what the place of this one needs
        item, place = chosen
        trial = trials[str(item.digest)]
        fit = self._fit(item, place.group.kind)
        device = self._demand.device if place.gpus else CPU
        trial.config["place"] = {"kind": place.group.kind, "device": device, **asdict(fit or Fit())}
        trial.update_resources(PlaceRequest(place))
        self._since[trial.trial_id] = time.monotonic()
        return trial

    def is_stuck(self, trial: Trial, live: Sequence[Trial]) -> bool:
        """Return whether a trial that has not started should wait for another place than the one that it has.

        Its machine is gone, or will be, or somebody else has the card and another one is free.
        """
        place = place_of(trial)
        if trial.temporary_state.ray_actor is not None:  # it goes on in a process that is there
            return False
        present = self._present()
        if place.group.node not in {node.name for node in present}:
            if not is_alive(place.group.node):
                self._manager.abandon(place)
            return True
        waited_s = time.monotonic() - self._since[trial.trial_id]
        if waited_s < PATIENCE_S or self._manager.is_set_aside(place):
            return False
        if self._placement.choose([self._of(trial)], present, self._busy(live)) is None:
            return False
        self._taken.append((time.monotonic() + TAKEN_S, place.group.node))
        return True

    def _ask_for_machines(self, items: Sequence[Wanted], is_ready: Callable[[Wanted, list[Wanted]], bool]) -> None:
        """Ask for machines like those that there are, on which trials could start that wait."""
        if self._autoscaling is None:
            return
        now = time.monotonic()
        if now - self._judged >= LACK_EVERY_S:
            self._judged, self._lacking = now, self._placement.lacking(items, self._nodes, is_ready)
        self._autoscaling.want(self._lacking)

    def ask_for_nothing(self) -> None:
        """Take back what was asked for."""
        if self._autoscaling is not None:
            self._autoscaling.want([])

    def learn(self, trial: Trial, row: dict[str, object]) -> None:
        """Take in the row of an epoch."""
        self._durations.learn(self._of(trial), place_of(trial).group.kind, row)

    def give_a_card(self, item: Wanted) -> None:
        """Give a trial a whole card from now on, because it ran out of memory."""
        self._alone.add(str(item.digest))

    def _fit(self, item: Wanted, kind: str) -> Fit | None:
        return self._demand.fit(item, kind, is_alone=str(item.digest) in self._alone)

    def _share(self, item: Wanted, kind: str) -> float | None:
        fit = self._fit(item, kind)
        return None if fit is None else fit.share

    def _busy(self, live: Sequence[Trial]) -> list[Busy]:
        places = [(trial, place_of(trial)) for trial in live]
        return [
            Busy(place=place, left_s=self._durations.seconds(self._of(trial), place.group.kind))
            for trial, place in places
        ]

    def _present(self) -> list[Node]:
        """Return the machines, without the cards that others have."""
        now = time.monotonic()
        if now - self._looked >= NODES_EVERY_S:
            self._looked, self._nodes = now, [self._demand.named(node) for node in nodes()]
        self._taken = [(until, node) for until, node in self._taken if until > now]
        return [self._less(node, sum(name == node.name for _, name in self._taken)) for node in self._nodes]

    def _less(self, node: Node, taken: int) -> Node:
        if self._demand.uses_cards:
            return replace(node, cards=max(0, node.cards - taken))
        return replace(node, cpus=max(0.0, node.cpus - taken * self._demand.cpus))

    def _in_order(self, waiting: Sequence[Trial], running: list[Wanted], present: Sequence[Node]) -> list[Trial]:
        is_old = time.monotonic() - self._ranked >= ORDER_EVERY_S
        if is_old or any(trial.trial_id not in self._ranks for trial in waiting):
            items = {id(item): trial for trial in waiting for item in [self._of(trial)]}
            at_once = sum(node.cards if self._demand.uses_cards else node.cpus // self._demand.cpus for node in present)
            ordered = self._durations.in_order([self._of(trial) for trial in waiting], int(at_once), running)
            self._ranks = {items[id(item)].trial_id: rank for rank, item in enumerate(ordered)}
            self._ranked = time.monotonic()
        return sorted(waiting, key=lambda trial: self._ranks[trial.trial_id])


def place_of(trial: Trial) -> Place:
    """Return the place of a trial that has one."""
    request = trial.placement_group_factory
    assert isinstance(request, PlaceRequest)
    return request.place
