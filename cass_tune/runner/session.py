"""A Ray session on this machine (loopback alone), or a cluster that is joined, checked before anything runs."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray._private import ray_constants

from cass_tune.errors import Terminated, UsageError
from cass_tune.notices import held_signals
from cass_tune.runner.joining import join
from cass_tune.runner.leaving import watched_ray
from cass_tune.runner.nodes import check_nodes

logger = logging.getLogger(__name__)

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
def ray_session(address: str | None, gone: Callable[[], None] | None = None) -> Iterator[bool]:
    """Start Ray on this machine (loopback, no dashboard), or join a cluster, taking this code along.

    Args:
        address: of the cluster.
        gone: called, from a thread, when Ray's own processes have ended; the session does not come back.

    Yields:
        Whether Ray was started here, so that its processes have the environment of this one.

    Raises:
        UsageError: the cluster cannot be reached, or a node has other versions.
    """
    quiet()
    if ray.is_initialized():  # the caller's own session, in a test or a notebook
        yield False
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    with _loopback() if address is None else contextlib.nullcontext():
        try:
            _start(address)
            check_nodes()
            with watched_ray(gone) if gone else contextlib.nullcontext():
                yield address is None
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
                join(address, common)
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
