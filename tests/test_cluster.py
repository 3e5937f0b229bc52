"""Trials on a real Ray cluster of two nodes on this machine, with logical GPUs and fractions of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cass_tune.devices import Gpu
from cass_tune.errors import UsageError
from cass_tune.results import Results
from cass_tune.runner import devices, gpus_of, nodes, ray_session
from tests import sights, small

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, each with one CPU and one logical GPU."""
    from ray.cluster_utils import Cluster

    path = {"PYTHONPATH": str(Path(__file__).parents[1])}
    common: dict[str, Any] = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 150 * 2**20}
    head = {**common, "include_dashboard": False, "env_vars": path}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(**common, env_vars={**path, sights.ELSEWHERE: "1"})
    yield cluster
    cluster.shutdown()


def test_two_nodes_share_the_trials_by_fractions_of_a_gpu(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    share = ["--device", "cpu", "--gpus-per-trial", "0.6", "--cpus-per-trial", "1"]
    code = small.run("--address", cluster.address, *share, "--pretrain.learning-rate", "0.001", results=tmp_path)
    assert code == 0
    results = Results(tmp_path)
    assert {results.trial(digest).status() for digest in small.wanted(tmp_path).values()} == {"done"}
    rows = [row for path in tmp_path.glob("ray/small/*/*/result.json") for row in small.json_lines(path)]
    assert len({row["pid"] for row in rows}) == 2
    assert "2 running" in capsys.readouterr().out  # one CPU per node: two trials at once are on two nodes


def test_more_than_a_node_has(cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--gpus-per-trial", "1", "--cpus-per-trial", "9", "--device", "cpu"]
    assert small.run("--address", cluster.address, *asked, results=tmp_path) == 2
    assert "No machine has --cpus-per-trial 9 and --gpus-per-trial 1" in capsys.readouterr().err


def test_the_code_travels_with_the_job(cluster: Any) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def place() -> str:
        import cass_tune

        return str(cass_tune.__file__)

    with ray_session(cluster.address):
        task: Any = ray.remote(num_cpus=0)(place)
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
        places = ray.get([task.options(scheduling_strategy=strategy).remote() for strategy in strategies])
    assert len(places) == 2
    assert all("py_modules_files" in place for place in places)


def test_nodes_with_other_versions_are_refused_by_name(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {**nodes.driver_versions(), "timm": "0.0.1"}
    monkeypatch.setattr(nodes, "driver_versions", lambda: other)
    assert small.run("--address", cluster.address, "--device", "cpu", results=tmp_path) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all("has other versions: timm" in line and "(driver: 0.0.1)" in line for line in errors)
    assert not list(tmp_path.glob("trials/*"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("tests.sights:differing", "sees other images than the driver: fingerprint other"),
        ("tests.sights:missing", "does not see the inputs of the trials: --data.root /data: there is no such folder"),
    ],
)
def test_a_node_with_other_data_or_none_is_refused_by_name(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str, said: str
) -> None:
    words = ("--address", cluster.address, "--device", "cpu", "--preset", "demo", "--data.name", data)
    assert small.run(*words, results=tmp_path) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: Node {socket.gethostname()} (") and said in error
    assert not list(tmp_path.glob("trials/*"))


def test_a_question_that_fails_on_a_node_is_an_error_that_names_it(cluster: Any) -> None:
    with ray_session(cluster.address), pytest.raises(UsageError, match=r"cannot say its mood: .*no mood"):
        nodes.answers(nodes._nodes(), sights.failing, what="its mood")


def test_every_node_is_asked_for_its_gpus(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_this_node() -> tuple[Gpu, ...]:
        import ray

        return (Gpu("H200", (9, 0)), Gpu(ray.get_runtime_context().get_node_id(), (7, 5)))

    with ray_session(cluster.address):
        assert devices.gpus_of_nodes() == (), "the GPUs of these nodes are logical"
    monkeypatch.setattr(devices, "gpus_here", of_this_node)
    h200, *others = sorted(gpus_of(cluster.address), key=lambda gpu: gpu.name != "H200")
    assert h200 == Gpu("H200", (9, 0))
    assert len({gpu.name for gpu in others}) == 2, "one of each node"
