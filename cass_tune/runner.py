"""The only module that imports Ray: the trainable, its resources, and the run of the missing trials."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cass_tune.config import from_json, to_json
from cass_tune.environment import NUMERIC_PACKAGES, versions
from cass_tune.errors import Terminated, UsageError
from cass_tune.identity import Inputs
from cass_tune.overview import failure_line, headline
from cass_tune.plan import Wanted
from cass_tune.results import Results, new_attempt

if TYPE_CHECKING:
    from ray.tune import ResultGrid

    from cass_tune.console import Progress
    from cass_tune.trial import RunOptions

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "3600",
}


def trainable(config: Mapping[str, Any]) -> None:
    """Run one trial inside Ray Tune and report one row per epoch (`cass_tune.training.rows`, NaN until known).

    Works in any ``tune.Tuner``; a trial that is finished in the results root reports its stored rows.

    Args:
        config: ``run``: ``{"trial": ..., "inputs": ...}`` with the trial as `to_json` gives it and,
            optionally, the inputs that the driver saw; ``results``: absolute path of the results root; ``options``:
            fields of `cass_tune.trial.RunOptions`, optional.
    """
    import ray
    from ray import tune

    if not ray.get_runtime_context().get_accelerator_ids()["GPU"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # without a share of a GPU, Ray leaves every GPU visible
    from cass_tune.training.rows import for_ray
    from cass_tune.trial import RunOptions, run_trial

    run = config["run"]
    trial = from_json(json.dumps(run["trial"]))
    inputs = Inputs(**run["inputs"]) if run.get("inputs") else None
    options = RunOptions(**config.get("options", {}))
    for row in run_trial(trial, Results(Path(config["results"])), options, inputs):
        tune.report(for_ray(row))


@contextlib.contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """Start Ray on this machine (loopback, no dashboard), or join a cluster, taking this code along.

    Raises:
        UsageError: the cluster cannot be reached, or a node has other versions.
    """
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    import ray

    if ray.is_initialized():  # the caller's own session, in a test or a notebook
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with _loopback() if address is None else contextlib.nullcontext():
        try:
            if address is None:
                ray.init("local", **common, include_dashboard=False, _node_ip_address="127.0.0.1")
            else:
                _join(address, common)
            check_nodes()
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Let Ray's processes listen on loopback alone: on Linux, Ray replaces 127.0.0.1 by the machine's address."""
    from ray._private import ray_constants

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
    import ray

    try:
        _knock(address)
        ray.init(address=address, **common, runtime_env={"py_modules": [str(Path(__file__).parent)]})
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
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = driver_versions()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1 and nodes[0]["NodeID"] == ray.get_runtime_context().get_node_id():
        return
    remote: Any = ray.remote(num_cpus=0)(versions)
    asked = {
        node["NodeManagerAddress"] + " " + node["NodeID"][:6]: remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(NUMERIC_PACKAGES)
        for node in nodes
    }
    answers = {name: _answer(reference) for name, reference in asked.items()}
    problems = node_problems(here, answers)
    if problems:
        raise UsageError(*problems)


def _answer(reference: Any) -> dict[str, str]:
    """A node's versions, or nothing when it does not answer."""
    import ray
    from ray.exceptions import RayError

    try:
        return ray.get(reference, timeout=120)
    except RayError:
        return {}


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
        if not there:
            problems.append(f"Node {name} does not say its versions within two minutes. Remove it or mend it.")
            continue
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
    import ray

    return float(ray.cluster_resources().get("GPU", 0))


def check_resources(cpus: float, gpus: float) -> None:
    """Raise a UsageError when no node could ever run a trial that asks for so much."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        largest = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise UsageError(
            f"No machine has --cpus-per-trial {cpus:g} and --gpus-per-trial {gpus:g}: "
            f"there are {largest}. Ask for less."
        )


def run_trials(
    wanted: Sequence[Wanted],
    results: Results,
    options: RunOptions,
    *,
    study: str,
    resources: Mapping[str, float],
    progress: Progress,
) -> ResultGrid:
    """Run trials by Ray Tune within a session.

    A trial that fails leaves the others running; its error is in its folder (`TrialFolder.failure`).

    Args:
        wanted: trials to run, in order.
        results: root of all records; every node must see it.
        options: how a trial runs.
        study: names the folder of Ray's own records.
        resources: ``cpu`` and ``gpu`` of one trial.
        progress: told about every start, row and end.

    Returns:
        Ray's own record of the run.

    Raises:
        Terminated: SIGTERM came; Ray has stopped the trials.
    """
    from ray import tune

    runs = [{"trial": to_json(w.trial), "inputs": asdict(w.inputs) if w.inputs else None} for w in wanted]
    ids = {_key(run): w for run, w in zip(runs, wanted, strict=True)}

    def folder_name(trial: Any) -> str:
        return str(ids[_key(trial.config["run"])].digest)[:12]

    tuner = tune.Tuner(
        tune.with_resources(trainable, dict(resources)),
        param_space={"run": tune.grid_search(runs), "results": str(results.root), "options": asdict(options)},
        tune_config=tune.TuneConfig(reuse_actors=True, trial_dirname_creator=folder_name),
        run_config=tune.RunConfig(
            name=new_attempt(),
            storage_path=str(results.ray(study)),
            verbose=0,
            callbacks=[_watcher(ids, results, progress)],
        ),
    )
    with _terminate_gracefully() as terminated, progress.shown():
        grid = tuner.fit()
    if terminated:
        raise Terminated
    return grid


def _key(run: Mapping[str, Any]) -> str:
    return json.dumps(run, sort_keys=True)


def _watcher(ids: Mapping[str, Wanted], results: Results, progress: Progress) -> Any:
    """Return a Ray callback that tells the progress, and records the failure of a trial whose process died."""
    from ray.tune import Callback

    class Watcher(Callback):
        def __reduce__(self) -> Any:  # Ray pickles the Tuner with its callbacks; nobody of ours ever restores it
            return Callback, ()

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            progress.start(_digest(trial))

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            if "phase" in result:
                progress.row(_digest(trial), result)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            record = results.trial(_digest(trial)).result()
            if record is not None:
                progress.finish(_digest(trial), headline(record))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            folder = results.trial(_digest(trial))
            if folder.failure() in (None, failed_before[folder.digest]):  # its process died before it could say why
                text = str(trial.get_error() or "the trial's process ended without a message").strip()
                folder.fail("ProcessDied", text.splitlines()[-1], text)
            progress.fail(_digest(trial), failure_line(folder.failure()))

    def _digest(trial: Any) -> str:
        digest = ids[_key(trial.config["run"])].digest
        if digest is None:
            raise RuntimeError("a trial without an identity was run")
        return digest

    failed_before = {w.digest: results.trial(w.digest).failure() for w in ids.values() if w.digest}
    return Watcher()


@contextlib.contextmanager
def _terminate_gracefully() -> Iterator[list[int]]:
    """Let SIGTERM stop Ray Tune as SIGUSR1 does: without this its last state is lost. Yields the signals that came."""
    came: list[int] = []

    def handler(number: int, *_: Any) -> None:
        came.append(number)
        os.kill(os.getpid(), signal.SIGUSR1)

    try:
        before = signal.signal(signal.SIGTERM, handler)
    except ValueError:  # not in the main thread
        yield came
        return
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)
