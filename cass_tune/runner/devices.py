"""The GPUs of a cluster: every node that has some is asked."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cass_tune.devices import Gpu, gpus_here
from cass_tune.runner.session import ray_session

logger = logging.getLogger(__name__)

ANSWER_S = 180.0
"""How long all nodes together may take to say which GPUs they have; each starts torch for it."""


def gpus_of(address: str) -> tuple[Gpu, ...]:
    """Return the kinds of GPU of a cluster, each once, before anything runs there.

    Raises:
        UsageError: the cluster cannot be joined.
    """
    with ray_session(address):
        return gpus_of_nodes()


def gpus_of_nodes() -> tuple[Gpu, ...]:
    """Return the kinds of GPU of the session's nodes, each once; of a node that does not answer, none."""

    def gpus() -> tuple[Gpu, ...]:
        return gpus_here()

    ask: Any = ray.remote(num_cpus=0, max_retries=0)(gpus)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0)]
    asked = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(): node
        for node in nodes
    }
    ready, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
    found: set[Gpu] = set()
    for answer in ready:
        with contextlib.suppress(RayError):  # of a node that is lost
            found.update(ray.get(answer))
    for answer in silent:
        logger.warning("Node %s does not say its GPUs within %g s; trials may run there.", asked[answer][:6], ANSWER_S)
    return tuple(sorted(found))
