"""The trial that computes what others share, and the driver, are killed again and again: nothing is lost.

Each once in CI; CASS_TUNE_TEST_KILLS=10 is the long form.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from random import Random

import pytest

from cass_tune.leases import holder
from cass_tune.results import StageFolder
from tests.faults import evidence
from tests.faults.campaign import WRITE_S
from tests.faults.driver import Driver, TooLate
from tests.faults.scenes import INTERVAL_S, Scene
from tests.faults.subject import SHARED, SHARED_EPOCHS

pytestmark = [pytest.mark.slow, pytest.mark.ray]
KILLS = int(os.environ.get("CASS_TUNE_TEST_KILLS", "2"))
LONGEST_S = 1.5


def shared_scene(folder: Path, rng: Random, *, local: bool) -> Scene:
    folder.mkdir(exist_ok=True)
    scene = Scene(folder, rng, local=local)
    scene.environment[SHARED] = "1"
    return scene


def the_stage(scene: Scene) -> StageFolder | None:
    """Return the only pretraining of the study."""
    stages = list(evidence.parts(scene.results)[1].values())
    return stages[0] if stages else None


def computes_it(scene: Scene, killed: set[int]) -> int | None:
    """Return the process that computes the shared pretraining now."""
    stage = the_stage(scene)
    at_work = holder(stage.path) if stage else None
    return at_work.pid if stage and at_work and stage.is_held() and at_work.pid not in killed else None


def kill(scene: Scene, driver: Driver, rng: Random, killed: set[int]) -> None:
    """Kill the trial that computes the shared part, or the driver, at a moment of its work."""
    driver.wait_until(lambda: computes_it(scene, killed) is not None, "a trial that computes the shared part")
    wait_s = rng.uniform(0, LONGEST_S)
    with pytest.raises(AssertionError, match="not within"):  # the driver goes on meanwhile
        driver.wait_until(lambda: False, "the moment of the kill", wait_s)
    scene.before_a_kill()
    pid = computes_it(scene, killed)
    if pid is None or rng.random() < 0.5:
        driver.send(signal.SIGKILL)
        driver.end()
    else:
        killed.add(pid)
        os.kill(pid, signal.SIGKILL)


def test_kills_of_what_computes_a_shared_part(tmp_path: Path) -> None:
    undisturbed = shared_scene(tmp_path / "undisturbed", Random(0), local=True)
    assert undisturbed.start().end() == 0
    rng = Random(1)
    scene = shared_scene(tmp_path / "killed", rng, local=False)
    driver, kills, killed = scene.start(), 0, set[int]()
    try:
        while kills < KILLS:
            try:
                kill(scene, driver, rng, killed)
                kills += 1
            except TooLate:
                break
            if driver.process.poll() is not None:
                driver = scene.start()
        assert driver.end() == 0, driver.text
    finally:
        driver.stop()
    assert kills == KILLS, "the shared part was finished before"
    assert evidence.lost(scene.results) == []
    assert evidence.numbers(scene.results) == evidence.numbers(undisturbed.results)
    assert scene.at_risk_s <= INTERVAL_S + WRITE_S
    stage = the_stage(scene)
    assert stage is not None and stage.ends() == list(SHARED_EPOCHS) and not stage.checkpoints.exists()
    trials, _ = evidence.parts(scene.results)
    first, longest = (
        [attempt for name, folder in trials.items() if f" epochs={epochs} " in name for attempt in folder.attempts()]
        for epochs in SHARED_EPOCHS
    )
    finished = [end["time"] for end in (attempt["ended"] for attempt in longest) if end and end["how"] == "finished"]
    assert min(attempt["started"] for attempt in first) < min(finished), "it starts when its part is stored"
    alone = evidence.epoch_counts(undisturbed.results)
    assert set(alone.values()) == {1} and sum(epoch[0] == stage.id for epoch in alone) == max(SHARED_EPOCHS)
