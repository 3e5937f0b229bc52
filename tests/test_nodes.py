"""Which nodes are asked, and what is made of their answers."""

from __future__ import annotations

from typing import Any

import pytest

from cass_tune.config import Trial
from cass_tune.errors import UsageError
from cass_tune.identity import Inputs
from cass_tune.plan import Wanted
from cass_tune.runner import nodes

HERE = Inputs(data="d" * 64, cnn="random", vit="sha256:" + "a" * 64)
WANTED = [Wanted(trial=Trial(seed=seed), name=f"seed={seed}", inputs=HERE, digest=str(seed)) for seed in (0, 1)]
NODES = [
    {"NodeID": name, "Resources": {"CPU": cpus, "GPU": gpus}}
    for name, cpus, gpus in (("head", 0.0, 0.0), ("small", 4.0, 0.0), ("gpu", 8.0, 1.0))
]


@pytest.mark.parametrize(("gpu", "asked"), [(0.0, ["small", "gpu"]), (0.5, ["gpu"]), (2.0, [])])
def test_nodes_that_could_run_a_trial_are_asked_for_each_input_once(
    monkeypatch: pytest.MonkeyPatch, gpu: float, asked: list[str]
) -> None:
    questions: list[tuple[list[str], list[Trial]]] = []

    def answers(able: list[nodes.Node], question: Any, trials: list[Trial], *, what: str) -> dict[str, Any]:
        questions.append(([node["NodeID"] for node in able], trials))
        return {node["NodeID"]: [HERE for _ in trials] for node in able}

    monkeypatch.setattr(nodes, "_nodes", lambda: NODES)
    monkeypatch.setattr(nodes, "answers", answers)
    nodes.check_inputs(WANTED, {"cpu": 1.0, "gpu": gpu})
    ((names, trials),) = questions
    assert names == asked and len(trials) == 1


def test_everything_that_a_node_sees_otherwise_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Inputs(data="e" * 64, cnn="random", vit="sha256:" + "b" * 64)
    said = {"one": [other], "two": ["--data.root /data: there is no such folder."], "three": [HERE]}
    monkeypatch.setattr(nodes, "_nodes", lambda: NODES)
    monkeypatch.setattr(nodes, "answers", lambda *asked, **options: said)
    with pytest.raises(UsageError) as raised:
        nodes.check_inputs(WANTED, {"cpu": 1.0, "gpu": 0.0})
    images, weights, missing = raised.value.problems
    assert images.startswith("Node one sees other images than the driver: fingerprint eeee") and "dddd" in images
    assert weights.startswith("Node one sees other weights of the vit than the driver: fingerprint sha256:bbbb")
    assert missing.startswith("Node two does not see the inputs of the trials: --data.root /data: there is no such")


def test_this_machine_sees_what_the_driver_sees_and_says_what_it_does_not() -> None:
    from cass_tune.data.catalog import list_images

    built_in = Trial()
    absent = Trial(data=type(built_in.data)(name="brain_mri", root="/nowhere"))
    found, problem = nodes.seen_inputs([built_in, absent])
    assert isinstance(found, Inputs) and found.data == list_images(built_in.data).fingerprint
    assert isinstance(problem, str) and "/nowhere" in problem


def test_a_node_with_another_checkout_is_told_apart_from_one_with_other_packages() -> None:
    here = {"torch": "2.15.0", nodes.SOURCE: "abc"}
    (problem,) = nodes.version_problems(here, {"one": {**here, nodes.SOURCE: "def"}})
    assert problem.endswith("cass_tune's source def (driver: abc). Install the same checkout there.")
    assert nodes.node_versions()[nodes.SOURCE] == nodes.driver_versions()[nodes.SOURCE] != ""
