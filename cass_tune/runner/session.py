"""A Ray session on this machine (loopback alone), or a cluster that is joined, checked before anything runs."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cass_tune.environment import NUMERIC_PACKAGES, versions
from cass_tune.errors import Terminated, UsageError
from cass_tune.notices import held_signals
from cass_tune.runner.leaving import watched_ray

logger = logging.getLogger(__name__)

_STORE = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
"""Where the object store is, which every node must know; credentials are each node's own."""
ANSWER_S = 60.0
"""How long a node may take to say its versions."""

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "3600",
}


@contextlib.contextmanager
def ray_session(address: str | None, gone: Callable[[], None] | None = None) -> Iterator[None]:
    """Start Ray on this machine (loopback, no dashboard), or join a cluster, taking this code along.

    Args:
        address: of the cluster.
        gone: called, from a thread, when Ray's own processes have ended; the session does not come back.

    Raises:
        UsageError: the cluster cannot be reached, or a node has other versions.
    """
    quiet()
    if ray.is_initialized():  # the caller's own session, in a test or a notebook
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    with _loopback() if address is None else contextlib.nullcontext():
        try:
            _start(address)
            check_nodes()
            with watched_ray(gone) if gone else contextlib.nullcontext():
                yield
        finally:
            ray.shutdown()


def quiet() -> None:
    """Keep Ray from writing to the screen."""
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the records below the results root have every error


def _start(address: str | None) -> None:
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with held_signals():  # and takes SIGTERM back from Ray, whose handler ends the process without a word
            if address is None:
                ray.init("local", **common, include_dashboard=False, _node_ip_address="127.0.0.1")
            else:
                _join(address, common)
    except SystemExit as error:  # Ray's handler
        raise Terminated from error
    _quieten()


def _quieten() -> None:
    """Send Ray's messages about lost workers and nodes, with pages of their logs, to the log instead of the screen."""
    worker: Any = importlib.import_module("ray._private.worker")  # no public call does it (Ray 2.60)
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda data, **options: logger.debug("%s", data)


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Let Ray's processes listen on loopback alone: on Linux, Ray replaces 127.0.0.1 by the machine's address."""
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, setting = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = setting
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _join(address: str, common: Mapping[str, Any]) -> None:
    try:
        _knock(address)
        where = {name: os.environ[name] for name in _STORE if name in os.environ}
        environment = {"py_modules": [str(Path(__file__).parent.parent)], "env_vars": where}
        ray.init(address=address, **common, runtime_env=environment)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"--address {address}: no Ray cluster can be joined there: {str(error).strip().splitlines()[0]} "
            "Give `auto` on a node of the cluster, or HOST:PORT as `ray start` printed it, or leave --address out."
        ) from error


def _knock(address: str) -> None:
    """Raise an OSError or ValueError when nothing listens there; Ray itself would try for ten minutes."""
    host, colon, port = address.rpartition(":")
    if address == "auto" or "://" in address:
        return
    if not colon:
        raise ValueError("it is neither `auto` nor HOST:PORT.")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
        pass


def check_nodes() -> None:
    """Raise a UsageError that names every node whose versions differ from the driver's."""
    here = driver_versions()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1 and nodes[0]["NodeID"] == ray.get_runtime_context().get_node_id():
        return
    problems = node_problems(here, _answers(nodes))
    if problems:
        raise UsageError(*problems)


def _answers(nodes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the versions of every node by its name; one that is lost meanwhile is left out, a silent one warned of."""
    remote: Any = ray.remote(num_cpus=0)(versions)
    asked = {
        node["NodeID"]: remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(NUMERIC_PACKAGES)
        for node in nodes
    }
    names = {node["NodeID"]: f"{node['NodeManagerAddress']} {node['NodeID'][:6]}" for node in nodes}
    answers: dict[str, dict[str, str]] = {}
    deadline = time.monotonic() + ANSWER_S
    while asked and time.monotonic() < deadline:
        ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=1)
        for node in [node for node, reference in asked.items() if reference in ready]:
            with contextlib.suppress(RayError):  # of a node that is lost
                answers[names[node]] = ray.get(asked[node])
            del asked[node]
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        asked = {node: reference for node, reference in asked.items() if node in alive}
    for node in asked:
        logger.warning("Node %s does not say its versions within %g s; trials may run there.", names[node], ANSWER_S)
    return answers


def driver_versions() -> dict[str, str]:
    """Return the driver's versions of everything that can change a number."""
    return versions(NUMERIC_PACKAGES)


def node_problems(here: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return one text per node whose versions differ from the driver's.

    Args:
        here: the driver's versions.
        nodes: each node's versions by its name.
    """
    problems = []
    for name, there in nodes.items():
        different = [
            f"{package} {there.get(package)} (driver: {version})"
            for package, version in here.items()
            if there.get(package) != version
        ]
        if different:
            problems.append(
                f"Node {name} has other versions: {', '.join(different)}. Install the pinned versions there."
            )
    return problems


def cluster_gpus() -> float:
    """Return how many GPUs the Ray session has."""
    return float(ray.cluster_resources().get("GPU", 0))


def check_resources(cpus: float, gpus: float) -> None:
    """Raise a UsageError when no node could ever run a trial that asks for so much: Ray would wait for ever.

    Nodes that may come later do not count; whoever expects one starts it first.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    sizes = {(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes}
    if any(own_cpus >= cpus and own_gpus >= gpus for own_cpus, own_gpus in sizes):
        return
    smaller = {a for a in sizes for b in sizes if a != b and a[0] <= b[0] and a[1] <= b[1]}
    largest = " or ".join(f"{c:g} CPUs and {g:g} GPUs" for c, g in sorted(sizes - smaller, reverse=True))
    raise UsageError(
        f"No machine has --cpus-per-trial {cpus:g} and --gpus-per-trial {gpus:g}: the largest has {largest}. "
        "Ask for less, or start a larger machine first."
    )
