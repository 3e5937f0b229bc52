"""Ray's own autoscaler adds a machine for trials that wait; the machine is a further raylet on this one."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cass_tune.results import Results
from cass_tune.runner import ray_session
from tests import small

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LISTS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter"),
)
"""Settings without which Ray's autoscaler does not work, and which say nothing here."""
START_S = 180


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]


def settings(address: str) -> dict[str, object]:
    """A head with a core, and up to one machine like it."""
    machine = {"resources": {"CPU": 1, "object_store_memory": 100 * 2**20}, "node_config": {}}
    provider = {"type": "fake_multinode", "gcs_address": address, "disable_node_updaters": True}
    return {
        "cluster_name": "grows",
        "provider": provider,
        "max_workers": 1,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 1.0,
        "available_node_types": {
            "ray.head.default": {**machine, "max_workers": 0},
            "spot": {**machine, "min_workers": 0, "max_workers": 1},
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: list[str]() for name in LISTS},
    }


@pytest.fixture
def address(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the address of a cluster that grows, which asks for no token whatever ran in this process before."""
    import ray

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")

    folder = tmp_path_factory.mktemp("head")
    found = f"{ray.util.get_node_ip_address()}:{free_port()}"
    (folder / "cluster.yaml").write_text(yaml.safe_dump(settings(found)))
    port = found.rpartition(":")[2]
    words = ["ray", "start", "--head", "--block", f"--port={port}", f"--autoscaling-config={folder}/cluster.yaml"]
    words += ["--num-cpus=1", "--num-gpus=0", "--include-dashboard=false", f"--object-store-memory={100 * 2**20}"]
    fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with open(folder / "out.txt", "w") as out:
        process = subprocess.Popen(
            words, env={**os.environ, **fake, "PATH": path}, stdout=out, stderr=out, process_group=0
        )
    try:
        until = time.monotonic() + START_S
        while "--block" not in (folder / "out.txt").read_text():
            assert time.monotonic() < until and process.poll() is None, (folder / "out.txt").read_text()
            time.sleep(0.2)
        yield found
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def study(address: str, results: Path) -> None:
    """Run a study on the cluster, and write what is there afterwards: how many machines, and placement groups."""
    import ray
    from ray.util import placement_group_table

    with ray_session(address):
        words = ("--address", address, "--device", "cpu", "--pretrain.learning-rate", "0.001")
        code = small.run(*words, "--seeds", *map(str, range(8)), results=results)
        states = {group["state"] for group in placement_group_table().values()}
        (results / "after.json").write_text(json.dumps([code, len(ray.nodes()), sorted(states)]))


def test_a_machine_is_added_for_trials_that_wait(address: str, tmp_path: Path) -> None:
    """In a process of its own, because Ray reads once in a process whether there are tokens."""
    process = multiprocessing.get_context("spawn").Process(target=study, args=(address, tmp_path))
    process.start()
    process.join()
    assert json.loads((tmp_path / "after.json").read_text()) == [0, 2, ["REMOVED"]], "one more; nothing is asked for"
    wanted = small.wanted(tmp_path)
    assert {Results(tmp_path).trial(digest).status() for digest in wanted.values()} == {"done"}
    rows = [row for path in tmp_path.glob("ray/small/*/*/result.json") for row in small.json_lines(path)]
    assert len({row["pid"] for row in rows}) == 2, "and used"
