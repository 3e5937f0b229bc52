"""Where records are kept, a local folder or an object store, and how they are written whole or not at all.

An object store is addressed as ``s3://bucket/prefix`` and reached through `pyarrow.fs`, which is imported when one is
used. Endpoint, region and credentials come from the environment (``AWS_ENDPOINT_URL``, ``AWS_REGION``,
``AWS_ACCESS_KEY_ID``, ...) or from where else the AWS SDK finds credentials; they are kept nowhere.
"""

from __future__ import annotations

import _thread
import atexit
import errno
import json
import logging
import os
import re
import shutil
import stat
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from io import FileIO
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from cass_tune.errors import Damaged, UsageError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, S3FileSystem

logger = logging.getLogger(__name__)

PATIENCE_S = 120.0
"""How long an operation on an object store that is away is tried again."""
OBJECT_INTERVAL_S = 10.0
"""Time between two writes of `Lines` to an object store."""

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 15.0
_CONNECT_S, _ANSWER_S, _REQUESTS = 5.0, 30.0, 2
"""Limits of one request, and how often pyarrow sends it before an operation has failed."""
_CHUNK_BYTES = 16 * 2**20
_ONE_PUT_BYTES = 5 * 2**20
"""Larger files may be uploaded in several parts (pyarrow does from 10 MiB on)."""
_TRANSIENT = re.compile(
    r"AWS Error (NETWORK_CONNECTION|REQUEST_TIMEOUT|SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE"
    r"|NO_SUCH_UPLOAD)|HTTP status (5\d\d|408|429)"
)
_HOPELESS = re.compile(r"curlCode: (1|3|51|58|60|77),")
"""Of the connection's errors those that waiting does not mend: malformed addresses, certificates."""
_REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_SIGNATURE|UNRECOGNIZED_CLIENT|ExpiredToken"
    r"|InvalidToken|INVALID_CLIENT_TOKEN_ID|REQUEST_EXPIRED|MISSING_AUTHENTICATION_TOKEN|HTTP status 40[013]"
)
_MAY_PASS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
_own = threading.local()
_outages: set[str] = set()
"""The buckets that are away."""
_outages_lock = threading.Lock()

_Result = TypeVar("_Result")


class StorageError(OSError):
    """Records that cannot be written or read: the place, the reason, what to do.

    Args:
        errno: the system's error number; None when an object store failed.
        strerror: the whole text.
    """

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True, order=True, repr=False)
class ObjectPath:
    """An object or a folder of objects: the part of `pathlib.Path` that records need.

    A folder is there when something lies below it, or lay there until it was deleted; there is no need to make it.
    Everything that asks the store raises a `StorageError` when it is away for `PATIENCE_S` or refuses.

    Args:
        parts: the bucket and the parts of the key.
    """

    parts: tuple[str, ...]

    def __str__(self) -> str:
        return f"s3://{self.key}"

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __truediv__(self, below: str) -> ObjectPath:
        return ObjectPath((*self.parts, *_split(below)))

    @property
    def key(self) -> str:
        """The path as pyarrow wants it: ``bucket/prefix``."""
        return "/".join(self.parts)

    @property
    def bucket(self) -> str:
        return self.parts[0]

    @property
    def name(self) -> str:
        """The last part; empty for a bucket, as for the root of a file system."""
        return self.parts[-1] if len(self.parts) > 1 else ""

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.parts[:-1] or self.parts)

    @property
    def parents(self) -> tuple[ObjectPath, ...]:
        return tuple(ObjectPath(self.parts[:end]) for end in range(len(self.parts) - 1, 0, -1))

    def with_name(self, name: str) -> ObjectPath:
        return self.parent / name

    def absolute(self) -> ObjectPath:
        return self

    def exists(self) -> bool:
        return self._info().type.name != "NotFound"

    def is_file(self) -> bool:
        return self._info().type.name == "File"

    def is_dir(self) -> bool:
        return self._info().type.name == "Directory"

    def iterdir(self) -> Iterator[ObjectPath]:
        """Yield what lies directly in the folder.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        return iter([_of(info) for info in self._listed()])

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Yield what lies below and matches: parts as `fnmatch` knows them, such as ``*/plans``; no ``**``."""
        first, _, rest = pattern.partition("/")
        if re.search(r"[*?[]", first):
            listed = self._listed(missing_ok=True)
            found = [_of(info) for info in listed if info.type.name == "Directory" or not rest]
            below = [path for path in found if fnmatchcase(path.name, first)]
        else:
            below = [self / first] if rest or (self / first).exists() else []
        for path in below:
            yield from path.glob(rest) if rest else (path,)

    def read_bytes(self) -> bytes:
        """Return the content.

        Raises:
            FileNotFoundError: there is no such object.
        """
        return _ask(self, lambda store: _read(store, self.key))

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the content as text, line ends as they are; errors as in `read_bytes`."""
        return self.read_bytes().decode(encoding, errors)

    def write_bytes(self, data: bytes) -> None:
        """Write the object whole or not at all."""
        _write(self, data)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Write the object whole or not at all."""
        _write(self, text.encode(encoding))

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object.

        Raises:
            FileNotFoundError: there is none, and ``missing_ok`` is false.
        """
        if not missing_ok and not self.is_file():
            raise _missing(self)
        with suppress(FileNotFoundError):
            _ask(self, lambda store: store.delete_file(self.key))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a folder is there when something lies in it."""

    def rename(self, target: ObjectPath) -> ObjectPath:
        """Copy an object, or one by one all that lie in a folder, and delete them; return the target.

        Raises:
            FileNotFoundError: there is nothing to rename.
        """
        files = [self] if self.is_file() else [_of(i) for i in self._listed(recursive=True) if i.type.name == "File"]
        for path in files:
            key = f"{target.key}{path.key.removeprefix(self.key)}"
            _ask(path, lambda store, source=path.key, key=key: store.copy_file(source, key))
        remove(self)
        return target

    def _info(self) -> FileInfo:
        return _ask(self, lambda store: store.get_file_info(self.key))

    def _listed(self, *, recursive: bool = False, missing_ok: bool = False) -> list[FileInfo]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(self.key, allow_not_found=missing_ok, recursive=recursive)
        return _ask(self, lambda store: store.get_file_info(selector))


AnyPath: TypeAlias = Path | ObjectPath
"""A place in a file system or in an object store."""


def place(text: str | Path | ObjectPath) -> AnyPath:
    """Return the place that a text names: ``s3://bucket/prefix``, or a local folder, made absolute.

    Raises:
        UsageError: another scheme, or no valid bucket.
    """
    if isinstance(text, ObjectPath):
        return text
    address = re.fullmatch(r"(\w[\w+.-]+):/+(.*)", str(text))  # a Path makes one slash of two
    if address is None:
        return Path(text).expanduser().absolute()
    scheme, rest = address.groups()
    if scheme != "s3":
        raise UsageError(
            "Results are kept in a local folder or in an object store, but got an address that begins with "
            f"{scheme}://. Give a folder or s3://bucket/prefix; AWS_ENDPOINT_URL names a store other than Amazon's."
        )
    parts = tuple(_split(rest))
    if not parts or not re.fullmatch(r"[\w.-]{3,63}", parts[0], re.ASCII) or ".." in parts or "?" in rest:
        shown = re.sub(r".*@", "...@", rest.partition("?")[0])  # a secret may contain slashes
        raise UsageError(
            f"An object store is given as s3://bucket/prefix, but got s3://{shown}. The bucket has 3 to 63 letters, "
            "digits, '.', '-' or '_'; endpoint and credentials are given by the environment alone (AWS_ENDPOINT_URL, "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)."
        )
    return ObjectPath(parts)


def _split(text: str) -> list[str]:
    return [part for part in text.split("/") if part not in ("", ".")]


def between_steps(step: str, path: AnyPath) -> None:
    """Do nothing; `whole_file` calls it after each of its steps, and tests of killed writers replace it.

    Args:
        step: ``opened`` (the caller writes next), ``written``, ``synced`` (the old content is still in place) or
            ``renamed`` (the new content is).
        path: what is being written.
    """


@contextmanager
def whole_file(path: AnyPath) -> Iterator[Path]:
    """Give a local temporary path to write to; on success its content appears at ``path``, whole.

    Local files are synced and renamed, and their folder is synced; objects appear when their upload is complete.

    Raises:
        StorageError: it cannot be written; says why, and what to do.
        FileNotFoundError: nothing was written to the temporary path.
    """
    with explained(path), _temporary(path) as temporary:
        between_steps("opened", path)
        yield temporary
        between_steps("written", path)
        if isinstance(path, Path):
            _sync(temporary)
        between_steps("synced", path)
        if isinstance(path, Path):
            temporary.replace(path)
            _sync(path.parent)
        else:
            _upload(temporary, path)
        between_steps("renamed", path)


def _temporary_name(name: str) -> str:
    return f".{name}.{uuid.uuid4().hex[:8]}.tmp"


@contextmanager
def _temporary(path: AnyPath) -> Iterator[Path]:
    """Give a path that does not exist: in the same folder, for objects in the system's temporary folder."""
    folder = _local_folder(path)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / _temporary_name(path.name)
    try:
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "Make it writable"),
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT),
        "Check that the disk works and is mounted",
    ),
    errno.EFBIG: "Allow larger files (ulimit -f)",
}


@contextmanager
def explained(path: AnyPath, what: str = "write") -> Iterator[None]:
    """Turn an error of the local file system into a StorageError that says what to do.

    Args:
        path: what the block writes, or reads.
        what: ``write`` or ``read``.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        folder = _local_folder(path)
        code = _system_error(error, folder)
        if code not in _ADVICE:
            raise
        text = f"Cannot {what} {path}" if isinstance(path, Path) else f"Cannot keep {path} in {folder} for the transfer"
        raise _failed(text, code, path) from error


def _local_folder(path: AnyPath) -> Path:
    return path.parent if isinstance(path, Path) else Path(tempfile.gettempdir())


def _failed(what: str, code: int, path: AnyPath) -> StorageError:
    option = "--results DIR" if isinstance(path, Path) else "the environment variable TMPDIR"
    advice = f"{_ADVICE[code]}, or name another folder with {option}."
    return StorageError(code, f"{what}: {os.strerror(code)}{_free_bytes(_local_folder(path))}. {advice}")


def _system_error(error: Exception, folder: Path) -> int | None:
    """Return the number of a system error that concerns a folder; safetensors, written in Rust, has it in its text."""
    if not isinstance(error, OSError):
        found = re.search(r"\(os error (\d+)\)", str(error))
        return int(found[1]) if found else None
    if error.filename is None:
        return error.errno
    where = Path(os.fsdecode(error.filename))
    return error.errno if where in folder.parents or folder in (where, *where.parents) else None


def _free_bytes(folder: Path) -> str:
    """Return how much room there is, or nothing where that cannot be asked: the disk is away, or the folder secret."""
    for there in (folder, *folder.parents):
        with suppress(OSError):
            return f" ({shutil.disk_usage(there).free:,} bytes free there)"
    return ""


def write_text(path: AnyPath, text: str) -> None:
    """Write a text file whole or not at all; errors as in `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: AnyPath, record: Any) -> None:
    """Write strict JSON (NaN becomes a ValueError) whole or not at all; errors as in `whole_file`."""
    write_text(path, json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: AnyPath) -> Any | None:
    """Return a JSON file's content, or None when there is no such file.

    Raises:
        Damaged: the file is not JSON.
        StorageError: the object store is away or refuses.
    """
    content = before = None
    while True:
        try:
            content = path.read_bytes()
            return json.loads(content.decode())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            if content == before:
                problem = f"{path} is damaged: {error}. Delete it; what it recorded is then done again."
                raise Damaged(problem) from error
            before = content  # cut short, if the object was replaced after pyarrow had asked for its length


@contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """Give a local path to read from: the path itself, or a temporary copy of an object under the same name.

    Raises:
        FileNotFoundError: there is no such object; of a local path, only reading says so.
        StorageError: the object store is away or refuses, or there is no room for the copy.
    """
    if isinstance(path, Path):
        yield path
        return
    with ExitStack() as until_read:
        with explained(path):
            temporary = tempfile.TemporaryDirectory(prefix="cass_tune-", ignore_cleanup_errors=True)
            copy = Path(until_read.enter_context(temporary)) / path.name
            _download(path, copy)
        yield copy


def size(path: AnyPath) -> int:
    """Return the size of a file in bytes.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if isinstance(path, Path):
        return path.stat().st_size
    found = path._info().size
    if found is None:
        raise _missing(path)
    return found


def move(source: AnyPath, target: AnyPath) -> None:
    """Rename a file or a folder; source and target are both local, or both in one bucket.

    Raises:
        FileNotFoundError: there is nothing to rename.
    """
    if isinstance(source, Path):
        assert isinstance(target, Path)
        source.rename(target)
    else:
        assert isinstance(target, ObjectPath)
        source.rename(target)


def remove(path: AnyPath) -> None:
    """Delete a file, or a folder with all that lies below; a missing one is fine.

    Raises:
        StorageError: it cannot be deleted; says why, and what to do.
    """
    try:
        _remove_object(path) if isinstance(path, ObjectPath) else _remove_file(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except StorageError:
        raise
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        raise _failed(f"Cannot delete {path}", error.errno, path) from error


def _remove_object(path: ObjectPath) -> None:
    is_folder = path.is_dir()
    _ask(path, lambda store: store.delete_dir(path.key) if is_folder else store.delete_file(path.key))


def _remove_file(path: Path) -> None:
    if not stat.S_ISDIR(path.lstat().st_mode):
        path.unlink()  # once: what another process puts in its place stays
        return
    while path.exists():
        with suppress(FileNotFoundError):  # of a file below, which another process has deleted meanwhile
            shutil.rmtree(path)


def patiently(
    write: Callable[[], _Result], between: Callable[[], None] = lambda: None, seconds: float | None = None
) -> _Result:
    """Return what a write returns; while a disk is full or away, try again for a while, as for an object store.

    Args:
        write: can be repeated.
        between: called before each further try; what it raises ends the waiting.
        seconds: how long it is tried; `PATIENCE_S` by default.

    Raises:
        StorageError: it could not be written.
    """
    longest_s = PATIENCE_S if seconds is None else seconds
    deadline, is_said = time.monotonic() + longest_s, False
    while True:
        try:
            return write()
        except StorageError as error:
            if error.errno not in _MAY_PASS or time.monotonic() > deadline:
                raise
            if not is_said:
                logger.warning("tried again for %g s: %s", longest_s, error)
            is_said = True
        between()
        time.sleep(_FIRST_DELAY_S)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Let this thread try an object store that is away again for so long, in place of `PATIENCE_S`, in the block."""
    before = getattr(_own, "patience_s", None)
    _own.patience_s = seconds
    try:
        yield
    finally:
        _own.patience_s = before


def sweep(folder: AnyPath) -> None:
    """Delete what writers that were killed have left in a folder; only its holder may do so. Does not raise."""
    with suppress(OSError):
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name.startswith(".") and path.name.endswith(".tmp"):
                remove(path)


class Lines:
    """A text file that only grows, with one writer; it is made by the first line.

    Local lines are in the file at once. Those of an object are kept in memory and written by a thread, the whole object
    every `OBJECT_INTERVAL_S`, so that ``append`` never waits. What cannot be written is kept and written with the next.
    Characters that UTF-8 cannot hold, such as those of a file name in another encoding, are escaped.

    Args:
        path: the file; what is in it already stays.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        self._file = _LocalLines(path) if isinstance(path, Path) else _ObjectLines(path)
        self._is_closed = False

    def append(self, line: str) -> None:
        """Append a line; one that cannot be written for the moment is warned about.

        Raises:
            ValueError: it is closed.
        """
        if self._is_closed:
            raise ValueError(f"{self.path} is closed")
        self._file.append(f"{line}\n")

    def flush(self) -> None:
        """Return when every line is in the file.

        Raises:
            StorageError: it cannot be written.
        """
        self._file.flush()

    def close(self) -> None:
        """Flush and end it; errors as in `flush`."""
        self._is_closed = True
        self._file.close()

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StorageError as failure:
            if error is None:
                raise
            logger.warning("%s is not complete: %s", self.path, failure)


class _LocalLines:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: FileIO | None = None
        self._pending = b""
        self._is_failing = False

    def append(self, text: str) -> None:
        self._pending += text.encode(errors="backslashreplace")
        try:
            self.flush()
            self._is_failing = False
        except StorageError as error:
            was_failing, self._is_failing = self._is_failing, True  # first: the warning may come back here as a line
            if not was_failing:
                logger.warning("%s is not up to date, which is tried again: %s", self._path, error)

    def flush(self) -> None:
        with explained(self._path):
            while self._pending:
                if self._stream is None:
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    self._stream = self._path.open("ab", buffering=0)
                self._pending = self._pending[self._stream.write(self._pending) :]

    def close(self) -> None:
        try:
            self.flush()
            if self._stream is not None:
                _sync(self._path)
        finally:
            if self._stream is not None:
                self._stream.close()


class _ObjectLines:
    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self._earlier: bytes | None = None
        self._lines: list[bytes] = []
        self._written = 0
        self._is_failing = False
        self._one_at_a_time = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def append(self, text: str) -> None:
        self._lines.append(text.encode(errors="backslashreplace"))
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_now_and_then, name=f"lines of {self._path}", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        self._write(PATIENCE_S)

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def _write_now_and_then(self) -> None:
        while not self._closing.wait(OBJECT_INTERVAL_S):
            try:
                self._write(patience_s=0)
                self._is_failing = False
            except OSError as error:
                if not self._is_failing and self._path.bucket not in _outages:  # an outage has been logged already
                    logger.warning("%s is not up to date, which is tried again: %s", self._path, error)
                self._is_failing = True

    def _write(self, patience_s: float) -> None:
        with self._one_at_a_time:
            count = len(self._lines)
            if count == self._written:
                return
            if self._earlier is None:
                self._earlier = self._read(patience_s)
            _write(self._path, b"".join([self._earlier, *self._lines[:count]]), patience_s)
            self._written = count

    def _read(self, patience_s: float) -> bytes:
        try:
            return _ask(self._path, lambda store: _read(store, self._path.key), patience_s)
        except FileNotFoundError:
            return b""


def _write(path: ObjectPath, data: bytes, patience_s: float | None = None) -> None:
    with explained(path), _temporary(path) as temporary:
        temporary.write_bytes(data)
        _upload(temporary, path, patience_s)


def _upload(source: Path, path: ObjectPath, patience_s: float | None = None) -> None:
    """Make an object of a local file; it appears when it is complete.

    pyarrow completes an upload in parts even when a part has failed, and a truncated object appears. Files that may be
    uploaded in parts therefore get a temporary name, and the store copies the complete ones to their own.
    """
    if source.stat().st_size <= _ONE_PUT_BYTES:
        _ask(path, lambda store: _put(source, path.key, to=store), patience_s)
        return
    temporary = path.with_name(_temporary_name(path.name))
    try:
        _ask(path, lambda store: _put(source, temporary.key, to=store), patience_s)
        _ask(path, lambda store: store.copy_file(temporary.key, path.key), patience_s)
    finally:
        with suppress(OSError):
            _ask(temporary, lambda store: store.delete_file(temporary.key), patience_s=0)


def _put(source: Path, key: str, *, to: S3FileSystem) -> None:
    """Upload a file; `pyarrow.fs.copy_files` would not say when the last request, often the only one, has failed."""

    def put() -> None:
        with source.open("rb") as content:
            chunk = content.read(_CHUNK_BYTES)  # before the stream is open: whatever fails then, it completes
            stream = to.open_output_stream(key, compression=None)
            try:
                while chunk:
                    stream.write(chunk)
                    chunk = content.read(_CHUNK_BYTES)
            except BaseException:
                with suppress(OSError):  # would take the place of the reason
                    stream.close()
                raise
            stream.close()

    _uninterrupted(put)


def _uninterrupted(call: Callable[[], None]) -> None:
    """Make a call that no exception of a signal's handler interrupts: those are raised in the main thread.

    The main thread waits for a bare lock, because such an exception breaks the locks of `threading` and
    `concurrent.futures` while they are waited for.
    """
    if threading.current_thread() is not threading.main_thread():
        call()
        return
    outcome: list[BaseException | None] = []
    running = threading.Lock()
    running.acquire()

    def run() -> None:
        try:
            call()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)
        finally:
            running.release()

    _thread.start_new_thread(run, ())
    try:
        running.acquire()
    except BaseException:
        if not outcome:
            running.acquire()
        raise
    if outcome[0] is not None:
        raise outcome[0]


def _download(path: ObjectPath, target: Path) -> None:
    from pyarrow.fs import LocalFileSystem, copy_files

    local = LocalFileSystem()
    options = {"destination_filesystem": local, "chunk_size": _CHUNK_BYTES}
    _ask(path, lambda store: copy_files(path.key, str(target), source_filesystem=store, **options))


def _read(store: S3FileSystem, key: str) -> bytes:
    with store.open_input_stream(key, compression=None) as stream:
        return stream.read()


def _of(info: FileInfo) -> ObjectPath:
    return ObjectPath(tuple(info.path.split("/")))


def _missing(path: ObjectPath) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _ask(path: ObjectPath, operation: Callable[[S3FileSystem], _Result], patience_s: float | None = None) -> _Result:
    """Return what an operation on an object store returns; while the store is away, try again.

    Args:
        path: what the operation is about.
        operation: can be repeated.
        patience_s: how long to try again; `PATIENCE_S` by default.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: the store is away for too long, or refuses.
    """
    started, delay_s = time.monotonic(), _FIRST_DELAY_S
    if patience_s is None:
        patience_s = getattr(_own, "patience_s", None)
    patience_s = PATIENCE_S if patience_s is None else patience_s
    while True:
        try:
            result = operation(_connection(os.getpid(), path.bucket))
        except FileNotFoundError:
            _end_outage(path)
            raise _missing(path) from None
        except ValueError as error:  # an address that pyarrow does not take
            raise StorageError(None, _refusal(path, error)) from error
        except OSError as error:
            if error.errno is not None:  # of the local file system
                raise
            if not _is_transient(error):
                raise StorageError(None, _refusal(path, error)) from error
            _begin_outage(path, error, patience_s)
            tried_s = time.monotonic() - started
            if tried_s + delay_s > patience_s:
                raise StorageError(None, _given_up(path, error, tried_s)) from error
            time.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
        else:
            _end_outage(path)
            return result


def _is_transient(error: OSError) -> bool:
    return bool(_TRANSIENT.search(str(error))) and not _HOPELESS.search(str(error))


def _begin_outage(path: ObjectPath, error: OSError, patience_s: float) -> None:
    with _outages_lock:
        is_new = path.bucket not in _outages
        _outages.add(path.bucket)
    if is_new:
        period = f" for {patience_s:g} s" if patience_s else ""
        logger.warning("%s cannot be reached, which is tried again%s: %s", path, period, _reason(error))


def _end_outage(path: ObjectPath) -> None:
    with _outages_lock:
        is_over = path.bucket in _outages
        _outages.discard(path.bucket)
    if is_over:
        logger.info("s3://%s can be reached again", path.bucket)


def _reason(error: Exception) -> str:
    """Return what pyarrow says, without what it was doing and the number of the request."""
    return re.sub(r"^.*?(?=AWS Error)| \(Request ID: .*?\)", "", str(error), flags=re.DOTALL).rstrip(". ")


def _given_up(path: ObjectPath, error: OSError, tried_s: float) -> str:
    return (
        f"{path} cannot be reached, tried for {tried_s:.0f} s: {_reason(error)}. Check the network, and the endpoint "
        "in AWS_ENDPOINT_URL if one is set; what is finished is kept, and the same command runs the rest."
    )


def _refusal(path: ObjectPath, error: Exception) -> str:
    reason = _reason(error)
    if "NO_SUCH_BUCKET" in reason or "RESOURCE_NOT_FOUND" in reason:
        advice = f"There is no bucket {path.bucket!r}: make it, or name another one."
    elif "HTTP status 301" in reason or "AuthorizationHeaderMalformed" in reason:
        advice = "The bucket is in another region: name it in AWS_REGION."
    elif _REFUSED.search(reason):
        advice = (
            "Check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, or a profile), and "
            "that they allow to list the bucket and to read, write and delete its objects."
        )
    else:
        advice = "Check the address, and the endpoint in AWS_ENDPOINT_URL if one is set."
    return f"{path} cannot be used: {reason}. {advice}"


@cache
def _connection(process: int, bucket: str) -> S3FileSystem:
    """Return the file system of a bucket; every process has its own, because connections do not survive a fork."""
    from pyarrow import fs

    atexit.register(_connection.cache_clear)  # before pyarrow's own end, which waits for file systems in use
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    address = urlsplit(url if "//" in url or not url else f"https://{url}")
    if url and not address.hostname:
        raise ValueError("AWS_ENDPOINT_URL has no host name")
    return fs.S3FileSystem(
        endpoint_override=f"{address.netloc.rpartition('@')[2]}{address.path.rstrip('/')}" or None,
        scheme=address.scheme or "https",
        region=region or ("us-east-1" if url else fs.resolve_s3_region(bucket)),
        connect_timeout=_CONNECT_S,
        request_timeout=_ANSWER_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_REQUESTS),
        allow_delayed_open=True,  # small objects are one request
        background_writes=False,  # otherwise a large file is read faster than it is sent, into memory
    )
