"""Where a disturbed study runs: in one process, under Ray, on a cluster, with a small disk, with an object store."""

from __future__ import annotations

import importlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from cass_tune.results import Results
from tests.faults import evidence
from tests.faults.driver import Driver
from tests.faults.proxy import Proxy
from tests.objects import ObjectStore

INTERVAL_S = 1.2
DISK_BYTES = 200 * 2**20
NODE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 150 * 2**20}


class Scene:
    """A results root, and how drivers are started on it.

    Args:
        folder: for logs, and for results where they are local.
        rng: source of all choices.
        local: run without Ray.
    """

    def __init__(self, folder: Path, rng: Random, *, local: bool = False) -> None:
        self.folder = folder
        self.rng = rng
        self.local = local
        self.environment: dict[str, str] = {}
        self.at_risk_s = 0.0
        self._earlier: set[int] = set()

    @property
    def root(self) -> str:
        return str(self.folder / "results")

    @property
    def notice(self) -> Path:
        """A file that says, while it is there, that the machine will be taken away."""
        return self.folder / "notice"

    @property
    def results(self) -> Results:
        return Results(self.root)

    def arguments(self) -> list[str]:
        """Return the options of every driver."""
        way = ["--local"] if self.local else []
        often = ["--checkpoint-every-minutes", str(INTERVAL_S / 60)]
        return [*way, "--results", self.root, *often, "--preemption-command", f"test -e {self.notice}"]

    def start(self, environment: Mapping[str, str] | None = None) -> Driver:
        """Start a driver."""
        log = self.folder / "log.txt"
        self._earlier = {holder.pid for holder in evidence.holders(self.results)}
        return Driver(log, *self.arguments(), environment={**self.environment, **(environment or {})})

    def is_at_work(self) -> bool:
        """Return whether a process that is not left over from an earlier driver computes a trial."""
        return any(holder.pid not in self._earlier for holder in evidence.holders(self.results))

    def is_finished(self) -> bool:
        """Return whether every trial has its result."""
        trials, _ = evidence.parts(self.results)
        return bool(trials) and all(folder.result() is not None for folder in trials.values())

    def progress(self) -> int:
        """Return the number of epochs that were finished, repeated ones counted again."""
        return sum(evidence.epoch_counts(self.results).values())

    def before_a_kill(self) -> None:
        """Take note of what a kill costs now."""
        self.at_risk_s = max(self.at_risk_s, evidence.seconds_at_risk(self.results))


class DiskScene(Scene):
    """Results on a small disk of their own, which can be filled."""

    @classmethod
    @contextmanager
    def made(cls, folder: Path, rng: Random, *, local: bool) -> Iterator[DiskScene]:
        """Mount the disk until the block ends.

        Raises:
            CalledProcessError: this user may not mount.
        """
        scene = cls(folder, rng, local=local)
        scene.disk.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(scene.disk)]
        subprocess.run(["mount", *options], check=True, capture_output=True)
        try:
            yield scene
        finally:
            subprocess.run(["umount", "--lazy", str(scene.disk)], check=True)

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def root(self) -> str:
        return str(self.disk / "results")

    def fill(self) -> None:
        """Leave no byte on the disk."""
        with (self.disk / "filler").open("wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(b"\0" * 65536)
            except OSError:
                return

    def empty(self) -> None:
        """Free what `fill` took."""
        (self.disk / "filler").unlink()


class ObjectScene(Scene):
    """Results in an object store behind a connection that can be cut."""

    bucket: str
    proxy: Proxy

    @classmethod
    @contextmanager
    def made(cls, folder: Path, rng: Random, store: ObjectStore, *, local: bool) -> Iterator[ObjectScene]:
        """Give a bucket of its own."""
        scene = cls(folder, rng, local=local)
        scene.bucket = f"faults-{rng.randrange(16**8):08x}"
        store.make_bucket(scene.bucket)
        scene.proxy = Proxy("127.0.0.1", urlsplit(store.url).port or 0)
        scene.environment = {**store.environment, "AWS_ENDPOINT_URL": scene.proxy.url}
        try:
            yield scene
        finally:
            scene.proxy.cut()

    @property
    def root(self) -> str:
        return f"s3://{self.bucket}/results"

    def before_a_kill(self) -> None:
        """Objects have no times that this machine's clock gave: nothing is noted."""


class ClusterScene(Scene):
    """A Ray cluster on this machine, whose second node comes and goes."""

    cluster: Any
    node: Any

    @classmethod
    @contextmanager
    def made(cls, folder: Path, rng: Random, cluster: Any) -> Iterator[ClusterScene]:
        """Give the cluster a second node until the block ends."""
        scene = cls(folder, rng)
        scene.cluster = cluster
        scene.add_node()
        try:
            yield scene
        finally:
            scene.remove_node()

    def arguments(self) -> list[str]:
        """Return the options of every driver."""
        return [*super().arguments(), "--address", self.cluster.address]

    def add_node(self) -> None:
        self.node = self.cluster.add_node(**NODE)

    def remove_node(self) -> None:
        """Kill the second node's raylet, and with it all that runs there."""
        self.cluster.remove_node(self.node, allow_graceful=False)

    def drain(self) -> None:
        """Tell Ray that the second node will be taken away in a few seconds."""
        raylet: Any = importlib.import_module("ray._raylet")
        reasons: Any = importlib.import_module("ray.core.generated.autoscaler_pb2").DrainNodeReason
        reason = reasons.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + 10) * 1000)
        raylet.GcsClient(address=self.cluster.address).drain_node(self.node.node_id, reason, "spot", deadline_ms)
