"""Checkpoints: whole or not there, the newest two kept, damaged ones passed over, written while training goes on."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cass_tune import checkpoints, patience, storage
from cass_tune.checkpoints import Checkpointer, Checkpoints
from cass_tune.errors import HoldLost, StorageError
from cass_tune.storage import AnyPath, place
from cass_tune.training.state import State
from tests.disks import make_read_only, small_disk
from tests.objects import ObjectStore
from tests.tiny import same

REPOSITORY = Path(__file__).parents[1]
STEPS = 8
"""Calls of `storage.between_steps` in one write: four for the tensors, four for the description."""
MIB = 2**20

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from cass_tune import storage
from cass_tune.checkpoints import Checkpoints
from cass_tune.training.state import State

root, steps = Path(sys.argv[1]), int(sys.argv[2])
state = State(tensors={"w": torch.full((1000,), 2.0)}, values={"step": 2})

def die_at(last):
    calls = []

    def step(*_):
        calls.append(1)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return step

for last in range(1, steps + 1):
    child = os.fork()
    if child == 0:
        storage.between_steps = die_at(last)
        Checkpoints(root / str(last)).write(state)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


def state(step: int, numbers: int = 1000) -> State:
    """Return a state that can be told from those of other steps."""
    tensors = {"arms/w": torch.full((numbers,), float(step)), "count": torch.tensor(step)}
    return State(tensors=tensors, values={"step": step, "rows": [{"epoch": 1, "loss": 0.1}]})


def is_state(found: State | None, step: int) -> bool:
    """Return whether it is exactly the state of a step."""
    expected = state(step)
    return found is not None and found.values == expected.values and same(dict(found.tensors), dict(expected.tensors))


def files(folder: AnyPath) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture(params=["local", "object store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    """A folder for checkpoints in a results root of either kind."""
    if request.param == "local":
        return tmp_path / "checkpoints"
    name = f"checkpoints-{uuid.uuid4().hex[:12]}"
    request.getfixturevalue("object_store").make_bucket(name)
    return place(f"s3://{name}/results") / "checkpoints"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the warnings about checkpoints so far."""
    caplog.set_level(logging.WARNING, "cass_tune.checkpoints")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "cass_tune.checkpoints"]


# Writing and reading


def test_a_state_comes_back_bit_by_bit(folder: AnyPath) -> None:
    tensors: dict[str, Tensor] = {
        "a/float": torch.randn(3, 5),
        "a/transposed": torch.randn(3, 5).T,
        "bfloat": torch.randn(4).to(torch.bfloat16),
        "integer": torch.tensor([2**62, -1]),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(float("nan")),
    }
    values = {"rows": [{"epoch": 1, "loss": 0.1 + 0.2}], "text": "ä", "none": None, "big": 2**60}
    store = Checkpoints(folder)
    assert store.newest() is None and store.names() == []
    name = store.write(State(tensors=tensors, values=values))
    found = Checkpoints(folder).newest()
    assert found is not None and found.values == values and found.tensors.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert found.tensors[key].dtype == tensor.dtype and found.tensors[key].shape == tensor.shape
        assert torch.equal(found.tensors[key].nan_to_num(7), tensor.nan_to_num(7))
    assert store.names() == [name] and files(folder) == [f"{name}.json", f"{name}.safetensors"]


def test_the_newest_two_are_kept(folder: AnyPath) -> None:
    store = Checkpoints(folder)
    names = [store.write(state(step)) for step in range(1, 5)]
    assert store.names() == names[2:] and names == sorted(names)
    assert files(folder) == [f"{name}.{ending}" for name in names[2:] for ending in ("json", "safetensors")]
    assert is_state(store.newest(), 4)
    store.clear()
    assert store.newest() is None and files(folder) == []
    store.clear()


def test_those_of_no_use_are_left_out_and_stay(folder: AnyPath) -> None:
    theirs = Checkpoints(folder).write(state(5))
    store = Checkpoints(folder)

    def fits(values: Mapping[str, Any]) -> bool:
        return values["step"] < 5

    assert store.newest(fits) is None
    names = [store.write(state(step)) for step in range(1, 4)]
    assert store.names() == [theirs, *names[1:]] and is_state(store.newest(fits), 3)
    store.clear()
    assert store.names() == [theirs] and is_state(store.newest(), 5)


def test_the_furthest_is_taken(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    for step in (7, 3):
        store.write(state(step))
    assert is_state(store.newest(), 3)
    assert is_state(store.newest(progress=lambda values: values["step"]), 7)


# Damage


def _cut(path: AnyPath) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip_a_bit(path: AnyPath) -> None:
    content = bytearray(path.read_bytes())
    content[-500] ^= 1
    path.write_bytes(bytes(content))


def _change(**values: Any) -> Callable[[AnyPath], object]:
    def change(path: AnyPath) -> None:
        record = json.loads(path.read_bytes())
        path.write_bytes(json.dumps({**record, **values}).encode())

    return change


def _replace(text: str) -> Callable[[AnyPath], object]:
    return lambda path: path.write_bytes(text.encode("latin-1"))


DAMAGES: dict[str, tuple[str, Callable[[AnyPath], object]]] = {
    "tensors cut": (".safetensors", _cut),
    "tensors empty": (".safetensors", _replace("")),
    "one bit": (".safetensors", _flip_a_bit),
    "tensors missing": (".safetensors", lambda path: path.unlink()),
    "description cut": (".json", lambda path: path.write_bytes(path.read_bytes()[:-20])),
    "values changed": (".json", _change(values={"step": 9})),
    "digest changed": (".json", _change(sha256="0" * 64)),
    "no JSON": (".json", _replace("\xff\xfe")),
    **{f"JSON {text!r}": (".json", _replace(text)) for text in ("", "[]", "null", "{}", '"checksum"', "7")},
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_one_is_passed_over_with_one_warning(
    tmp_path: Path, told: Callable[[], list[str]], kind: str
) -> None:
    _check_damage(tmp_path / "checkpoints", told, kind)


@pytest.mark.parametrize("kind", ["one bit", "tensors missing", "description cut"])
def test_a_damaged_one_in_an_object_store(object_store: ObjectStore, told: Callable[[], list[str]], kind: str) -> None:
    name = f"damaged-{uuid.uuid4().hex[:12]}"
    object_store.make_bucket(name)
    _check_damage(place(f"s3://{name}/checkpoints"), told, kind)


def _check_damage(folder: AnyPath, told: Callable[[], list[str]], kind: str) -> None:
    store = Checkpoints(folder)
    first, second = store.write(state(1)), store.write(state(2))
    ending, damage = DAMAGES[kind]
    damage(folder / f"{second}{ending}")
    assert is_state(store.newest(), 1)
    (warning,) = told()
    assert warning.startswith(f"checkpoint {folder / second} is damaged (")
    third = store.write(state(3))
    assert store.names() == [first, third], "the damaged one is not one of the two"
    assert is_state(store.newest(), 3) and len(told()) == 1


def test_when_all_are_damaged_there_is_none(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    store = Checkpoints(tmp_path)
    for step in (1, 2):
        _cut(tmp_path / f"{store.write(state(step))}.safetensors")
    assert store.newest() is None and len(told()) == 2


def test_tensors_without_a_description_do_not_count(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    store = Checkpoints(tmp_path)
    first, second = store.write(state(1)), store.write(state(2))
    (tmp_path / f"{second}.json").unlink()
    assert store.names() == [first] and is_state(store.newest(), 1)
    third = store.write(state(3))
    assert files(tmp_path) == [f"{name}.{ending}" for name in (first, third) for ending in ("json", "safetensors")]
    assert not told()


# Writes that fail


def failing_at(number: int, error: BaseException) -> Callable[[str, AnyPath], None]:
    """Return a hook that raises an error at its so-many-th call."""
    calls: list[str] = []

    def fail(step: str, path: AnyPath) -> None:
        calls.append(step)
        if len(calls) == number:
            raise error

    return fail


ERRORS = {"full": OSError(errno.ENOSPC, "full"), "interrupt": KeyboardInterrupt()}


@pytest.mark.parametrize("number", range(1, STEPS + 1))
@pytest.mark.parametrize("folder", ["local"], indirect=True)
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_at_a_step_leaves_the_earlier_ones_and_nothing_else(
    folder: AnyPath, monkeypatch: pytest.MonkeyPatch, told: Callable[[], list[str]], number: int, kind: str
) -> None:
    store = Checkpoints(folder)
    names = [store.write(state(step)) for step in (1, 2)]
    before = files(folder)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "between_steps", failing_at(number, ERRORS[kind]))
        with pytest.raises(StorageError if kind == "full" else KeyboardInterrupt):
            store.write(state(3))
    assert store.names() == names and files(folder) == before
    assert is_state(store.newest(), 2)
    store.write(state(4))
    assert store.names()[:-1] == names[1:] and is_state(store.newest(), 4) and not told()


@pytest.mark.parametrize("number", range(1, STEPS + 1))
@pytest.mark.parametrize("folder", ["object store"], indirect=True)
def test_an_error_at_a_step_in_an_object_store(
    folder: AnyPath, monkeypatch: pytest.MonkeyPatch, told: Callable[[], list[str]], number: int
) -> None:
    store = Checkpoints(folder)
    name = store.write(state(1))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "between_steps", failing_at(number, ERRORS["full"]))
        with pytest.raises(StorageError):
            store.write(state(2))
    assert store.names() == [name] and len(files(folder)) == 2
    assert is_state(store.newest(), 1) and not told()


def test_the_steps_of_a_write(folder: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(storage, "between_steps", lambda step, path: seen.append(f"{path.suffix} {step}"))
    Checkpoints(folder).write(state(1))
    steps = ("opened", "written", "synced", "renamed")
    assert seen == [f"{ending} {step}" for ending in (".safetensors", ".json") for step in steps]
    assert len(seen) == STEPS


def test_a_writer_that_is_killed_leaves_the_earlier_ones(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    for number in range(1, STEPS + 1):
        Checkpoints(tmp_path / str(number)).write(state(1))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(STEPS)], env=environment, check=True, timeout=60)
    for number in range(1, STEPS + 1):
        store = Checkpoints(tmp_path / str(number))
        found = store.newest()
        assert found is not None
        if number == STEPS:
            assert found.values == {"step": 2} and found.tensors["w"].sum() == 2000
        else:
            assert is_state(found, 1) and len(store.names()) == 1
        store.write(state(3))
        assert is_state(store.newest(), 3)
    assert not told()


def test_a_process_that_lost_the_folder_leaves_nothing(folder: AnyPath) -> None:
    def check() -> None:
        raise HoldLost(str(folder), "another process")

    store = Checkpoints(folder)
    with pytest.raises(HoldLost):
        store.write(state(1), check)
    assert store.names() == files(folder) == [] and store.newest() is None
    name = store.write(state(2))
    with pytest.raises(HoldLost):
        store.write(state(3), check)
    assert store.names() == [name] and is_state(store.newest(), 2)


def test_values_that_are_no_json_leave_nothing(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    for value in (float("nan"), torch.tensor(1)):
        with pytest.raises((ValueError, TypeError)):
            store.write(State(tensors={"w": torch.zeros(3)}, values={"loss": value}))
    assert store.names() == files(tmp_path) == []


def test_a_full_disk_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, MIB) as mounted:
        store = Checkpoints(disk / "checkpoints")
        names = [store.write(state(step, numbers=100_000)) for step in (1, 2)]
        if not mounted:
            monkeypatch.setattr(storage, "between_steps", failing_at(2, OSError(errno.ENOSPC, "full")))
        with pytest.raises(StorageError) as caught:
            store.write(state(3, numbers=100_000))
        text = str(caught.value)
        assert text.startswith(f"Cannot write {store.folder}/000003-") and "No space left on device (" in text
        assert " bytes free there)" in text and "400,008 bytes" in text
        assert store.names() == names and len(files(store.folder)) == 4
        found = store.newest()
        assert found is not None and found.tensors["arms/w"][-1] == 2


def test_a_read_only_disk_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, MIB) as mounted:
        store = Checkpoints(disk / "checkpoints")
        name = store.write(state(1))
        if mounted:
            make_read_only(disk)
        else:
            monkeypatch.setattr(storage, "between_steps", failing_at(1, OSError(errno.EROFS, "read-only")))
        with pytest.raises(StorageError, match=r"Cannot write .*/000002-.*: Read-only file system .*Make it writable"):
            store.write(state(2))
        assert store.names() == [name] and is_state(store.newest(), 1)


def test_an_object_store_that_fails_in_the_middle(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    object_store.make_bucket(bucket := f"middle-{uuid.uuid4().hex[:12]}")
    store = Checkpoints(place(f"s3://{bucket}/checkpoints"))
    name = store.write(state(1))
    large = state(2, numbers=6 * MIB)  # 24 MiB, in parts
    monkeypatch.setattr(patience, "PATIENCE_S", 0.0)
    for pattern in ("PUT .*partNumber=2", "PUT .*[.]json"):
        with (
            object_store.failing(pattern),
            pytest.raises(StorageError, match=rf"^s3://{bucket}/checkpoints/.* cannot be reached"),
        ):
            store.write(large)
        assert store.names() == [name] and len(files(store.folder)) == 2
    assert is_state(store.newest(), 1)


# Checkpoints while training goes on


class Clock:
    """Time that also passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        monotonic = time.monotonic
        monkeypatch.setattr(checkpoints.time, "monotonic", lambda: monotonic() + self.ahead_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Training:
    """A training whose state changes in place, and its checkpoints on a local disk."""

    def __init__(self, folder: Path, every_s: float = 60.0) -> None:
        self.store = Checkpoints(folder)
        self.weights = torch.zeros(1000)
        self.values = {"step": 0}
        self.states = 0
        self.lost = False
        self.slow_s = 0.0
        self.checkpointer = Checkpointer(self.store, self.state, every_s=every_s, check=self.check)

    def state(self) -> State:
        self.states += 1
        time.sleep(self.slow_s)
        return State(tensors={"w": self.weights}, values=self.values)

    def check(self) -> None:
        if self.lost:
            raise HoldLost(str(self.store.folder), "another process")

    def step(self) -> None:
        self.weights += 1
        self.values["step"] += 1

    def wait(self) -> None:
        """Return when no write is under way, and leave it to the checkpointer what came of it."""
        if self.checkpointer._writing is not None:
            wait([self.checkpointer._writing])

    def newest(self) -> tuple[int, float]:
        """Return the step and the weight of the newest checkpoint."""
        self.checkpointer.close()
        found = self.store.newest()
        assert found is not None and found.tensors["w"].min() == found.tensors["w"].max()
        return found.values["step"], found.tensors["w"][0].item()


class Gate:
    """Holds every write back until it is opened; counts those that are under way at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = threading.Event()
        self._under_way = 0
        self.most = 0
        monkeypatch.setattr(storage, "between_steps", self._step)

    def _step(self, step: str, path: AnyPath) -> None:
        if (step, path.suffix) == ("opened", ".safetensors"):
            self._under_way += 1
            self.most = max(self.most, self._under_way)
            assert self._open.wait(30)
        if (step, path.suffix) == ("renamed", ".json"):
            self._under_way -= 1

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.open()


def test_a_step_writes_only_when_the_interval_is_over(tmp_path: Path, clock: Clock) -> None:
    training = Training(tmp_path, every_s=60)
    training.checkpointer.after_step()
    clock.ahead_s = 55
    training.checkpointer.after_step()
    assert training.states == 0
    clock.ahead_s = 60
    training.checkpointer.after_step()
    training.checkpointer.after_step()
    assert training.states == 1
    training.wait()
    clock.ahead_s = 120
    training.checkpointer.after_step()
    assert training.states == 2 and len(training.checkpointer.stalls_s) == 2
    training.checkpointer.close()
    assert len(training.store.names()) == 2


def test_the_end_of_an_epoch_writes_after_ten_seconds(tmp_path: Path, clock: Clock) -> None:
    training = Training(tmp_path, every_s=600)
    clock.ahead_s = checkpoints.EPOCH_END_S - 5
    training.checkpointer.after_epoch()
    assert training.states == 0
    clock.ahead_s = checkpoints.EPOCH_END_S
    training.checkpointer.after_step()
    assert training.states == 0
    training.checkpointer.after_epoch()
    training.checkpointer.after_epoch()
    assert training.states == 1
    training.checkpointer.close()
    assert len(training.store.names()) == 1


def test_the_end_of_an_epoch_waits_for_a_short_interval_only(tmp_path: Path, clock: Clock) -> None:
    training = Training(tmp_path, every_s=3)
    clock.ahead_s = 3
    training.checkpointer.after_epoch()
    assert training.states == 1
    training.checkpointer.close()


def test_copies_that_take_long_are_made_less_often(tmp_path: Path, clock: Clock) -> None:
    training = Training(tmp_path, every_s=600)
    training.slow_s = 0.5
    training.checkpointer.save()
    training.slow_s = 0.0
    least_s = 0.5 / checkpoints.LARGEST_STALL
    assert least_s > checkpoints.EPOCH_END_S
    clock.ahead_s += least_s - 5
    training.checkpointer.after_epoch()
    assert training.states == 1
    clock.ahead_s += max(training.checkpointer.stalls_s) / checkpoints.LARGEST_STALL
    training.checkpointer.after_epoch()
    assert training.states == 2
    training.checkpointer.close()


def test_one_write_at_a_time(tmp_path: Path, clock: Clock, gate: Gate) -> None:
    training = Training(tmp_path, every_s=60)
    clock.ahead_s += 60
    training.checkpointer.after_step()
    clock.ahead_s += 30
    training.checkpointer.after_epoch()
    training.checkpointer.after_step()
    assert training.states == 1, "a write is under way"
    clock.ahead_s += 30
    training.checkpointer.after_step()
    assert training.states == 1, "training does not wait for it"
    gate.open()
    training.wait()
    training.checkpointer.after_step()
    assert training.states == 2 and gate.most == 1
    training.checkpointer.close()
    assert len(training.store.names()) == 2 and gate.most == 1


def test_a_write_that_does_not_end_stops_the_training_when_the_promise_is_broken(
    tmp_path: Path, clock: Clock, gate: Gate
) -> None:
    training = Training(tmp_path, every_s=60)
    clock.ahead_s = 60
    training.checkpointer.after_step()
    clock.ahead_s = 60 + checkpoints.PATIENCE_S - 5
    training.checkpointer.after_step()
    clock.ahead_s = 60 + checkpoints.PATIENCE_S + 5
    with pytest.raises(StorageError, match=r"A checkpoint is not written within 600 s"):
        training.checkpointer.after_step()
    gate.open()
    training.checkpointer.close()


def test_what_is_written_is_the_state_of_its_step(tmp_path: Path, clock: Clock, gate: Gate) -> None:
    training = Training(tmp_path)
    training.step()
    clock.ahead_s = 60
    training.checkpointer.after_step()
    for _ in range(5):
        training.step()
    gate.open()
    assert training.newest() == (1, 1.0)


def test_saving_waits(tmp_path: Path, clock: Clock, gate: Gate) -> None:
    training = Training(tmp_path)
    training.step()
    with ThreadPoolExecutor(1) as thread:
        saving = thread.submit(training.checkpointer.save)
        with pytest.raises(TimeoutError):
            saving.result(0.2)
        gate.open()
        saving.result()
    assert len(training.store.names()) == 1
    training.step()
    training.checkpointer.save()
    assert len(training.store.names()) == 2 and training.newest() == (2, 2.0)


def test_closing_waits_for_the_write_under_way(tmp_path: Path, clock: Clock, gate: Gate) -> None:
    training = Training(tmp_path)
    clock.ahead_s = 60
    training.checkpointer.after_step()
    with ThreadPoolExecutor(1) as thread:
        closing = thread.submit(training.checkpointer.close)
        with pytest.raises(TimeoutError):
            closing.result(0.2)
        gate.open()
        closing.result()
    assert len(training.store.names()) == 1


class Disk:
    """Fails every write while it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = True
        monkeypatch.setattr(storage, "between_steps", self._step)

    def _step(self, step: str, path: AnyPath) -> None:
        if self.is_full and step == "written":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def intervals_until_it_stops(training: Training, clock: Clock, limit: int = 30) -> int:
    """Take a step after every interval; return after how many intervals training stopped."""
    for count in range(1, limit):
        clock.ahead_s += 61
        training.step()
        try:
            training.checkpointer.after_step()
            training.wait()
        except StorageError as error:
            assert "No space left on device" in str(error)
            return count
    return limit


def test_training_goes_on_without_storage_for_ten_minutes_beyond_the_interval(
    tmp_path: Path, clock: Clock, disk: Disk, told: Callable[[], list[str]]
) -> None:
    training = Training(tmp_path)
    assert intervals_until_it_stops(training, clock) == 12  # the write begun after the last moment
    assert len(told()) == 10, "each failure is told but the last, which is raised"
    assert all(text.startswith("no checkpoint could be written, training goes on: Cannot write ") for text in told())
    training.checkpointer.close()
    assert training.store.names() == files(tmp_path) == []


def test_a_checkpoint_that_is_written_starts_the_time_anew(
    tmp_path: Path, clock: Clock, disk: Disk, told: Callable[[], list[str]]
) -> None:
    training = Training(tmp_path)
    assert intervals_until_it_stops(training, clock, limit=8) == 8
    disk.is_full = False
    assert intervals_until_it_stops(training, clock, limit=3) == 3
    disk.is_full = True
    assert intervals_until_it_stops(training, clock) == 12  # the write begun after the last moment
    assert training.newest() == (9, 9.0)


def test_saving_to_a_full_disk_is_an_error_at_once(tmp_path: Path, disk: Disk) -> None:
    training = Training(tmp_path)
    with pytest.raises(StorageError, match="No space left on device"):
        training.checkpointer.save()
    disk.is_full = False
    training.checkpointer.save()
    assert training.newest() == (0, 0.0)


def test_a_lost_folder_stops_the_training_at_the_next_checkpoint(tmp_path: Path, clock: Clock) -> None:
    training = Training(tmp_path)
    training.lost = True
    clock.ahead_s = 60
    training.checkpointer.after_step()
    training.wait()
    clock.ahead_s = 120
    with pytest.raises(HoldLost):
        training.checkpointer.after_step()
    training.checkpointer.close()
    assert training.store.names() == files(tmp_path) == []


def test_an_outage_of_the_object_store_does_not_stop_the_training(
    object_store: ObjectStore, told: Callable[[], list[str]], caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    caplog.set_level(logging.INFO, "cass_tune.object_store")
    object_store.make_bucket(bucket := f"outage-{uuid.uuid4().hex[:12]}")
    training = Training(Path())
    training.store.folder = place(f"s3://{bucket}/checkpoints")
    training.step()
    with object_store.failing("PUT"):
        clock.ahead_s = 60
        training.checkpointer.after_step()
        deadline = time.monotonic() + 30
        while not caplog.records:
            training.step()
            training.checkpointer.after_step()
            assert time.monotonic() < deadline
    assert training.states == 1
    assert training.newest() == (1, 1.0)
    messages = [record.getMessage() for record in caplog.records if record.name == "cass_tune.object_store"]
    assert "is tried again for 120 s" in messages[0] and messages[1:] == [f"s3://{bucket} can be reached again"]
    assert not told()


def test_after_a_failure_the_next_one_is_due_soon(tmp_path: Path, clock: Clock, disk: Disk) -> None:
    """Also with a long interval, storage that was away for a moment does not stop the training."""
    training = Training(tmp_path, every_s=3600)
    clock.ahead_s = 3600
    training.checkpointer.after_step()
    training.wait()
    training.checkpointer.after_step()
    assert training.states == 1
    disk.is_full = False
    clock.ahead_s = 3600 + checkpoints.RETRY_S + 1
    training.checkpointer.after_step()
    training.wait()
    training.checkpointer.after_step()
    assert training.newest() == (0, 0.0)


def test_one_that_cannot_be_read_is_neither_passed_over_nor_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Checkpoints(tmp_path)
    for step in (1, 2):
        store.write(State(values={"step": step}))
    monkeypatch.setattr(patience, "PATIENCE_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", _stale)
        with pytest.raises(StorageError, match=r"Cannot read .*Stale file handle"):
            Checkpoints(tmp_path).newest()
    found = Checkpoints(tmp_path).newest()
    assert found is not None and found.values == {"step": 2}


def _stale(path: Path) -> bytes:
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))


def test_what_a_killed_writer_left_makes_room_before_the_next_one(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.write(State(values={"step": 1}))
    left = [".000002-aaaaaa.safetensors.1b2c3d4e.tmp", "000002-aaaaaa.safetensors"]
    for name in left:
        (tmp_path / name).write_bytes(b"x" * 100)
    seen: list[set[str]] = []
    store.write(State(values={"step": 2}), check=lambda: seen.append(set(files(tmp_path))))
    assert not seen[0] & set(left)


def test_those_of_a_run_with_another_goal_are_used_and_stay(tmp_path: Path) -> None:
    shorter = Checkpoints(tmp_path)
    for step in (1, 2):
        shorter.write(State(values={"step": step, "goal": 4}))
    longer = Checkpoints(tmp_path)
    found = longer.newest(is_own=lambda values: values["goal"] == 6, progress=lambda values: values["step"])
    assert found is not None and found.values["step"] == 2
    for step in (3, 4, 5):
        longer.write(State(values={"step": step, "goal": 6}))
    longer.clear()
    again = Checkpoints(tmp_path).newest(progress=lambda values: values["step"])
    assert again is not None and again.values == {"step": 2, "goal": 4}
