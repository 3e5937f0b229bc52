"""The files of docs/cluster/ and the commands of docs/cluster.md, checked as far as that goes without a cluster."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cass_tune.options import parse
from cass_tune.study import Study

ROOT = Path(__file__).parents[1]
FILES = ROOT / "docs" / "cluster"
PAGE = (ROOT / "docs" / "cluster.md").read_text()
(RAY,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield every command of a study in a text: its module's name and its options."""
    for found in re.finditer(
        r"(?:python -m|slurm\.sbatch) (studies\.\w+)((?: [^\n'\"&|`.]*(?:\.\w[^\n'\"&|` ]*)*)*)", text
    ):
        yield found[1], shlex.split(found[2], comments=True)


def check(text: str) -> int:
    """Parse every command of a study; return how many there are."""
    found = list(commands(text))
    for name, words in found:
        study: Study = importlib.import_module(name).STUDY
        axes, folder = study.axes, ROOT / "docs"
        given = parse(words, prog=name, description="", axes=axes, folder=folder, kind=study.settings)
        assert given.settings.results != "results", f"{words} leaves its results on one node"
    return len(found)


def test_the_commands_of_the_page_are_understood() -> None:
    assert check(PAGE) == 5


def test_every_file_is_named_by_the_page() -> None:
    assert {path.name for path in FILES.iterdir()} <= set(re.findall(r"cluster/([\w.]+)", PAGE))


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_the_launchers_files_fit_rays_schema(cloud: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((FILES / f"{cloud}.yaml").read_text())
    full = prepare_config(config)
    validate_config(full)
    assert full["provider"]["type"] == cloud
    workers = full["available_node_types"]["spot"]
    assert 1 == workers["min_workers"] < workers["max_workers"] == full["max_workers"]
    spot = {
        "aws": {"InstanceMarketOptions": {"MarketType": "spot"}},
        "gcp": {"scheduling": {"provisioningModel": "SPOT"}},
    }
    for name, values in spot[cloud].items():
        assert values.items() <= workers["node_config"][name].items()
    assert full["available_node_types"][full["head_node_type"]]["resources"]["CPU"] == 0
    assert not any("spot" in str(value).lower() for value in full["available_node_types"]["head"].values())
    assert "~/.ray/auth_token" in full["file_mounts"]
    assert any("RAY_AUTH_MODE=token" in command for command in full["setup_commands"])


def test_a_mistake_in_a_launchers_file_is_found() -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((FILES / "aws.yaml").read_text())
    config["available_node_types"]["spot"]["min_worker"] = config["available_node_types"]["spot"].pop("min_workers")
    with pytest.raises(ValidationError):
        validate_config(prepare_config(config))


def test_the_job_of_kubernetes() -> None:
    text = (FILES / "kuberay.yaml").read_text()
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert check(job["spec"]["entrypoint"]) == 1
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == RAY and cluster["authOptions"] == {"mode": "token"}
    head, (group,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    pods: list[Any] = [part["template"]["spec"] for part in (head, group)]
    images = {container["image"] for pod in pods for container in pod["containers"]}
    assert images == {"REGISTRY/cass-tune:1"} and "REGISTRY/cass-tune:1" in PAGE
    for pod in pods:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == "cass-tune"
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() == volumes.keys() and mounts["shared"] == "/shared"
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert "nvidia.com/gpu" in pods[1]["containers"][0]["resources"]["limits"]


def test_the_image_has_what_the_project_needs() -> None:
    lines = (FILES / "Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    assert all((ROOT / word).exists() for word in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", "constraints.txt", "cass_tune", "studies", "analysis"} <= copied
    assert {project["readme"], *project["license-files"]} <= copied


FAKES = {
    "ray": 'echo "ray $*" >>"$LOG"; case "$*" in *--head*) exec python3 "$LISTEN";; esac; sleep 60',
    "srun": """
while [[ $1 == --* ]]; do shift; done
for id in 0 1; do SLURM_NODEID=$id "$@" & done
trap "kill $(jobs -p | xargs)" TERM
wait""",
    "scontrol": 'echo "scontrol $*" >>"$LOG"',
    "hostname": "echo 127.0.0.1",
    "python": """
case "$1" in
  -c) exec python3 "$@";;
  -) cat >/dev/null; until [ "$(grep -c '^ray start' "$LOG")" = 2 ]; do sleep 0.1; done; echo "waits $*" >>"$LOG";;
  -m) echo "study $*" >>"$LOG"; trap 'echo stopped >>"$LOG"; exit 143' TERM
    [ "$CODE" = stay ] || exit "$CODE"; touch "$LOG.running"; sleep 60 & wait;;
esac""",
}
"""Programs in the place of Slurm's and Ray's, which write down what they are told."""

LISTEN = """
import os, socket, time
with socket.create_server(("127.0.0.1", int(os.environ["PORT"]))) as server:
    time.sleep(60)
"""


def test_the_batch_script_is_well_formed() -> None:
    subprocess.run(["bash", "-n", str(FILES / "slurm.sbatch")], check=True)


def _submitted(tmp_path: Path, code: str) -> subprocess.Popen[bytes]:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, text in FAKES.items():
        (binaries / name).write_text(f"#!/bin/bash\n{text}\n")
        (binaries / name).chmod(0o755)
    (binaries / "activate").touch()
    (tmp_path / "listen.py").write_text(LISTEN)
    environment = {
        **{name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ},
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "CASS_TUNE_VENV": str(tmp_path),
        "LOG": str(tmp_path / "log"),
        "LISTEN": str(tmp_path / "listen.py"),
        "CODE": code,
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "1",
    }
    words = ["bash", str(FILES / "slurm.sbatch"), "studies.paper_grid", "--results", "/shared/results"]
    return subprocess.Popen(words, cwd=tmp_path, env=environment, start_new_session=True)


def _log(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


@pytest.mark.parametrize(
    ("code", "requeued"), [("0", False), ("1", False), ("2", False), ("70", False), ("75", True), ("143", True)]
)
def test_the_batch_script_runs_the_study_on_its_nodes(tmp_path: Path, code: str, requeued: bool) -> None:
    assert _submitted(tmp_path, code).wait(timeout=60) == (0 if requeued else int(code))
    log, port = _log(tmp_path), 20000 + os.getpid() % 10000
    own = "--block --disable-usage-stats --num-cpus 8 --num-gpus 1"
    address = f"127.0.0.1:{port}"
    head = f"ray start --head --node-ip-address 127.0.0.1 --port {port} --include-dashboard false {own}"
    assert head in log and f"ray start --address {address} {own}" in log
    assert f"study -m studies.paper_grid --address {address} --results /shared/results" in log
    assert log.index(f"waits - {address} 2") < log.index(next(line for line in log if line.startswith("study")))
    assert (f"scontrol requeue {os.getpid()}" in log) == requeued
    assert not list(tmp_path.glob(".ray-token*"))


def test_slurms_signal_reaches_the_study_which_is_queued_again(tmp_path: Path) -> None:
    job = _submitted(tmp_path, "stay")
    deadline = time.monotonic() + 60
    while not (tmp_path / "log.running").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)  # --signal=B:TERM: the batch script alone gets it
    assert job.wait(timeout=60) == 0
    assert "stopped" in _log(tmp_path) and f"scontrol requeue {os.getpid()}" in _log(tmp_path)
