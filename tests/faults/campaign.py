"""The fault campaign: studies are disturbed until so many faults were injected, finished, and compared.

    python -m tests.faults.campaign --faults 100 --seed 0

Prints a table (fault, times injected, times survived, trials lost, epochs repeated, identical result) and exits with 1
when anything was lost or differs.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from cass_tune import ending
from tests.faults import evidence, kinds
from tests.faults.driver import Driver, TooLate
from tests.faults.kinds import Kind
from tests.faults.scenes import INTERVAL_S, ClusterScene, DiskScene, ObjectScene, Scene
from tests.faults.subject import ROWS
from tests.objects import ObjectStore

PER_STUDY = 6
"""Most faults that one study takes, so that every study also goes on undisturbed for a while."""
RETRIES = 2
"""How often a driver that says that it should be run again is run again, at the end of a study."""
WRITE_S = 8.0
"""Most time for a write in flight, and the step before it, on a machine with two cores that does other things, too."""
HEAD = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 150 * 2**20}


@dataclass
class Tally:
    """What became of the faults of one kind."""

    injected: int = 0
    survived: int = 0
    lost: int = 0
    repeated: int = 0
    different: int = 0


@dataclass
class Outcome:
    """What became of one study.

    Args:
        faults: injected, by kind, in order.
        code: exit code of the last driver.
        lost: trials that have no result, or were finished twice.
        repeated: epochs that were finished again after each fault.
        is_identical: whether all numbers are those of the undisturbed study.
        at_risk_s: the most unsaved time at any kill.
        text: what the drivers said.
        complaint: what a kind of fault found wrong.
    """

    faults: list[str]
    code: int
    lost: int
    repeated: list[int]
    is_identical: bool
    at_risk_s: float
    text: str
    complaint: str

    @property
    def is_fine(self) -> bool:
        saved = self.at_risk_s <= INTERVAL_S + WRITE_S
        return self.code == 0 and self.lost == 0 and self.is_identical and saved and not self.complaint


@dataclass
class Campaign:
    """Disturbs studies and keeps count.

    Args:
        folder: for everything that is written.
        seed: of all choices.
        say: told what happens.
    """

    folder: Path
    seed: int = 0
    say: Callable[[str], None] = print
    tallies: dict[str, Tally] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        self._stack = ExitStack()
        self._cluster: Any = None
        self._store: ObjectStore | None = None
        self._expected: dict[str, Any] = {}

    def __enter__(self) -> Campaign:
        scene = Scene(self._new_folder("undisturbed"), self.rng, local=True)
        code = scene.start().end()
        assert code == 0
        self._expected = evidence.numbers(scene.results)
        assert scene.progress() == ROWS and set(evidence.epoch_counts(scene.results).values()) == {1}
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _new_folder(self, name: str) -> Path:
        folder = self.folder / f"{len(self.outcomes):03d}-{name}"
        folder.mkdir(parents=True)
        return folder

    def disturb(self, scene_name: str, chosen: Sequence[str]) -> Outcome:
        """Run a study in a scene, inject faults of these kinds in this order, finish it, and compare."""
        possible = self.kinds(scene_name)
        with self._scene(scene_name) as scene:
            injected, before = self._inject(scene, [(name, possible[name]) for name in chosen])
            outcome = self._finish(scene, injected, before)
        self.outcomes.append(outcome)
        self._count(outcome)
        self.say(f"{scene_name}: {', '.join(outcome.faults) or 'nothing'}: {_verdict(outcome)}")
        return outcome

    def kinds(self, scene_name: str) -> Mapping[str, Kind]:
        """Return the kinds of fault that a scene can take."""
        return {
            "local": {**kinds.ALONE, **kinds.SEVERAL, **kinds.WITHOUT_RAY},
            "ray": {**kinds.ALONE, **kinds.SEVERAL, **kinds.WITH_RAY},
            "cluster": {
                "SIGKILL of the driver": kinds.kill_driver,
                "SIGKILL of a worker": kinds.kill_worker,
                **kinds.ON_A_CLUSTER,
            },
            "disk": {"SIGKILL of the driver": kinds.kill_driver, **kinds.ON_A_SMALL_DISK},
            "objects": {
                "SIGKILL of the driver": kinds.kill_driver,
                "SIGTERM to the driver": kinds.terminate_driver,
                **kinds.SEVERAL,
                **kinds.WITH_OBJECTS,
            },
        }[scene_name]

    @contextmanager
    def _scene(self, name: str) -> Iterator[Scene]:
        folder = self._new_folder(name)
        made = {
            "local": lambda: nullcontext(Scene(folder, self.rng, local=True)),
            "ray": lambda: nullcontext(Scene(folder, self.rng)),
            "cluster": lambda: ClusterScene.made(folder, self.rng, self._get_cluster()),
            "disk": lambda: DiskScene.made(folder, self.rng, local=self.rng.random() < 0.5),
            "objects": lambda: ObjectScene.made(folder, self.rng, self._get_store(), local=self.rng.random() < 0.5),
        }[name]()
        with made as scene:
            yield scene

    def _get_cluster(self) -> Any:
        if self._cluster is None:
            from ray.cluster_utils import Cluster

            self._cluster = Cluster(initialize_head=True, head_node_args=HEAD)
            self._stack.callback(self._cluster.shutdown)
            self._cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=HEAD["object_store_memory"])
        return self._cluster

    def _get_store(self) -> ObjectStore:
        if self._store is None:
            self._store = self._stack.enter_context(ObjectStore())
            os.environ.update(self._store.environment)
        return self._store

    def _inject(self, scene: Scene, chosen: Sequence[tuple[str, Kind]]) -> tuple[list[str], list[int]]:
        """Return the faults that came in time, and how many epochs had been repeated by then."""
        injected: list[str] = []
        repeated: list[int] = []
        self._driver: Driver | None = None
        self._complaint = ""
        for name, kind in chosen:
            if self._driver is None or self._driver.process.poll() is not None:
                self._driver = scene.start()
            try:
                kind(scene, self._driver)
            except TooLate:
                if scene.is_finished():
                    break
                continue
            except AssertionError as error:
                self._complaint = f"{name}: {error}"
            injected.append(name)
            repeated.append(_repeated(scene))
        return injected, repeated

    def _finish(self, scene: Scene, injected: list[str], before: list[int]) -> Outcome:
        driver = self._driver or scene.start()
        if driver.process.poll() is not None:
            driver.end()
            driver = scene.start()
        code = driver.end()
        for _ in range(RETRIES):
            if code != ending.AWAY:
                break
            code = scene.start().end()
        return Outcome(
            faults=injected,
            code=code,
            lost=len(evidence.lost(scene.results)),
            repeated=[after - earlier for earlier, after in itertools.pairwise([*before, _repeated(scene)])],
            is_identical=evidence.numbers(scene.results) == self._expected,
            at_risk_s=scene.at_risk_s,
            text=driver.text,
            complaint=self._complaint,
        )

    def _count(self, outcome: Outcome) -> None:
        for name, repeated in zip(outcome.faults, outcome.repeated, strict=True):
            tally = self.tallies.setdefault(name, Tally())
            tally.injected += 1
            tally.survived += outcome.is_fine
            tally.repeated += repeated
        for name in set(outcome.faults):
            self.tallies[name].lost += outcome.lost
            self.tallies[name].different += not outcome.is_identical

    @property
    def injected(self) -> int:
        """Faults so far."""
        return sum(tally.injected for tally in self.tallies.values())

    def table(self) -> str:
        """Return the table of all kinds."""
        head = ("fault", "injected", "survived", "trials lost", "epochs repeated", "identical")
        rows = [
            (
                name,
                str(tally.injected),
                str(tally.survived),
                str(tally.lost),
                str(tally.repeated),
                "no" if tally.different else "yes",
            )
            for name, tally in self.tallies.items()
        ]
        widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)
        )


def _repeated(scene: Scene) -> int:
    return sum(count - 1 for count in evidence.epoch_counts(scene.results).values())


def _verdict(outcome: Outcome) -> str:
    same = "identical" if outcome.is_identical else "DIFFERENT"
    return (
        f"exit code {outcome.code}, {outcome.lost} lost, {sum(outcome.repeated)} of {ROWS} epochs repeated, "
        f"at most {outcome.at_risk_s:.1f} s unsaved, {same}{outcome.complaint and ', COMPLAINT'}"
    )


def scenes_here() -> list[str]:
    """Return the scenes that this user and machine can make."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with DiskScene.made(Path(folder), Random(0), local=True):
                return ["local", "ray", "cluster", "disk", "objects"]
        except (OSError, subprocess.CalledProcessError):
            return ["local", "ray", "cluster", "objects"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign of so many faults and return the exit code."""
    parser = argparse.ArgumentParser(description="Disturb studies, and compare them with an undisturbed one.")
    parser.add_argument("--faults", type=int, default=100, help="faults to inject, at least (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of all choices (default: 0)")
    parser.add_argument("--scenes", nargs="+", default=scenes_here(), help="some of local ray cluster disk objects")
    parser.add_argument("--folder", type=Path, help="where everything is written and kept (default: a temporary one)")
    given = parser.parse_args(arguments)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="cass_tune-faults-"))
    started = time.monotonic()
    with Campaign(folder, given.seed) as campaign:
        while campaign.injected < given.faults:
            scene = given.scenes[len(campaign.outcomes) % len(given.scenes)]
            possible = list(campaign.kinds(scene))
            campaign.disturb(scene, [campaign.rng.choice(possible) for _ in range(campaign.rng.randint(2, PER_STUDY))])
    bad = [outcome for outcome in campaign.outcomes if not outcome.is_fine]
    at_risk_s = max(outcome.at_risk_s for outcome in campaign.outcomes)
    print(f"\n{campaign.table()}\n")
    print(
        f"{campaign.injected} faults in {len(campaign.outcomes)} studies, "
        f"{time.monotonic() - started:.0f} s, seed {given.seed}"
    )
    print(
        f"most unsaved time at a kill: {at_risk_s:.1f} s (a checkpoint every {INTERVAL_S:g} s, and the write in flight)"
    )
    for outcome in bad:
        print(f"NOT FINE: {', '.join(outcome.faults)}: {_verdict(outcome)}\n{outcome.complaint}\n{outcome.text}")
    if not given.folder and not bad:
        shutil.rmtree(folder)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
