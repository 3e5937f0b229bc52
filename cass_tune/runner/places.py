"""Ray's view of places: for each card in use a placement group on its machine, in which the trials that share it run.

Ray packs parts of a GPU onto the fullest one while others idle, and cannot be told which one to take. A placement group
that has one GPU is one card, so whatever runs in it runs there.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.air.execution import ResourceManager, ResourceRequest
from ray.air.execution.resources.placement_group import PlacementGroupAcquiredResources
from ray.tune.execution.tune_controller import TuneController
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cass_tune.placement import CPU, Group, Node, Place

KIND_PREFIX = "accelerator_type:"
KIND_LABEL = "ray.io/accelerator-type"
NODE_LABEL = "ray.io/node-id"


def nodes() -> list[Node]:
    """Return the machines that are there and stay, as Ray describes them."""
    draining = _draining()
    return [_node(node) for node in ray.nodes() if node["Alive"] and node["NodeID"] not in draining]


def is_alive(name: str) -> bool:
    """Return whether a machine is there, be it for a short time only."""
    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == name)


def _draining() -> set[str]:
    from ray._private.state import state  # no public call tells (Ray 2.60)

    return set(state.get_draining_nodes())


def label_of(found: Mapping[str, Any]) -> str:
    """Return what Ray calls the cards of a machine, empty if nothing: ``A100`` with any memory, by the first card."""
    by_resource = (name.removeprefix(KIND_PREFIX) for name in found["Resources"] if name.startswith(KIND_PREFIX))
    return (found.get("Labels") or {}).get(KIND_LABEL) or next(by_resource, "")


def _node(found: Mapping[str, Any]) -> Node:
    resources = found["Resources"]
    cards = int(resources.get("GPU", 0))
    kind = label_of(found) if cards else CPU
    return Node(name=found["NodeID"], kind=kind, cards=cards, cpus=resources.get("CPU", 0.0))


class PlaceRequest(tune.PlacementGroupFactory):
    """A request for one place. Two are equal, so that a process may be used again, when it is the same place.

    Args:
        place: the place.
    """

    def __init__(self, place: Place) -> None:
        group = place.group
        super().__init__(
            [{"CPU": place.cpus, "GPU": place.gpus}],
            name=f"{group.node}/{group.number}/{group.cpus:g}/{group.gpus:g}",
        )
        self.place = place


@dataclass
class _Held:
    """A placement group.

    Args:
        group: Ray's.
        future: resolved when its resources are set aside; None afterwards.
        users: requests for places in it.
        is_there: whether it has not been removed.
    """

    group: PlacementGroup
    future: ray.ObjectRef | None
    users: int = 0
    is_there: bool = True

    def remove(self) -> None:
        if self.is_there and ray.is_initialized():
            remove_placement_group(self.group)
        self.is_there = False


@dataclass
class PlainPlace(PlacementGroupAcquiredResources):
    """A place in which a trial starts in a process that Ray keeps ready.

    Such a process has the environment of Ray itself. Ray Tune asks for one of each trial's own, with the same variables
    and one more that is for PyTorch Lightning, and so for a process that is started when the trial is.
    """

    def _annotate_remote_entity(self, entity: Any, bundle: Mapping[str, float], bundle_index: int) -> Any:
        where = PlacementGroupSchedulingStrategy(
            self.placement_group, bundle_index, placement_group_capture_child_tasks=True
        )
        cpus, gpus = (bundle.get(name, 0.0) for name in ("CPU", "GPU"))
        return entity.options(scheduling_strategy=where, num_cpus=cpus, num_gpus=gpus, runtime_env={})


class PlaceManager(ResourceManager):
    """Sets aside a placement group for each group of places as long as any of them is asked for or used.

    Args:
        are_plain: whether trials need no environment of their own, because Ray's processes have that of this one.
    """

    def __init__(self, *, are_plain: bool = False) -> None:
        self._acquired = PlainPlace if are_plain else PlacementGroupAcquiredResources
        self._held: dict[Group, _Held] = {}

    def request_resources(self, resource_request: ResourceRequest) -> None:
        """Set aside the group of the place, unless it is."""
        group = _place(resource_request).group
        if group not in self._held:
            bundle = {name: amount for name, amount in (("CPU", group.cpus), ("GPU", group.gpus)) if amount}
            made = placement_group([bundle], bundle_label_selector=[{NODE_LABEL: group.node}])
            self._held[group] = _Held(group=made, future=made.ready())
        self._held[group].users += 1

    def cancel_resource_request(self, resource_request: ResourceRequest) -> None:
        """Take a request back."""
        self._release(_place(resource_request).group)

    def has_resources_ready(self, resource_request: ResourceRequest) -> bool:
        """Return whether the place can be used."""
        held = self._held.get(_place(resource_request).group)
        if held is None:
            return False
        if held.future is not None and ray.wait([held.future], timeout=0)[0]:
            held.future = None
        return held.future is None

    def acquire_resources(self, resource_request: ResourceRequest) -> PlacementGroupAcquiredResources | None:
        """Return what an actor is started with, or None: not set aside yet."""
        if not self.has_resources_ready(resource_request):
            return None
        held = self._held[_place(resource_request).group]
        return self._acquired(resource_request=resource_request, placement_group=held.group)

    def free_resources(self, acquired_resource: Any) -> None:
        """Give a place back."""
        self._release(_place(acquired_resource.resource_request).group)

    def get_resource_futures(self) -> list[ray.ObjectRef]:
        """Return what is resolved when groups have been set aside."""
        return [held.future for held in self._held.values() if held.future is not None]

    def update_state(self) -> None:
        """Look at all groups that are not set aside yet."""
        futures = self.get_resource_futures()
        resolved = ray.wait(futures, num_returns=len(futures), timeout=0)[0] if futures else []
        for held in self._held.values():
            if held.future in resolved:
                held.future = None

    def clear(self) -> None:
        """Give everything back."""
        for held in self._held.values():
            held.remove()
        self._held.clear()

    def is_set_aside(self, place: Place) -> bool:
        """Return whether a place that was asked for can be used."""
        held = self._held.get(place.group)
        return held is not None and held.future is None

    def abandon(self, place: Place) -> None:
        """End what was to start, or runs, in the group of a place on a machine that is gone."""
        if place.group in self._held:
            self._held[place.group].remove()

    def _release(self, group: Group) -> None:
        held = self._held[group]
        held.users -= 1
        if not held.users:
            del self._held[group]
            held.remove()


def _place(request: Any) -> Place:
    return request.place


@contextmanager
def managing(manager: ResourceManager) -> Iterator[None]:
    """Let Ray Tune, in the block, ask a manager of ours for resources: its `Tuner` does not pass one on (Ray 2.60)."""
    module: Any = importlib.import_module("ray.tune.tune")
    module.TuneController = functools.partial(TuneController, resource_manager_factory=lambda: manager)
    try:
        yield
    finally:
        module.TuneController = TuneController
