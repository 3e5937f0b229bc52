"""The GPUs of a cluster: every node that has some is asked."""

from __future__ import annotations

from cass_tune.devices import Gpu, gpus_here
from cass_tune.runner.nodes import alive_nodes, answers
from cass_tune.runner.session import ray_session

ANSWER_S = 180.0
"""How long all nodes together may take to say which GPUs they have; each starts torch for it."""


def gpus_of(address: str) -> tuple[Gpu, ...]:
    """Return the kinds of GPU of a cluster, each once, before anything runs there.

    Raises:
        UsageError: the cluster cannot be joined, or torch on a node cannot tell.
    """
    with ray_session(address):
        return gpus_of_nodes()


def gpus_of_nodes() -> tuple[Gpu, ...]:
    """Return the kinds of GPU of the session's nodes, each once; of a node that does not answer, none."""

    def gpus() -> tuple[Gpu, ...]:
        return gpus_here()

    nodes = [node for node in alive_nodes() if node["Resources"].get("GPU", 0)]
    said = answers(nodes, gpus, what="its GPUs", within_s=ANSWER_S)
    return tuple(sorted({gpu for found in said.values() for gpu in found}))
