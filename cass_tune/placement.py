"""Where trials run: which of those that are ready starts next, and on which card of which machine. Without Ray.

A card is set aside as a whole, and the trials that share it run in it; so an idle card is taken before a second trial
goes to a busy one, whatever Ray would pack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

CPU = "cpu"
"""Kind of a machine without cards."""
GRANULE = 1e-4
"""Smallest part of a resource that Ray knows."""

GAIN = 0.9
"""A trial waits for a faster card only when it will have ended in this part of the time."""

Job = TypeVar("Job")


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine.

    Args:
        name: its identity.
        kind: of its cards, for example ``A100``; empty when they do not say; `CPU` without any.
        cards: how many it has.
        cpus: its CPU cores.
    """

    name: str
    kind: str
    cards: int
    cpus: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """What is set aside on a machine as a whole: a card, with cores for the trials on it, or cores alone.

    Args:
        node: name of the machine.
        kind: of the machine's cards.
        number: tells those on one machine apart.
        gpus: the card, less than 1 where the trials that share it leave a rest; 0 for cores alone.
        cpus: cores.
    """

    node: str
    kind: str
    number: int
    gpus: float
    cpus: float

    @property
    def cards(self) -> int:
        """How many cards nobody else can have: one or none."""
        return int(self.gpus > 0)


@dataclass(frozen=True, kw_only=True)
class Place:
    """What one trial takes of a group.

    Args:
        group: that it runs in.
        gpus: part of a card, or a number of cards; 0 without.
        cpus: cores.
    """

    group: Group
    gpus: float
    cpus: float


@dataclass(frozen=True, kw_only=True)
class Busy:
    """A place that a trial has.

    Args:
        place: the place.
        left_s: seconds until the trial will have ended, or None: not known.
    """

    place: Place
    left_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Offer:
    """A place that is free.

    Args:
        place: the place.
        done_s: seconds until a trial would have ended there; trials that share a card are taken to be together no
            faster than one alone.
        trials: others in the same group.
        taken: part of the machine that is in use.
    """

    place: Place
    done_s: float
    trials: int
    taken: float

    def rank(self) -> tuple[float, ...]:
        """Return what is lower for a better place."""
        return self.done_s, self.trials, self.place.gpus, self.taken


class Placement(Generic[Job]):
    """Chooses trials and places.

    Args:
        share: part of a card, or number of cards, that a trial takes on a machine of a kind; 0: it takes cores alone;
            None: it cannot run there.
        cpus: cores of one trial.
        seconds: how long a trial will keep a card of a kind at work, or None: not known.
    """

    def __init__(
        self,
        share: Callable[[Job, str], float | None],
        cpus: float,
        seconds: Callable[[Job, str], float | None] = lambda job, kind: None,
    ) -> None:
        self._share = share
        self._cpus = cpus
        self._seconds = seconds

    def choose(
        self,
        waiting: Iterable[Job],
        nodes: Sequence[Node],
        busy: Sequence[Busy],
        is_ready: Callable[[Job, list[Job]], bool] = lambda job, ahead: True,
    ) -> tuple[Job, Place] | None:
        """Return a trial that starts now and its place, or None.

        The first trial in order gets the free place where it will have ended first. It waits, and lets others go first,
        only when it will have ended much earlier (`GAIN`) on a faster card that becomes free soon.

        Args:
            waiting: trials, the most urgent first.
            nodes: machines that are there.
            busy: places that are taken.
            is_ready: whether a trial can start, given those that wait for a faster card, as if they were running; asked
                only where a place is free for it.
        """
        busy, ahead = list(busy), list[Job]()
        for job in waiting:
            times = self._times(job, nodes)
            offer = min(self._offers(job, nodes, busy, times), key=_Offer.rank, default=None)
            if offer is None or not is_ready(job, ahead):
                continue
            sooner = self._successor(busy, offer.place, times)
            if sooner is None:
                return job, offer.place
            ahead.append(job)
            number, done_s = sooner
            busy[number] = replace(busy[number], left_s=done_s)
        return None

    def lacking(
        self,
        waiting: Iterable[Job],
        nodes: Iterable[Node],
        is_ready: Callable[[Job, list[Job]], bool] = lambda job, ahead: True,
        most: int = 16,
    ) -> list[Group]:
        """Return what trials that wait could use if there were more machines.

        Args:
            waiting: trials, the most urgent first.
            nodes: machines; those that there might be are like them.
            is_ready: see `choose`; given those as well that could start.
            most: further machines of each kind.
        """
        waiting, busy, started = list(waiting), list[Busy](), list[Job]()
        kinds = {(node.kind, node.cards, node.cpus): node for node in nodes}.values()
        more = [replace(node, name=f"{node.name} {number}") for node in kinds for number in range(most)]
        while found := self.choose(waiting, more, busy, lambda job, ahead: is_ready(job, [*started, *ahead])):
            job, place = found
            waiting.remove(job)
            started.append(job)
            busy.append(Busy(place=place))
        return list(dict.fromkeys(item.place.group for item in busy))

    def _times(self, job: Job, nodes: Sequence[Node]) -> dict[str, float]:
        """Return the seconds that a trial will take on each kind of machine on which it can run; if unknown, all 0."""
        kinds = dict.fromkeys(node.kind for node in nodes)
        found = {kind: self._seconds(job, kind) for kind in kinds if self._share(job, kind) is not None}
        known = {kind: seconds for kind, seconds in found.items() if seconds is not None}
        return known if len(known) == len(found) else dict.fromkeys(found, 0.0)

    @staticmethod
    def _successor(busy: Sequence[Busy], free: Place, times: dict[str, float]) -> tuple[int, float] | None:
        """Return the busy place after whose trial this one will have ended before it has in a free one, and when."""
        ends = [
            (number, item.left_s + times[item.place.group.kind])
            for number, item in enumerate(busy)
            if item.left_s is not None and item.place.group.kind in times and item.place.gpus >= free.gpus
        ]
        number, done_s = min(ends, key=lambda end: end[1], default=(0, math.inf))
        return (number, done_s) if done_s < GAIN * times[free.group.kind] else None

    def _offers(
        self, job: Job, nodes: Sequence[Node], busy: Sequence[Busy], times: dict[str, float]
    ) -> Iterator[_Offer]:
        for node in nodes:
            if node.kind not in times:
                continue
            share = self._share(job, node.kind)
            assert share is not None
            inside = [item.place for item in busy if item.place.group.node == node.name]
            groups = list(dict.fromkeys(place.group for place in inside))
            new = self._new_group(node, share, groups)
            for group in [*groups, *([new] if new else [])]:
                own = [place for place in inside if place.group == group]
                if _has_room(group, own, share, self._cpus):
                    yield _Offer(
                        place=Place(group=group, gpus=share, cpus=self._cpus),
                        done_s=times[node.kind] * (len(own) + 1),
                        trials=len(own),
                        taken=_taken(node, groups),
                    )

    def _new_group(self, node: Node, share: float, groups: Sequence[Group]) -> Group | None:
        """Return what can be set aside for a trial that goes to no card in use, or None."""
        number = next(n for n in range(len(groups) + 1) if n not in {group.number for group in groups})
        cores_left = node.cpus - sum(group.cpus for group in groups)
        if share == 0:
            cpus, gpus = self._cpus, 0.0
        else:
            together = int(1 / share + 1e-9)
            gpus = round(share * together, 4)
            if node.cards <= sum(group.cards for group in groups):
                return None
            trials = self._fair(node, together, groups)
            cpus = min(trials * self._cpus, cores_left // self._cpus * self._cpus)
        if not self._cpus <= cpus <= cores_left:
            return None
        return Group(node=node.name, kind=node.kind, number=number, gpus=gpus, cpus=cpus)

    def _fair(self, node: Node, together: int, groups: Sequence[Group]) -> int:
        """Return for how many trials the next card gets cores, so that all cards of a machine get about as many."""
        each, more = divmod(min(node.cards * together, int(node.cpus // self._cpus)), node.cards)
        with_more = sum(group.cpus >= (each + 1) * self._cpus for group in groups)
        return each + (with_more < more)


def shared(share: float) -> float:
    """Return a share of a card as Ray counts it, rounded down, so that as many trials fit as are meant to."""
    return math.floor(share / GRANULE + 1e-6) * GRANULE if share < 1 else share


def _has_room(group: Group, own: Sequence[Place], share: float, cpus: float) -> bool:
    """Return whether a trial fits beside those in a group; one that takes cores alone takes none of a card's."""
    gpus_left = group.gpus - sum(place.gpus for place in own)
    cpus_left = group.cpus - sum(place.cpus for place in own)
    return (share > 0) == (group.gpus > 0) and share <= gpus_left + GRANULE / 2 and cpus <= cpus_left


def _taken(node: Node, groups: Sequence[Group]) -> float:
    return max(
        sum(group.cpus for group in groups) / node.cpus if node.cpus else 1.0,
        sum(group.cards for group in groups) / node.cards if node.cards else 0.0,
    )
