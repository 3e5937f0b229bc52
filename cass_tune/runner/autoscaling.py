"""What Ray's autoscaler sees of trials that wait.

It adds machines for placement groups that cannot be set aside. Those of trials are asked for when there is a place for
them (`cass_tune.runner.places`), so for trials that wait others of the same size are asked for, on any machine, and
given back as soon as they can be had: the trials then find the room. They end with the driver, however it ends.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from cass_tune.placement import Group

AGAIN_S = 20.0
"""How long nothing more is asked for after there was room: the trials take it first."""


@dataclass(frozen=True)
class _Wish:
    """A placement group that is asked for.

    Args:
        size: cores and cards.
        group: Ray's.
        future: resolved when it is set aside.
    """

    size: tuple[float, float]
    group: PlacementGroup
    future: ray.ObjectRef


class Autoscaling:
    """Asks for machines."""

    def __init__(self) -> None:
        self._wishes: list[_Wish] = []
        self._again = 0.0

    def want(self, groups: Iterable[Group]) -> None:
        """Ask for as much as these groups take, and for nothing else any more."""
        self._give_back()
        sizes = [(group.cpus, group.gpus) for group in groups]
        for wish in list(self._wishes):
            if wish.size in sizes:
                sizes.remove(wish.size)
            else:
                self._remove(wish)
        if time.monotonic() >= self._again:
            self._wishes += map(_wish, sizes)

    def _give_back(self) -> None:
        """Remove what could be set aside."""
        for wish in [wish for wish in self._wishes if ray.wait([wish.future], timeout=0)[0]]:
            self._remove(wish)
            self._again = time.monotonic() + AGAIN_S

    def _remove(self, wish: _Wish) -> None:
        self._wishes.remove(wish)
        remove_placement_group(wish.group)


def _wish(size: tuple[float, float]) -> _Wish:
    cpus, gpus = size
    group = placement_group([{name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}])
    return _Wish(size=size, group=group, future=group.ready())
