"""Leases: never two holders at once, a dead one is replaced, a living one is not robbed."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cass_tune import leases
from cass_tune.errors import Held, HoldLost
from cass_tune.leases import CONFIRM_S, EXPIRY_S, HUNG_S, Lease, holder, is_held

REPOSITORY = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

WORKERS = 8
FOLDERS = 50
KILLS = 12

CONTENDER = """
import errno, fcntl, os, random, signal, sys, time
from pathlib import Path
from cass_tune import leases

root, name, dies_at, without = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
leases.ACQUIRE_RETRY_S = 0.005
leases.HEARTBEAT_S = 0.01

def refuse(*_):
    raise OSError(errno.EPERM, "no hard links")

if without == "locks":
    leases._lock = lambda path: None
if without == "links":
    os.link = refuse

numbers = list(range(int(sys.argv[5])))
if dies_at % 2:
    random.Random(name).shuffle(numbers)
for turn, number in enumerate(numbers):
    with leases.Lease.acquire(root / str(number), f"{name}-{number}", wait_s=60) as lease:
        with open(root / f"{number}.inside", "w") as inside:
            fcntl.flock(inside, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where two processes are inside
            lease.check()
            with open(root / f"{number}.journal", "a") as journal:
                journal.write(name + "\\n")
            time.sleep(random.random() * 0.01)
            if turn == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            lease.check()
"""

HOLDER = """
import sys, time
from pathlib import Path
from cass_tune import leases

leases.HEARTBEAT_S = 0.02
lost = []
lease = leases.Lease.acquire(Path(sys.argv[1]), "theirs", on_lost=lambda: lost.append(1))
print("held", flush=True)
while not lost:
    time.sleep(0.01)
try:
    lease.check()
except leases.HoldLost as error:
    print(error, flush=True)
lease.release()
"""

FORK = """
import json, os, sys, time
from pathlib import Path
from cass_tune import leases

leases.HEARTBEAT_S = 0.02
folder = Path(sys.argv[1])
said = {}

def outcome(call, *words):
    try:
        call(*words)
    except Exception as error:
        return type(error).__name__
    return "fine"

with leases.Lease.acquire(folder / "parent", "parent") as lease:
    child = os.fork()
    if child == 0:
        said["check"] = outcome(lease.check)
        lease.release()
        said["again"] = outcome(leases.Lease.acquire, folder / "parent", "child")
        with leases.Lease.acquire(folder / "child", "child") as own:
            while leases.holder(folder / "child").count < 3:
                time.sleep(0.01)
            said["own"] = outcome(own.check)
        print(json.dumps(said), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    lease.check()
    print(json.dumps({"parent": leases.holder(folder / "parent").attempt}), flush=True)
"""


class FakeClock(leases.Clock):
    """A clock that stands still until it is moved; ``ahead_s`` is what its time of day is wrong by."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        self.ahead_s = ahead_s
        self.passed_s = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.passed_s + self.ahead_s)

    def monotonic(self) -> float:
        return 5000.0 + self.passed_s

    def sleep(self, seconds: float) -> None:
        self.passed_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(leases, "clock", fake)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "trials" / "0123456789ab"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats every 20 ms."""
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.02)


@pytest.fixture(autouse=True)
def _no_lease_stays() -> Iterator[None]:
    yield
    for lease in leases._heartbeats._all():
        lease.release()


def until(condition: Callable[[], Any], limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)


def record(folder: Path, **changes: Any) -> dict[str, Any]:
    """Write a record of another machine, or with other changes; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    theirs: dict[str, Any] = {
        "attempt": "theirs",
        "host": "elsewhere",
        "machine": "elsewhere/boot/pid:[1]",
        "pid": 123,
        "process_started": 456,
        "heartbeat": leases.clock.now().isoformat(),
        "count": 7,
        **changes,
    }
    (folder / "holder.json").write_text(json.dumps(theirs))
    return theirs


def here(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a record says about a process of this machine."""
    stat = leases._process_stat(process.pid)
    assert stat is not None
    return {"machine": leases.machine(), "pid": process.pid, "process_started": stat.started}


@contextmanager
def python(script: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def other_holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with python(HOLDER, folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def beaters() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "heartbeats"]


# One process


def test_a_lease_is_written_checked_and_released(folder: Path, clock: FakeClock) -> None:
    assert holder(folder) is None and not is_held(folder)
    lease = Lease.acquire(folder, "mine")
    there = holder(folder)
    assert there is not None and (there.attempt, there.pid, there.count) == ("mine", os.getpid(), 0)
    assert there.heartbeat == clock.now() and there.describe() == f"{there.host}, process {os.getpid()}"
    assert set(json.loads((folder / "holder.json").read_text())) == {
        "attempt", "host", "machine", "pid", "process_started", "heartbeat", "count",
    }  # fmt: skip
    assert is_held(folder) and lease.attempt == "mine"
    lease.check()
    lease.release()
    lease.release()
    assert holder(folder) is None and not is_held(folder)
    assert sorted(path.name for path in folder.iterdir()) == [".holder.lock"]
    with pytest.raises(HoldLost, match="nobody"):
        lease.check()


@pytest.mark.parametrize("attempt", ["mine", "another"])
def test_one_process_holds_a_folder_once(folder: Path, attempt: str) -> None:
    with Lease.acquire(folder, "mine") as lease:
        with pytest.raises(Held, match=f"process {os.getpid()}"):
            Lease.acquire(folder, attempt)
        same = folder.parent / "." / ".." / "trials" / folder.name
        with pytest.raises(Held):
            Lease.acquire(same, attempt)
        lease.check()
    Lease.acquire(folder, attempt).release()


def test_an_error_in_the_block_releases(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), Lease.acquire(folder, "mine"):
        raise ZeroDivisionError
    assert not is_held(folder)


def test_release_leaves_the_record_of_another(folder: Path) -> None:
    lease = Lease.acquire(folder, "mine")
    theirs = record(folder)
    lease.release()
    assert json.loads((folder / "holder.json").read_text()) == theirs


def test_a_record_that_this_process_could_not_remove_does_not_lock_it_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Lease.acquire(folder.parent / "another", "mine")
    lease = Lease.acquire(folder, "mine")
    with monkeypatch.context() as broken:
        broken.setattr(leases, "remove", fail)
        lease.release()
    assert "stays" in caplog.text and (folder / "holder.json").exists()
    assert not is_held(folder)
    with Lease.acquire(folder, "mine") as again:
        again.check()


def fail(*_: object) -> None:
    raise OSError(errno.EIO, "the disk is gone")


@pytest.mark.parametrize("error", [Held("trials/0123", "host, process 7"), HoldLost("trials/0123", "host, process 7")])
def test_errors_survive_pickling(error: Held | HoldLost) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)
    assert (again.folder, again.holder) == ("trials/0123", "host, process 7")


def test_nothing_heavy_is_imported() -> None:
    script = "import sys, cass_tune.leases; print({'torch', 'ray', 'pandas', 'pyarrow'} & set(sys.modules))"
    with python(script) as process:
        assert process.communicate(timeout=60)[0] == "set()\n"


def test_a_folder_that_cannot_be_made_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        Lease.acquire(tmp_path / "file" / "trial", "mine")
    assert not beaters()


def test_a_lock_that_is_never_free_means_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LOCK_WAIT_S", 0.05)
    with leases._locked(folder) as locked, pytest.raises(Held, match="another process"):
        assert locked
        Lease.acquire(folder, "mine")
    Lease.acquire(folder, "mine").release()


def test_a_lock_counts_only_on_the_file_that_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def move_then_lock(descriptor: int, operation: int) -> None:
        if not (folder / "moved").exists():
            (folder / ".holder.lock").rename(folder / "moved")
        flock(descriptor, operation)

    flock = fcntl.flock
    monkeypatch.setattr(leases.fcntl, "flock", move_then_lock)
    with leases._locked(folder), (folder / ".holder.lock").open() as again, pytest.raises(BlockingIOError):
        flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def refuse_locks(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(leases.fcntl, "flock", refuse)


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_records_are_still_exclusive(folder: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    refuse_locks(monkeypatch, error)
    theirs = record(folder)
    with pytest.raises(Held):
        Lease.acquire(folder, "mine")
    judged_before = leases._Found(b"a stale record", None)
    assert not leases._claim(folder, leases.Holder.this_process("mine"), stale=judged_before)
    assert json.loads((folder / "holder.json").read_text()) == theirs
    record(folder, machine=leases.machine(), process_started=-1, pid=1)
    with Lease.acquire(folder, "mine") as lease:
        lease._beat()
        lease.check()
    assert sorted(path.name for path in folder.iterdir()) == [".holder.lock"]


def test_a_lock_that_fails_otherwise_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        Lease.acquire(folder, "mine")


def test_a_record_that_is_replaced_while_it_is_read_is_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> bytes:
        tries.append(path)
        if len(tries) < answers_at:
            raise OSError(errno.ESTALE, "stale file handle")
        return b""

    monkeypatch.setattr(leases.Path, "read_bytes", read)
    tries: list[Path] = []
    answers_at = 3
    assert holder(folder) is None
    tries, answers_at = [], 99
    with pytest.raises(OSError, match="stale file handle"):
        holder(folder)
    assert len(tries) == 3


# Heartbeats


@pytest.mark.usefixtures("quick")
def test_one_thread_renews_all_leases_and_ends_with_the_last(tmp_path: Path) -> None:
    held = [Lease.acquire(tmp_path / str(number), "mine") for number in range(20)]
    until(lambda: all((holder(lease.folder) or held[0]._latest).count > 2 for lease in held))
    assert len(beaters()) == 1
    for lease in held[1:]:
        lease.release()
    assert len(beaters()) == 1
    held[0].release()
    until(lambda: not beaters())
    with Lease.acquire(tmp_path / "0", "mine"):
        until(lambda: (holder(tmp_path / "0") or held[0]._latest).count > 2)
    assert list(tmp_path.glob("*/holder.json")) == []


@pytest.mark.usefixtures("quick")
def test_heartbeats_survive_a_failing_storage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Lease.acquire(folder, "mine") as lease:
        for outage in (1, 2):
            with monkeypatch.context() as broken:
                broken.setattr(leases, "write_json", fail)
                until(lambda: caplog.text.count("the disk is gone") == outage)  # noqa: B023
                time.sleep(0.1)
            count = lease._latest.count
            until(lambda: lease._latest.count > count + 2)  # noqa: B023
            assert caplog.text.count("the disk is gone") == outage
        lease.check()
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING] * 2


@pytest.mark.usefixtures("quick")
def test_heartbeats_survive_an_on_lost_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Lease.acquire(tmp_path / "lost", "mine", on_lost=fail)
    with Lease.acquire(tmp_path / "kept", "mine") as kept:
        record(tmp_path / "lost")
        until(lambda: "the disk is gone" in caplog.text)
        count = kept._latest.count
        until(lambda: kept._latest.count > count + 2)


@pytest.mark.usefixtures("quick")
def test_a_lost_lease_is_reported_once_and_the_other_record_is_left(folder: Path) -> None:
    lost: list[str] = []
    lease = Lease.acquire(folder, "mine", on_lost=lambda: lost.append(threading.current_thread().name))
    theirs = record(folder)
    until(lambda: lost)
    time.sleep(0.1)
    assert lost == ["heartbeats"]
    with pytest.raises(HoldLost, match="elsewhere, process 123"):
        lease.check()
    lease.release()
    assert json.loads((folder / "holder.json").read_text()) == theirs
    assert not beaters()


def test_check_finds_another_holder_at_once(folder: Path) -> None:
    lost: list[int] = []
    lease = Lease.acquire(folder, "mine", on_lost=lambda: lost.append(1))
    record(folder)
    for _ in range(2):
        with pytest.raises(HoldLost, match="elsewhere, process 123"):
            lease.check()
    (folder / "holder.json").unlink()
    with pytest.raises(HoldLost, match="nobody"):  # for good
        lease.check()
    theirs = record(folder)
    lease._beat()
    assert json.loads((folder / "holder.json").read_text()) == theirs and lost == []


def test_the_same_attempt_in_another_process_is_another_holder(folder: Path) -> None:
    lease = Lease.acquire(folder, "mine")
    record(folder, attempt="mine")
    with pytest.raises(HoldLost):
        lease.check()


def test_check_passes_a_storage_error_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lease.acquire(folder, "mine") as lease:
        with monkeypatch.context() as broken, pytest.raises(OSError, match="the disk is gone"):
            broken.setattr(leases, "_read", fail)
            lease.check()
        lease.check()


@pytest.mark.parametrize("notice", ["check", "_beat"])
def test_a_deleted_record_is_written_again(folder: Path, notice: str) -> None:
    with Lease.acquire(folder, "mine") as lease:
        (folder / "holder.json").unlink()
        getattr(lease, notice)()
        there = holder(folder)
        assert there is not None and there.attempt == "mine" and there.count == 1
        (folder / ".holder.lock").unlink()
        (folder / "holder.json").unlink()
        folder.rmdir()
        getattr(lease, notice)()
        assert is_held(folder)


def test_a_record_that_is_gone_after_a_long_pause_is_lost(folder: Path, clock: FakeClock) -> None:
    lost: list[int] = []
    lease = Lease.acquire(folder, "mine", on_lost=lambda: lost.append(1))
    clock.sleep(EXPIRY_S)
    (folder / "holder.json").unlink()
    lease._beat()
    assert lost == [1] and not is_held(folder)


def test_a_damaged_record_is_written_again(folder: Path) -> None:
    with Lease.acquire(folder, "mine") as lease:
        (folder / "holder.json").write_text('{"attempt": "mi')
        lease.check()
        there = holder(folder)
        assert there is not None and there.attempt == "mine"


# This machine


def test_a_dead_holder_is_replaced_at_once(folder: Path) -> None:
    with other_holder(folder) as process:
        assert is_held(folder)
        with pytest.raises(Held, match=f"process {process.pid}"):
            Lease.acquire(folder, "mine")
        process.kill()
        until(lambda: not is_held(folder))  # a zombie: nobody has waited for it
        assert process.returncode is None
        there = holder(folder)
        assert there is not None and there.attempt == "theirs"
        with Lease.acquire(folder, "mine") as lease:
            lease.check()


def test_acquire_can_wait_for_a_holder_to_end(folder: Path) -> None:
    with other_holder(folder) as process:
        threading.Timer(0.3, process.kill).start()
        Lease.acquire(folder, "mine", wait_s=30).release()


def test_acquire_waits_no_longer_than_asked(folder: Path, clock: FakeClock) -> None:
    with other_holder(folder), pytest.raises(Held):
        Lease.acquire(folder, "mine", wait_s=7.2)
    assert clock.passed_s == pytest.approx(7.2)


def test_a_stopped_process_is_not_robbed_until_it_counts_as_hung(folder: Path, clock: FakeClock) -> None:
    with other_holder(folder) as process:
        process.send_signal(signal.SIGSTOP)
        until(lambda: (leases._process_stat(process.pid) or ("",))[0] == "T")
        there = holder(folder)
        assert there is not None
        clock.ahead_s = (there.heartbeat - clock.now()).total_seconds()
        assert is_held(folder)
        clock.sleep(HUNG_S - 1)
        assert is_held(folder)
        with pytest.raises(Held):
            Lease.acquire(folder, "mine")
        clock.sleep(1)
        with Lease.acquire(folder, "mine") as lease:
            process.send_signal(signal.SIGCONT)
            assert process.stdout is not None
            assert f"process {os.getpid()}" in process.stdout.readline()
            assert process.wait() == 0
            lease.check()


def test_a_process_is_not_robbed_when_the_machine_wakes_up(folder: Path, clock: FakeClock) -> None:
    with other_holder(folder) as process:
        process.send_signal(signal.SIGSTOP)
        there = record(folder, **here(process))
        clock.ahead_s = 8 * 3600.0
        assert is_held(folder)
        clock.sleep(CONFIRM_S - 1)
        assert is_held(folder)
        record(folder, **{**there, "count": 8})
        clock.sleep(CONFIRM_S - 1)
        assert is_held(folder)
        clock.sleep(CONFIRM_S)
        assert not is_held(folder)


@pytest.mark.parametrize(("state", "threads", "dead"), [("R", 1, False), ("Z", 1, True), ("Z", 2, False)])
def test_a_killed_process_lives_until_its_last_thread_has_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch, state: str, threads: int, dead: bool
) -> None:
    with python("import time; time.sleep(60)") as process:
        there = here(process)
        record(folder, **there)
        stat = leases._ProcessStat(state, threads, there["process_started"])
        monkeypatch.setattr(leases, "_process_stat", lambda pid: stat)
        assert is_held(folder) is not dead


def test_a_process_number_that_was_used_again_is_no_holder(folder: Path) -> None:
    with python("import time; time.sleep(60)") as process:
        theirs = here(process)
        record(folder, **theirs)
        assert is_held(folder)
        record(folder, **{**theirs, "process_started": theirs["process_started"] + 1})
        assert not is_held(folder)
        record(folder, **{**theirs, "process_started": None})
        assert is_held(folder)
        record(folder, **{**theirs, "machine": "elsewhere"})
        assert is_held(folder)


def test_where_processes_cannot_be_looked_at_they_live(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    with python("import time; time.sleep(60)") as process:
        record(folder, **here(process))
        monkeypatch.setattr(os, "kill", refuse)
        monkeypatch.setattr(leases, "_process_stat", lambda pid: None)
        assert is_held(folder)
        monkeypatch.undo()


def test_without_proc_a_machine_is_its_host_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_process_stat", lambda pid: None)
    with monkeypatch.context() as broken:
        broken.setattr(os, "readlink", fail)
        name = leases.machine.__wrapped__()
    assert "/" not in name
    monkeypatch.setattr(leases, "machine", lambda: name)
    with python("import time; time.sleep(60)") as process:
        record(folder, machine=name, pid=process.pid, process_started=None)
        assert is_held(folder)
        process.kill()
        process.wait()
        assert not is_held(folder)


def test_a_forked_child_holds_nothing(folder: Path) -> None:
    with python(FORK, folder) as process:
        child, parent = (json.loads(line) for line in process.communicate(timeout=60)[0].splitlines())
    assert child == {"check": "HoldLost", "again": "Held", "own": "fine"}
    assert parent == {"parent": "parent"}
    assert list(folder.glob("*/holder.json")) == []


# Another machine


@pytest.mark.parametrize("ahead_s", [0.0, -30.0, -1e6])
def test_a_record_that_looks_fresh_expires_when_it_stays_the_same(
    folder: Path, clock: FakeClock, ahead_s: float
) -> None:
    record(folder)
    clock.ahead_s = ahead_s
    for _ in range(2):
        assert is_held(folder)
        with pytest.raises(Held, match="elsewhere, process 123"):
            Lease.acquire(folder, "mine")
        clock.sleep(EXPIRY_S / 2 - 0.1)
    assert is_held(folder)
    clock.sleep(EXPIRY_S - clock.passed_s + CONFIRM_S)
    assert not is_held(folder)
    with Lease.acquire(folder, "mine") as lease:
        lease.check()


@pytest.mark.parametrize("ahead_s", [EXPIRY_S + 1, 1e6])
def test_a_record_that_looks_old_is_watched_for_a_while(folder: Path, clock: FakeClock, ahead_s: float) -> None:
    record(folder)
    clock.ahead_s = ahead_s
    assert is_held(folder)
    clock.sleep(CONFIRM_S - 0.1)
    with pytest.raises(Held):
        Lease.acquire(folder, "mine")
    clock.sleep(0.1)
    assert not is_held(folder)
    Lease.acquire(folder, "mine").release()


@pytest.mark.parametrize("ahead_s", [-1e6, -100.0, 0.0, 100.0, 1e6])
def test_a_holder_whose_heartbeat_advances_is_never_robbed(folder: Path, clock: FakeClock, ahead_s: float) -> None:
    for count in range(200):
        clock.ahead_s = 0.0
        record(folder, count=count)
        clock.ahead_s = ahead_s
        with pytest.raises(Held):
            Lease.acquire(folder, "mine", wait_s=leases.HEARTBEAT_S)


def test_acquire_can_wait_for_expiry(folder: Path, clock: FakeClock) -> None:
    record(folder)
    Lease.acquire(folder, "mine", wait_s=2 * EXPIRY_S).release()
    assert EXPIRY_S <= clock.passed_s <= EXPIRY_S + CONFIRM_S


@pytest.mark.parametrize(("ahead_s", "watched_s"), [(1e6, CONFIRM_S), (0.0, EXPIRY_S)])
def test_a_fresh_process_takes_over_from_a_machine_that_is_gone(
    folder: Path, clock: FakeClock, ahead_s: float, watched_s: float
) -> None:
    """Every process of Ray's is fresh: nobody has watched the record for it."""
    record(folder)
    clock.ahead_s = ahead_s
    Lease.take_over(folder, "mine").release()
    assert watched_s <= clock.passed_s <= watched_s + leases.HEARTBEAT_S


def test_a_fresh_process_gives_up_when_the_other_one_shows_that_it_lives(folder: Path, clock: FakeClock) -> None:
    record(folder)

    def beat() -> None:
        if clock.passed_s >= leases.HEARTBEAT_S:
            record(folder, count=8)

    with pytest.raises(Held, match="elsewhere, process 123"):
        Lease.take_over(folder, "mine", between=beat)
    assert clock.passed_s < 2 * leases.HEARTBEAT_S


def test_a_fresh_process_does_not_wait_for_a_process_of_this_machine(folder: Path, clock: FakeClock) -> None:
    with other_holder(folder), pytest.raises(Held):
        Lease.take_over(folder, "mine")
    assert clock.passed_s == 0.0


def test_watching_ends_when_asked_to(folder: Path, clock: FakeClock) -> None:
    record(folder)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Lease.take_over(folder, "mine", between=stop)


@pytest.mark.parametrize(
    "content",
    [b"", b'{"attempt": "the', b"\xff\xfe\x00", b"null", b"[1]", b"{}"]
    + [
        json.dumps(
            {"attempt": "a", "host": "h", "machine": "m", "pid": 1, "process_started": 1, "count": 0}
            | {"heartbeat": "2026-01-01T00:00:00+00:00"}
            | wrong
        ).encode()
        for wrong in [{"pid": "1"}, {"pid": -1}, {"pid": 2**40}, {"heartbeat": "2026-01-01T00:00:00"}, {"heartbeat": 3}]
    ],
)
def test_a_damaged_record_is_nobodys(
    folder: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    folder.mkdir(parents=True)
    (folder / "holder.json").write_bytes(content)
    assert holder(folder) is None and not is_held(folder)
    Lease.acquire(folder, "mine").release()

    monkeypatch.setattr(leases, "_lock", lambda path: None)
    (folder / "holder.json").write_bytes(content)
    with pytest.raises(Held, match="another process"):
        Lease.acquire(folder, "mine")
    clock.sleep(EXPIRY_S)
    Lease.acquire(folder, "mine").release()


def test_fields_of_later_versions_do_no_harm(folder: Path) -> None:
    record(folder, colour="green")
    assert is_held(folder)


# Object stores


class Store:
    """Objects by key; ``meanwhile`` runs while a process waits for its record to settle."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> None:
        self.objects: dict[str, bytes] = {}
        self.meanwhile: Callable[[], object] = lambda: None
        monkeypatch.setattr(leases, "write_json", lambda path, record: path.write(record))
        monkeypatch.setattr(leases, "remove", lambda path: self.objects.pop(path.key))
        monkeypatch.setattr(clock, "sleep", self.sleep)
        self.clock = clock

    def sleep(self, seconds: float) -> None:
        assert seconds == leases.SETTLE_S
        self.clock.passed_s += seconds
        self.meanwhile()

    @property
    def folder(self) -> Any:
        return Key(self, "bucket/trials/0123")


class Key:
    """What a lease needs of `cass_tune.objects.ObjectPath`."""

    def __init__(self, store: Store, key: str) -> None:
        self.store = store
        self.key = key
        self.name = key.rpartition("/")[2]

    def __truediv__(self, name: str) -> Key:
        return Key(self.store, f"{self.key}/{name}")

    def __str__(self) -> str:
        return f"s3://{self.key}"

    def read_bytes(self) -> bytes:
        if self.key not in self.store.objects:
            raise FileNotFoundError(self.key)
        return self.store.objects[self.key]

    def write(self, record: Any) -> None:
        self.store.objects[self.key] = json.dumps(record).encode()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> Store:
    return Store(monkeypatch, clock)


def rival(store: Store, **changes: Any) -> dict[str, Any]:
    there: dict[str, Any] = leases.Holder.this_process("theirs").record() | {"machine": "elsewhere"} | changes
    (store.folder / "holder.json").write(there)
    return there


def test_an_object_is_claimed_renewed_and_removed(store: Store) -> None:
    with Lease.acquire(store.folder, "mine") as lease:
        assert store.clock.passed_s == leases.SETTLE_S and list(store.objects) == ["bucket/trials/0123/holder.json"]
        lease._beat()
        lease.check()
        there = holder(store.folder)
        assert there is not None and (there.attempt, there.count) == ("mine", 1)
        with pytest.raises(Held):
            Lease.acquire(store.folder, "another")
    assert store.objects == {}


def test_of_two_claims_the_last_one_written_stands(store: Store) -> None:
    store.meanwhile = lambda: rival(store)
    with pytest.raises(Held, match="s3://bucket/trials/0123 is held by"):
        Lease.acquire(store.folder, "mine")
    there = holder(store.folder)
    assert there is not None and there.attempt == "theirs"


def test_threads_of_one_process_do_not_take_a_claim_for_a_left_record(store: Store) -> None:
    def interrupt() -> None:
        assert is_held(store.folder)
        with pytest.raises(Held):
            Lease.acquire(store.folder, "another")

    store.meanwhile = interrupt
    with Lease.acquire(store.folder, "mine") as lease:
        lease.check()


def test_a_late_claim_ends_the_earlier_one(store: Store) -> None:
    lost: list[int] = []
    lease = Lease.acquire(store.folder, "mine", on_lost=lambda: lost.append(1))
    theirs = rival(store)
    lease._beat()
    assert lost == [1]
    with pytest.raises(HoldLost):
        lease.check()
    lease.release()
    assert json.loads(store.objects["bucket/trials/0123/holder.json"]) == theirs


def test_a_stale_object_is_replaced(store: Store) -> None:
    rival(store)
    with pytest.raises(Held):
        Lease.acquire(store.folder, "mine")
    store.clock.passed_s += EXPIRY_S
    with Lease.acquire(store.folder, "mine") as lease:
        lease.check()


def test_a_damaged_object_expires(store: Store) -> None:
    store.objects["bucket/trials/0123/holder.json"] = b"{"
    assert is_held(store.folder)
    store.clock.passed_s += EXPIRY_S - 1
    with pytest.raises(Held, match="another process"):
        Lease.acquire(store.folder, "mine")
    store.clock.passed_s += 1
    assert not is_held(store.folder)
    Lease.acquire(store.folder, "mine").release()


def test_a_deleted_object_is_written_again(store: Store) -> None:
    with Lease.acquire(store.folder, "mine") as lease:
        store.objects.clear()
        lease._beat()
        assert is_held(store.folder)
        store.objects.clear()
        store.meanwhile = lambda: rival(store)
        with pytest.raises(HoldLost):
            lease.check()


# Many processes


@pytest.mark.parametrize(("without", "kills"), [("nothing", KILLS), ("links", KILLS), ("locks", 0)])
def test_there_are_never_two_holders(tmp_path: Path, without: str, kills: int) -> None:
    """Each of eight workers computes each folder; some are killed while they hold one, some wherever they are."""

    def start(name: str, dies_at: int) -> subprocess.Popen[bytes]:
        words = [str(tmp_path), name, str(dies_at), without, str(FOLDERS)]
        return subprocess.Popen([sys.executable, "-c", CONTENDER, *words], env=ENVIRONMENT, stderr=subprocess.PIPE)

    workers = [start(str(number), 10 + 3 * number if kills else 1000 + number) for number in range(WORKERS)]
    finished = restarts = 0
    while workers:
        time.sleep(0.1)
        if kills and restarts < KILLS:
            random.choice(workers).kill()
        for worker in [worker for worker in workers if worker.poll() is not None]:
            workers.remove(worker)
            if worker.returncode == -signal.SIGKILL:
                restarts += 1
                workers.append(start(f"again{restarts}", 1000 + restarts))
            else:
                assert worker.stderr is not None
                assert (worker.returncode, worker.stderr.read().decode()) == (0, "")
                finished += 1
    assert finished == WORKERS and restarts >= kills
    assert list(tmp_path.glob("*/holder.json")) == []
    assert all(len((tmp_path / f"{n}.journal").read_text().split()) >= WORKERS for n in range(FOLDERS))
