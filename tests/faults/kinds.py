"""The kinds of fault: each waits until the study is at work, does its harm, and says whether it came in time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from cass_tune.leases import Holder
from tests.faults import evidence
from tests.faults.driver import Driver, TooLate
from tests.faults.scenes import ClusterScene, DiskScene, ObjectScene, Scene
from tests.faults.subject import KILL

Kind = Callable[[Scene, Driver], None]
"""Disturbs a driver that has just been started, or goes on after an earlier fault; afterwards it may have ended.

Raises:
    TooLate: the study ended before.
"""

AWAY_S = 20.0
FULL_S = 5.0
WRITES = {
    "*/checkpoints/*.safetensors": 8,
    "*/checkpoints/*.json": 8,
    "*/attempts/*.json": 3,
    "*/holder.json": 1,
    "*/trials/*/cnn.safetensors": 1,
    "*/epoch-*/state.safetensors": 1,
    "*/epoch-*/run.json": 1,
    "*/predictions.parquet": 1,
    "*/result.json": 1,
    "*/plans/*.json": 1,
}
"""Files during whose writing a process is killed, and the highest number of the write that is chosen."""
STEPS = ("opened", "written", "synced", "renamed")


def _wait_for_work(scene: Scene, driver: Driver) -> None:
    """Wait until some trial is at work and, by chance, some epochs further."""
    further = scene.progress() + scene.rng.choice((0, 0, 1, 2, 4, 7))
    driver.wait_until(scene.is_at_work, "a trial at work")
    driver.wait_until(lambda: scene.progress() >= further, f"{further} epochs")
    time.sleep(scene.rng.uniform(0, 0.7))


def kill_driver(scene: Scene, driver: Driver) -> None:
    _wait_for_work(scene, driver)
    scene.before_a_kill()
    driver.send(signal.SIGKILL)
    driver.end()


def _ask_driver(scene: Scene, driver: Driver, number: signal.Signals, code: int, *, group: bool = False) -> None:
    _wait_for_work(scene, driver)
    workers = evidence.holders(scene.results)
    asked = time.monotonic()
    driver.send(number, group=group)
    ended = driver.end()
    if scene.is_finished():  # on its way out the driver no longer looks at signals
        raise TooLate(number.name)
    assert ended == code, f"exit code {ended}\n{driver.text}"
    assert time.monotonic() - asked < 45, "it leaves within 25 s, and ends"
    assert "the same command goes on" in driver.text.splitlines()[-1], driver.text
    if not group:  # Ray's raylet, told to go as well, may end its workers before they have said so
        _assert_saved(scene, workers)


def _assert_saved(scene: Scene, workers: list[Holder]) -> None:
    """What these processes computed ended in good order: interrupted with its state saved, or finished."""
    ends = evidence.ends(scene.results, {worker.pid for worker in workers})
    assert ends and all(end and end["how"] in ("interrupted", "finished") for end in ends), ends
    assert not any("could not be saved" in end.get("message", "") for end in ends if end), ends


def interrupt_driver(scene: Scene, driver: Driver) -> None:
    _ask_driver(scene, driver, signal.SIGINT, 130)


def terminate_driver(scene: Scene, driver: Driver) -> None:
    _ask_driver(scene, driver, signal.SIGTERM, 143)


def terminate_group(scene: Scene, driver: Driver) -> None:
    _ask_driver(scene, driver, signal.SIGTERM, 143, group=True)


def take_machine_away(scene: Scene, driver: Driver) -> None:
    """The command of ``--preemption-command`` says so."""
    _wait_for_work(scene, driver)
    workers = evidence.holders(scene.results)
    scene.notice.touch()
    ended = driver.end()
    scene.notice.unlink()
    if scene.is_finished():
        raise TooLate("notice")
    assert ended in (130, 143), f"exit code {ended}\n{driver.text}"
    _assert_saved(scene, workers)


def kill_own_raylet(scene: Scene, driver: Driver) -> None:
    """The driver cannot go on, and says so, unless what is left needs no raylet."""
    _wait_for_work(scene, driver)
    scene.before_a_kill()
    os.kill(driver.child("raylet/raylet"), signal.SIGKILL)
    ended = driver.end()
    assert ended == (0 if scene.is_finished() else 75), f"exit code {ended}\n{driver.text}"


def kill_worker(scene: Scene, driver: Driver) -> None:
    _wait_for_work(scene, driver)
    scene.before_a_kill()
    workers = [holder.pid for holder in evidence.holders(scene.results) if holder.pid != driver.pid]
    if not workers:
        raise TooLate("no worker")
    with suppress(ProcessLookupError):
        os.kill(scene.rng.choice(sorted(workers)), signal.SIGKILL)


def terminate_worker(scene: Scene, driver: Driver) -> None:
    _wait_for_work(scene, driver)
    workers = [holder for holder in evidence.holders(scene.results) if holder.pid != driver.pid]
    if not workers:
        raise TooLate("no worker")
    worker = scene.rng.choice(sorted(workers, key=lambda holder: holder.pid))
    with suppress(ProcessLookupError):
        os.kill(worker.pid, signal.SIGTERM)
    driver.wait_until(lambda: all(evidence.ends(scene.results, {worker.pid})), "the worker's end")
    _assert_saved(scene, [worker])


def _newest_checkpoint(scene: Scene) -> Path:
    found = [
        path for path in Path(scene.root).glob("*/*/checkpoints/*.safetensors") if path.with_suffix(".json").exists()
    ]
    if not found:
        raise TooLate("no checkpoint")
    return max(found, key=lambda path: path.stat().st_mtime)


def truncate_checkpoint(scene: Scene, driver: Driver) -> None:
    kill_driver(scene, driver)
    path = _newest_checkpoint(scene)
    os.truncate(path, scene.rng.randrange(path.stat().st_size))


def flip_bit_of_checkpoint(scene: Scene, driver: Driver) -> None:
    kill_driver(scene, driver)
    path = scene.rng.choice([path := _newest_checkpoint(scene), path.with_suffix(".json")])
    data = bytearray(path.read_bytes())
    data[scene.rng.randrange(len(data))] ^= 1 << scene.rng.randrange(8)
    path.write_bytes(data)


def kill_in_a_write(scene: Scene, driver: Driver) -> None:
    """The driver itself is replaced by one that kills itself between two steps of a write."""
    driver.stop()
    pattern, most = scene.rng.choice(list(WRITES.items()))
    fault = f"{scene.rng.choice(STEPS)}:{pattern}:{scene.rng.randint(1, most)}"
    code = scene.start({KILL: fault}).end()
    if code == 0:
        raise TooLate(fault)
    assert code == -signal.SIGKILL, f"exit code {code}"


def fill_disk(scene: Scene, driver: Driver) -> None:
    assert isinstance(scene, DiskScene)
    _wait_for_work(scene, driver)
    scene.fill()
    time.sleep(FULL_S)
    scene.empty()


def cut_storage(scene: Scene, driver: Driver) -> None:
    assert isinstance(scene, ObjectScene)
    _wait_for_work(scene, driver)
    scene.proxy.cut()
    time.sleep(AWAY_S)
    scene.proxy.join()
    if driver.process.poll() is not None:
        raise TooLate("storage away")


def drivers_at_once(scene: Scene, driver: Driver) -> None:
    """One or two more drivers run until the study is finished."""
    more = [scene.start() for _ in range(scene.rng.choice((1, 2)))]
    codes = [each.end() for each in (driver, *more)]
    assert codes == [0] * len(codes), f"exit codes {codes}\n{driver.text}"


def drivers_at_once_and_one_killed(scene: Scene, driver: Driver) -> None:
    more = [scene.start() for _ in range(scene.rng.choice((1, 2)))]
    kill_driver(scene, driver)
    codes = [each.end() for each in more]
    assert codes == [0] * len(codes), f"exit codes {codes}\n{driver.text}"


def lose_node(scene: Scene, driver: Driver) -> None:
    assert isinstance(scene, ClusterScene)
    _wait_for_work(scene, driver)
    scene.before_a_kill()
    scene.remove_node()
    scene.add_node()


def drain_node(scene: Scene, driver: Driver) -> None:
    assert isinstance(scene, ClusterScene)
    _wait_for_work(scene, driver)
    scene.drain()
    time.sleep(5)
    scene.remove_node()
    scene.add_node()


ALONE: Mapping[str, Kind] = {
    "SIGKILL of the driver": kill_driver,
    "SIGTERM to the driver": terminate_driver,
    "SIGINT to the driver": interrupt_driver,
    "truncated checkpoint": truncate_checkpoint,
    "bit-flipped checkpoint": flip_bit_of_checkpoint,
    "notice by --preemption-command": take_machine_away,
}
"""Kinds for a driver on this machine, with or without Ray."""
SEVERAL: Mapping[str, Kind] = {
    "two or three drivers at once": drivers_at_once,
    "the same, one killed": drivers_at_once_and_one_killed,
}
WITHOUT_RAY: Mapping[str, Kind] = {"SIGKILL in a write": kill_in_a_write}
WITH_RAY: Mapping[str, Kind] = {
    "SIGKILL of a worker": kill_worker,
    "SIGTERM to a worker": terminate_worker,
    "SIGTERM to the driver, Ray and all": terminate_group,
    "SIGKILL of the driver's raylet": kill_own_raylet,
}
ON_A_CLUSTER: Mapping[str, Kind] = {"SIGKILL of a node's raylet": lose_node, "drain of a node": drain_node}
ON_A_SMALL_DISK: Mapping[str, Kind] = {"no space for 5 s": fill_disk}
WITH_OBJECTS: Mapping[str, Kind] = {"storage away for 20 s": cut_storage}
