"""The GPUs of a cluster: every node that has some is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cass_tune.devices import Gpu, gpus_here
from cass_tune.memory import Card
from cass_tune.runner.nodes import Node, alive_nodes, answers, name_of
from cass_tune.runner.places import label_of
from cass_tune.runner.session import ray_session

ANSWER_S = 180.0
"""How long all nodes together may take to say which GPUs they have; each starts torch for it."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine with cards.

    Args:
        node: Ray's identity of it.
        name: what people know it by.
        label: of its cards, by Ray.
        count: how many Ray counts.
        cards: of each kind one, as torch sees them there, that with the least memory first.
    """

    node: str
    name: str
    label: str
    count: float
    cards: tuple[Card, ...]

    @property
    def kind(self) -> str:
        """By which trials are fitted to all of its cards: of those that there are the one with the least memory."""
        return self.cards[0].kind

    @property
    def is_mixed(self) -> bool:
        """Whether its cards differ."""
        return len(self.cards) > 1

    def needs(self, resources: Mapping[str, float]) -> dict[str, float]:
        """Return what a probe asks for: all cards where they differ, so that it can take the one with least memory.

        Args:
            resources: ``cpu`` and ``gpu`` of one trial.
        """
        return {**resources, "gpu": self.count} if self.is_mixed else dict(resources)


def gpus_of(address: str) -> tuple[Gpu, ...]:
    """Return the kinds of GPU of a cluster, each once, before anything runs there.

    Raises:
        UsageError: the cluster cannot be joined, or torch on a node cannot tell.
    """
    with ray_session(address):
        return gpus_of_nodes()


def gpus_of_nodes() -> tuple[Gpu, ...]:
    """Return the kinds of GPU of the session's nodes, each once; of a node that does not answer, none."""
    return tuple(sorted({gpu for _, found in _answers() for gpu in found}))


def machines() -> list[Machine]:
    """Return the session's nodes on which torch sees GPUs; one that does not answer is left out."""
    return [_machine(node, found) for node, found in _answers() if found]


def kinds_of(machines: Iterable[Machine]) -> dict[str, str]:
    """Return the kind of cards by machine, and by Ray's label for machines that come later.

    Of several kinds with one label it is the one with the least memory.
    """
    found: dict[str, str] = {}
    for machine in sorted(machines, key=lambda machine: machine.cards[0].total_gib, reverse=True):
        found |= {machine.label: machine.kind, machine.node: machine.kind}
    return found


def one_of_each(machines: Iterable[Machine]) -> dict[str, Machine]:
    """Return for every kind a machine that has it, one whose cards do not differ where there is one."""
    return {machine.kind: machine for machine in sorted(machines, key=lambda machine: not machine.is_mixed)}


def mixed_lines(machines: Iterable[Machine]) -> list[str]:
    """Return what is to be said of machines whose cards differ."""
    return [
        f"{machine.name} has {', '.join(card.kind for card in machine.cards)}: trials are fitted to {machine.kind} "
        "on all of its cards."
        for machine in machines
        if machine.is_mixed
    ]


def _answers() -> list[tuple[Node, tuple[Gpu, ...]]]:
    def gpus() -> tuple[Gpu, ...]:
        return gpus_here()

    nodes = {name_of(node): node for node in alive_nodes() if node["Resources"].get("GPU", 0)}
    said = answers(nodes.values(), gpus, what="its GPUs", within_s=ANSWER_S)
    return [(nodes[name], found) for name, found in said.items()]


def _machine(node: Node, gpus: Iterable[Gpu]) -> Machine:
    cards = sorted((Card(name=gpu.name, total_gib=gpu.total_gib) for gpu in gpus), key=lambda card: card.total_gib)
    return Machine(
        node=node["NodeID"],
        name=name_of(node),
        label=label_of(node),
        count=node["Resources"]["GPU"],
        cards=tuple({card.kind: card for card in cards}.values()),
    )
