"""Which process computes a part, that is the folder of one trial or one pretraining: it holds the part's lease.

Any number of processes on any number of machines may ask; the holder is named in ``holder.json`` of the folder, and one
thread per process renews the heartbeat of all its leases every `HEARTBEAT_S`.

What is guaranteed:

- **File systems**: at most one process holds a folder. Its record is read, judged and written under an advisory lock
  (``flock`` on ``.holder.lock``), and created exclusively.
- **Object stores** cannot lock: a process writes its record, waits `SETTLE_S`, and holds the folder if the record is
  still its own. Where a write takes longer than that, two processes may compute the same part until `Lease.check` or
  the heartbeat stops one of them; this costs time, not results.
- **Same machine** (host, boot and process namespace): a holder is dead as soon as its process is; a living one, stopped
  or not, holds the folder until its heartbeat is `HUNG_S` old.
- **Another machine**: a holder is dead when its record stays the same. This process remembers since when it has seen
  which record, for the clocks of two machines may differ: comparing them only shortens the time for which a record must
  stay the same, from `EXPIRY_S` to `CONFIRM_S`. A holder that pauses for longer can lose its folder.
- **Writes**: a holder that has lost its folder writes nothing after the next `Lease.check`; a write that began before
  can still be under way when the next holder starts.

Limits: on a network file system all this holds if its locks work between machines (NFS 4, or NFS 3 without ``nolock``;
Lustre with ``flock``). Where there are no such locks, creating a record is still exclusive, but two processes that
replace the same stale record in the same moment may both hold the folder until one of them checks or beats. Where there
are no hard links either (FAT, many FUSE file systems) ``O_EXCL`` takes their place. A lease belongs to the process that
acquired it: a forked child holds nothing. Linux and macOS only.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType, TracebackType
from typing import Any, NamedTuple

from cass_tune.errors import Held, HoldLost
from cass_tune.storage import AnyPath, explained, remove, write_json

logger = logging.getLogger(__name__)

HOLDER_FILE = "holder.json"
LOCK_FILE = ".holder.lock"

HEARTBEAT_S = 10.0
EXPIRY_S = 60.0
"""A holder on another machine is dead when its record has been seen unchanged for so long."""
CONFIRM_S = 1.5 * HEARTBEAT_S
"""The same, when the heartbeat is also older than `EXPIRY_S` by this machine's clock."""
HUNG_S = 900.0
"""Takes the place of `EXPIRY_S` for a living process on this machine."""
SETTLE_S = 1.0
LOCK_WAIT_S = 5.0
LOCK_RETRY_S = 0.02
ACQUIRE_RETRY_S = 0.5
READ_TRIES = 3

NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class Clock:
    """Sources of time; a test replaces `clock`."""

    def now(self) -> datetime:
        """Return the time of day in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


clock = Clock()


@dataclass(frozen=True)
class Holder:
    """What ``holder.json`` says.

    Args:
        attempt: name of the run.
        host: name of its machine, for people.
        machine: identity of its machine, see `machine`.
        pid: its process.
        process_started: start of the process in ticks since boot, or None where that is unknown.
        heartbeat: when it last renewed the record, by its own clock, in UTC.
        count: heartbeats so far.
    """

    attempt: str
    host: str
    machine: str
    pid: int
    process_started: int | None
    heartbeat: datetime
    count: int

    @classmethod
    def this_process(cls, attempt: str) -> Holder:
        """Return this process as a holder that starts now."""
        pid = os.getpid()
        stat = _process_stat(pid)
        started = None if stat is None else stat.started
        return cls(attempt, socket.gethostname(), machine(), pid, started, clock.now(), 0)

    @classmethod
    def parse(cls, content: bytes) -> Holder | None:
        """Return the content of a ``holder.json``, or None when it is damaged."""
        try:
            record = json.loads(content)
            known = {name: record[name] for name in _RECORD_TYPES}
            known["heartbeat"] = datetime.fromisoformat(known["heartbeat"])
        except (ValueError, KeyError, TypeError):
            return None
        typed = all(isinstance(known[name], kind) for name, kind in _RECORD_TYPES.items())
        if not typed or known["heartbeat"].tzinfo is None or not 0 < known["pid"] < 2**31:
            return None
        return cls(**known)

    @property
    def owner(self) -> tuple[str, str, int, int | None]:
        """Everything that stays the same while the lease is held."""
        return self.attempt, self.machine, self.pid, self.process_started

    def record(self) -> dict[str, Any]:
        """Return what is written."""
        return {**asdict(self), "heartbeat": self.heartbeat.isoformat()}

    def describe(self) -> str:
        """Return ``<host>, process <pid>``."""
        return f"{self.host}, process {self.pid}"


_RECORD_TYPES: dict[str, type | tuple[type, ...]] = {
    "attempt": str,
    "host": str,
    "machine": str,
    "pid": int,
    "process_started": (int, NoneType),
    "heartbeat": datetime,
    "count": int,
}


class Lease:
    """The right of this process to compute one folder; get it from `acquire`, best in a ``with`` statement.

    Unless it is released, it ends with the process. A forked child has no part in it.
    """

    def __init__(self, folder: AnyPath, attempt: str, on_lost: Callable[[], None] | None) -> None:
        self.folder = folder
        self._latest = Holder.this_process(attempt)
        self._on_lost = on_lost
        self._held = False
        self._failing = False
        self._mutex = threading.RLock()  # reentrant for signal handlers

    @classmethod
    def acquire(
        cls,
        folder: AnyPath,
        attempt: str,
        *,
        wait_s: float = 0.0,
        on_lost: Callable[[], None] | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> Lease:
        """Claim a folder, which is made if it is not there.

        Args:
            folder: the part's folder.
            attempt: name of this run of the part, used once (`cass_tune.results.new_attempt`).
            wait_s: ask again for so many seconds while another process holds the folder.
            on_lost: called once, from the heartbeat's thread, when that finds another holder in the folder.
            between: called before each further try; what it raises ends the waiting.

        Raises:
            Held: another process that lives holds the folder, or another lease of this process does.
            StorageError: the folder cannot be written to; says why, and what to do.
        """
        lease = cls(folder, attempt, on_lost)
        deadline = clock.monotonic() + wait_s
        while True:
            try:
                lease._acquire()
                return lease
            except Held:
                remaining = deadline - clock.monotonic()
                if remaining <= 0:
                    raise
            between()
            clock.sleep(min(ACQUIRE_RETRY_S, remaining))

    @classmethod
    def take_over(
        cls,
        folder: AnyPath,
        attempt: str,
        *,
        on_lost: Callable[[], None] | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> Lease:
        """Claim a folder, also from a holder on another machine whom this process has not watched yet.

        Such a holder is watched until its heartbeat shows that it lives or it counts as dead: for at most a little more
        than `EXPIRY_S`. Arguments and errors as in `acquire`.
        """

        def gives_up() -> None:
            between()
            found = _read(folder)
            if found != watched and found is not None and _is_alive(folder, found, locked=False):
                raise Held(str(folder), _describe(found.holder))

        watched = _read(folder)
        is_here = watched is not None and watched.holder is not None and watched.holder.machine == machine()
        wait_s = 0.0 if is_here else EXPIRY_S + HEARTBEAT_S
        return cls.acquire(folder, attempt, wait_s=wait_s, on_lost=on_lost, between=gives_up)

    @property
    def attempt(self) -> str:
        return self._latest.attempt

    def check(self) -> None:
        """Make sure that this process still holds the folder; call it before every write that matters.

        Raises:
            HoldLost: it does not (any more).
            OSError: the record cannot be read.
        """
        if os.getpid() != self._latest.pid:
            raise HoldLost(str(self.folder), self._latest.describe())
        with self._mutex:
            if self._held and not (self._is_named(_read(self.folder)) or self._renew()):
                self._end()
            if not self._held:
                raise HoldLost(str(self.folder), _describe(holder(self.folder), "nobody"))

    def release(self) -> None:
        """Give the folder up, unless it is lost or given up already. Does not raise when storage fails."""
        if os.getpid() != self._latest.pid:
            return
        with self._mutex:
            if not self._held:
                return
            try:
                with _locked(self.folder):
                    if self._is_named(_read(self.folder)):
                        remove(self.folder / HOLDER_FILE)
            except OSError as error:
                logger.warning("%s stays in %s until it expires: %s", HOLDER_FILE, self.folder, error)
            finally:
                self._end()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _acquire(self) -> None:
        _heartbeats.add(self)  # first, or another thread takes the record for a left one of this process
        try:
            with explained(self.folder / HOLDER_FILE), _locked(self.folder) as locked:
                found = _read(self.folder)
                if found is not None and _is_alive(self.folder, found, locked=locked, asking=self):
                    raise Held(str(self.folder), _describe(found.holder))
                self._latest = replace(self._latest, heartbeat=clock.now())
                if not _claim(self.folder, self._latest, stale=found):
                    raise Held(str(self.folder), _describe(holder(self.folder)))
            self._held = True
            _heartbeats.start()
        except _Busy as error:
            raise Held(str(self.folder), _describe(holder(self.folder))) from error
        finally:
            if not self._held:
                _heartbeats.discard(self)

    def _beat(self) -> None:
        """Renew the heartbeat, or find out that the lease is lost. Never raises."""
        try:
            with self._mutex:
                lost = self._held and not self._renew()
                if lost:
                    self._end()
            self._failing = False
            if lost and self._on_lost is not None:
                self._on_lost()
        except Exception as error:
            if not self._failing:
                logger.warning("The heartbeat in %s fails and is tried again: %s", self.folder, error)
            self._failing = True

    def _renew(self) -> bool:
        """Write the next heartbeat, unless the record names another holder; return whether it did."""
        following = replace(self._latest, heartbeat=clock.now(), count=self._latest.count + 1)
        with _locked(self.folder):
            found = _read(self.folder)
            if found is None:  # deleted by hand; or by a holder in between, if there was time for one
                paused_s = (following.heartbeat - self._latest.heartbeat).total_seconds()
                renewed = paused_s < EXPIRY_S and _claim(self.folder, following)
            else:
                renewed = found.holder is None or self._is_named(found)
                if renewed:
                    write_json(self.folder / HOLDER_FILE, following.record())
        if renewed:
            self._latest = following
        return renewed

    def _is_named(self, found: _Found | None) -> bool:
        return found is not None and found.holder is not None and found.holder.owner == self._latest.owner

    def _end(self) -> None:
        self._held = False
        _heartbeats.discard(self)


def holder(folder: AnyPath) -> Holder | None:
    """Return what ``holder.json`` says, whether that process lives or not; None when there is none or it is damaged."""
    found = _read(folder)
    return None if found is None else found.holder


def is_held(folder: AnyPath) -> bool:
    """Return whether a process that lives holds the folder, as far as is known now; never waits.

    A holder on another machine that has died is taken to live until it has been asked about for long enough.
    """
    found = _read(folder)
    return found is not None and _is_alive(folder, found, locked=isinstance(folder, Path))


class _Heartbeats:
    """The leases of this process and the thread that renews them, which runs while there are any."""

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._mutex = threading.RLock()
        self._stop: threading.Event | None = None

    def add(self, lease: Lease) -> None:
        """Register a lease, acquired or being acquired."""
        with self._mutex:
            self._leases.add(lease)

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._mutex:
            if self._stop is None:
                self._stop = threading.Event()
                threading.Thread(target=self._run, args=(self._stop,), name="heartbeats", daemon=True).start()

    def discard(self, lease: Lease) -> None:
        """Forget a lease; after the last one the thread ends."""
        with self._mutex:
            self._leases.discard(lease)
            if not self._leases and self._stop is not None:
                self._stop.set()
                self._stop = None

    def has(self, folder: AnyPath, there: Holder, *, besides: Lease | None) -> bool:
        """Return whether a record that names this process belongs to one of its leases."""
        others = [lease for lease in self._all() if lease is not besides]
        return any((lease.folder.name, lease._latest.owner) == (folder.name, there.owner) for lease in others)

    def _all(self) -> list[Lease]:
        with self._mutex:
            return list(self._leases)

    def _run(self, stop: threading.Event) -> None:
        pause = HEARTBEAT_S
        while not stop.wait(pause):
            began = time.monotonic()
            for lease in self._all():
                lease._beat()
            pause = max(0.0, HEARTBEAT_S - (time.monotonic() - began))


_heartbeats = _Heartbeats()


def _forget_leases() -> None:
    global _heartbeats
    _heartbeats = _Heartbeats()


os.register_at_fork(after_in_child=_forget_leases)


class _Found(NamedTuple):
    """Content of a ``holder.json``; ``holder`` is None when it is damaged."""

    content: bytes
    holder: Holder | None


def _read(folder: AnyPath) -> _Found | None:
    path = folder / HOLDER_FILE
    for tries_left in reversed(range(READ_TRIES)):
        try:
            content = path.read_bytes()
            return _Found(content, Holder.parse(content))
        except (FileNotFoundError, NotADirectoryError):
            break
        except OSError as error:  # NFS: replaced by another machine while it was read
            if error.errno != errno.ESTALE or not tries_left:
                raise
    return None


def _describe(there: Holder | None, nobody: str = "another process") -> str:
    return nobody if there is None else there.describe()


_sightings: dict[str, tuple[bytes, float]] = {}
"""Per folder the record that was seen last, and since when (monotonic seconds)."""


def _unchanged_s(folder: AnyPath, content: bytes) -> float:
    """Return for how many seconds this process has seen exactly this record in the folder."""
    now = clock.monotonic()
    seen = _sightings.get(str(folder))
    if seen is None or seen[0] != content:
        seen = _sightings[str(folder)] = (content, now)
    return now - seen[1]


def _is_alive(folder: AnyPath, found: _Found, *, locked: bool, asking: Lease | None = None) -> bool:
    """Judge a record.

    Args:
        folder: where it lies.
        found: the record.
        locked: nobody can be writing it, so that a damaged one is nobody's.
        asking: the lease to be acquired, if any.
    """
    unchanged_s = _unchanged_s(folder, found.content)
    there = found.holder
    if there is None:
        return not locked and unchanged_s < EXPIRY_S
    here = there.machine == machine()
    if here and there.pid == os.getpid():
        return _heartbeats.has(folder, there, besides=asking)
    if here and _is_dead(there):
        return False
    expiry_s = HUNG_S if here else EXPIRY_S
    looks_old = (clock.now() - there.heartbeat).total_seconds() > expiry_s
    return unchanged_s < (CONFIRM_S if looks_old else expiry_s)


def _claim(folder: AnyPath, mine: Holder, stale: _Found | None = None) -> bool:
    """Write a new record, where there is none but the stale one; return whether it stands."""
    path = folder / HOLDER_FILE
    if isinstance(path, Path):
        if stale is not None:
            _displace(path, stale)
        _create(path, json.dumps(mine.record(), indent=1, sort_keys=True) + "\n")
    else:
        write_json(path, mine.record())
        clock.sleep(SETTLE_S)
    there = holder(folder)
    return there is not None and there.owner == mine.owner


def _displace(path: Path, stale: _Found) -> None:
    """Remove a stale record and no other; where there are no locks, as nearly as that can be done."""
    aside = _temporary(path)
    with suppress(FileNotFoundError):
        if path.read_bytes() != stale.content:  # replaced while it was judged
            return
        path.rename(aside)
        try:
            if aside.read_bytes() != stale.content:
                with suppress(OSError):  # otherwise its holder's next heartbeat writes it again
                    os.link(aside, path)
        finally:
            aside.unlink(missing_ok=True)


def _create(path: Path, text: str) -> None:
    """Write a file whole if there is none of this name."""
    temporary = _temporary(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # no hard links here
        with suppress(FileExistsError), path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


class _Busy(OSError):
    """A folder's lock is not to be had."""


@contextmanager
def _locked(folder: AnyPath) -> Iterator[bool]:
    """Make a folder and hold its lock, or give False where there are no locks.

    Raises:
        _Busy: another process has held the lock for `LOCK_WAIT_S`.
    """
    descriptor = None
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(folder / LOCK_FILE)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child forked meanwhile has the descriptor open, too
            os.close(descriptor)


def _lock(path: Path) -> int | None:
    deadline = time.monotonic() + LOCK_WAIT_S
    while time.monotonic() < deadline:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):  # not moved or deleted meanwhile
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError as error:
            os.close(descriptor)
            if error.errno in NO_LOCKS:
                return None
            raise
        os.close(descriptor)
        time.sleep(LOCK_RETRY_S)
    raise _Busy(errno.EAGAIN, "another process keeps the lock", str(path))


@functools.cache
def machine() -> str:
    """Return what processes share that can see each other: host name, boot and process namespace.

    Where there is no ``/proc`` it is the host name alone.
    """
    host = socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{host}/{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return host


class _ProcessStat(NamedTuple):
    """What proc(5) says about a process; ``started`` is in ticks since boot."""

    state: str
    threads: int
    started: int

    @property
    def has_ended(self) -> bool:
        """Whether it is a zombie none of whose threads can still be in the middle of a write."""
        return self.state in "ZX" and self.threads <= 1


def _process_stat(pid: int) -> _ProcessStat | None:
    """Return a process's state, or None where that cannot be known."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # /proc of another process namespace
            return None
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return _ProcessStat(fields[0], int(fields[17]), int(fields[19]))
    except (OSError, ValueError, IndexError):
        return None


def _is_dead(there: Holder) -> bool:
    """Return whether a process of this machine has ended, or its number is another process's by now."""
    try:
        os.kill(there.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's
    stat = _process_stat(there.pid)
    if stat is None:
        return False
    return stat.has_ended or there.process_started not in (None, stat.started)
