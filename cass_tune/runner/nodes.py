"""What the nodes of a cluster are asked before the first trial: their versions, and whether they see its inputs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, RuntimeEnvSetupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cass_tune.config import Trial
from cass_tune.environment import NUMERIC_PACKAGES, source_digest, versions
from cass_tune.errors import UsageError
from cass_tune.identity import Inputs
from cass_tune.plan import Wanted

logger = logging.getLogger(__name__)

ANSWER_S = 60.0
"""How long a node may take to say its versions."""
SOURCE = "cass_tune's source"

Node = Mapping[str, Any]
"""As `ray.nodes` describes it."""


def check_nodes() -> None:
    """Raise a UsageError that names every node whose versions differ from the driver's."""
    said = answers(_nodes(), node_versions, what="its versions", within_s=ANSWER_S)
    problems = version_problems(driver_versions(), said)
    if problems:
        raise UsageError(*problems)


def check_inputs(wanted: Iterable[Wanted], resources: Mapping[str, float]) -> None:
    """Raise a UsageError that names every node that could run a trial and sees other inputs than the driver, or none.

    A node reads the images that are new to it, as its first trial would; so there is no limit of time.

    Args:
        wanted: the trials.
        resources: ``cpu`` and ``gpu`` of one of them.
    """
    trials = {item.inputs: item.trial for item in wanted if item.inputs}
    able = [node for node in _nodes() if _could_run(node, resources)]
    said = answers(able, seen_inputs, list(trials.values()), what="what it sees")
    problems = [text for name, seen in said.items() for text in input_problems(name, list(trials), seen)]
    if problems:
        raise UsageError(*problems)


def driver_versions() -> dict[str, str]:
    """Return the driver's versions of everything that can change a number."""
    return node_versions()


def node_versions() -> dict[str, str]:
    """Return this process's versions of everything that can change a number, this project's own source included.

    The driver's source travels with the job; but Python looks into the driver's working folder first, and there a node
    may have another checkout.
    """
    return {**versions(NUMERIC_PACKAGES), SOURCE: source_digest()}


def version_problems(here: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]) -> list[str]:
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
            what = "the same checkout" if different[0].startswith(SOURCE) else "the pinned versions"
            problems.append(f"Node {name} has other versions: {', '.join(different)}. Install {what} there.")
    return problems


def seen_inputs(trials: Sequence[Trial]) -> list[Inputs | str]:
    """Return what this machine sees of each trial's inputs, or why it sees none."""
    return [_seen(trial) for trial in trials]


def _seen(trial: Trial) -> Inputs | str:
    from cass_tune.data.catalog import list_images
    from cass_tune.weights import weights_identity

    try:
        return Inputs(data=list_images(trial.data).fingerprint, **weights_identity(trial.pretrain))
    except (UsageError, OSError) as error:
        return str(error).splitlines()[0]


def input_problems(name: str, expected: Sequence[Inputs], seen: Sequence[Inputs | str]) -> Iterator[str]:
    """Yield one text for everything that a node sees otherwise than the driver.

    Args:
        name: of the node.
        expected: what the driver sees.
        seen: what the node sees of the same trials, or why it does not.
    """
    found: dict[str, None] = {}
    for here, there in zip(expected, seen, strict=True):
        if isinstance(there, str):
            found[f"Node {name} does not see the inputs of the trials: {there}"] = None
            continue
        for part, value in vars(here).items():
            if getattr(there, part) != value:
                what = "images" if part == "data" else f"weights of the {part}"
                found[
                    f"Node {name} sees other {what} than the driver: fingerprint {getattr(there, part)[:19]}, here "
                    f"{value[:19]}. Make the same files visible at the same path on every node."
                ] = None
    yield from found


def answers(
    nodes: Iterable[Node], question: Callable[..., Any], *arguments: Any, what: str, within_s: float = math.inf
) -> dict[str, Any]:
    """Return what every node answers, by its name; one that is lost meanwhile is left out.

    Args:
        nodes: the nodes to ask.
        question: is called on each node.
        *arguments: of the question.
        what: names the answer, for the warning about a node that is silent.
        within_s: how long a node may take before it is left out, with that warning.

    Raises:
        UsageError: a node cannot even be asked, or the question failed there; every one is named.
    """
    remote: Any = ray.remote(num_cpus=0, max_retries=0)(question)
    asked = {
        node["NodeID"]: remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(*arguments)
        for node in nodes
    }
    names = {node["NodeID"]: name_of(node) for node in nodes}
    found: dict[str, Any] = {}
    problems: list[str] = []
    deadline = time.monotonic() + within_s
    while asked and time.monotonic() < deadline:
        ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=1)
        for node in [node for node, reference in asked.items() if reference in ready]:
            try:
                found[names[node]] = ray.get(asked.pop(node))
            except (RayTaskError, RuntimeEnvSetupError) as error:
                last = str(error).strip().splitlines()[-1]
                problems.append(f"Node {names[node]} cannot say {what}: {last}. Install the pinned versions there.")
            except RayError as error:
                logger.debug("node %s is lost: %s", names[node], error)
        alive = {node["NodeID"] for node in alive_nodes()}
        asked = {node: reference for node, reference in asked.items() if node in alive}
    if problems:
        raise UsageError(*problems)
    for node in asked:
        logger.warning("Node %s does not say %s within %g s; trials may run there.", names[node], what, within_s)
    return found


def name_of(node: Node) -> str:
    """Return what people know a node by."""
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:6]})"


def alive_nodes() -> list[Node]:
    """Return the nodes that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]


def _nodes() -> list[Node]:
    """Return the nodes that have to be asked: none where the driver's own is the only one."""
    nodes = alive_nodes()
    is_alone = len(nodes) == 1 and nodes[0]["NodeID"] == ray.get_runtime_context().get_node_id()
    return [] if is_alone else nodes


def _could_run(node: Node, resources: Mapping[str, float]) -> bool:
    return all(node["Resources"].get(name.upper(), 0) >= amount for name, amount in resources.items())
