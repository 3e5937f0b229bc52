"""Where records are kept, a local folder or an object store, and how they are written whole or not at all.

An object store is addressed as ``s3://bucket/prefix`` and reached through `pyarrow.fs`, which is imported when one is
used. Endpoint, region and credentials come from the environment (``AWS_ENDPOINT_URL``, ``AWS_REGION``,
``AWS_ACCESS_KEY_ID``, ...) or from where the AWS SDK finds them otherwise; they are kept nowhere.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from cass_tune.errors import UsageError

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)

PATIENCE_S = 120.0
"""How long an operation on an object store that fails for the moment is tried again."""
OBJECT_INTERVAL_S = 10.0
"""Least time between two writes of `Lines` to an object store."""

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 15.0
_Result = TypeVar("_Result")


class StorageError(OSError):
    """A place where records are kept that cannot be written or read: the place, the reason, what to do.

    Args:
        errno: the system's error number; None when an object store failed.
        strerror: the whole text.
    """

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True, order=True, repr=False)
class ObjectPath:
    """An object or a folder of objects: the part of `pathlib.Path` that records need.

    A folder is there exactly while something lies below it. Every method that asks the store raises a `StorageError`
    when it does not answer for `PATIENCE_S`, refuses, or has no such bucket.

    Args:
        parts: the bucket and the parts of the key.
    """

    parts: tuple[str, ...]

    def __str__(self) -> str:
        return f"s3://{self._key}"

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __truediv__(self, below: str) -> ObjectPath:
        return ObjectPath((*self.parts, *_split(below)))

    @property
    def _key(self) -> str:
        return "/".join(self.parts)

    @property
    def bucket(self) -> str:
        return self.parts[0]

    @property
    def name(self) -> str:
        """The last part; empty for the bucket itself, as for the root of a file system."""
        return self.parts[-1] if len(self.parts) > 1 else ""

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.parts[:-1] or self.parts) if len(self.parts) > 1 else self

    @property
    def parents(self) -> tuple[ObjectPath, ...]:
        return tuple(ObjectPath(self.parts[:end]) for end in range(len(self.parts) - 1, 0, -1))

    def with_name(self, name: str) -> ObjectPath:
        return self.parent / name

    def absolute(self) -> ObjectPath:
        return self


AnyPath: TypeAlias = Path | ObjectPath
"""A place in a file system or in an object store."""


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
    with _explained(path), _temporary(path) as temporary:
        between_steps("opened", path)
        yield temporary
        between_steps("written", path)
        _install(temporary, path)
        between_steps("renamed", path)


@contextmanager
def _temporary(path: AnyPath) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink()


def _install(temporary: Path, path: AnyPath) -> None:
    _sync(temporary)
    between_steps("synced", path)
    temporary.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _explained(path: AnyPath) -> Iterator[None]:
    yield


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
        UsageError: the file is not JSON.
        StorageError: the object store does not answer.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}. Delete it; what it recorded is then done again.") from error


@contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """Give a local path to read from: the path itself, or of an object a temporary copy.

    Raises:
        FileNotFoundError: there is no such object; of a local path, only reading says so.
        StorageError: the object store does not answer, or there is no room for the copy.
    """
    yield path


def size(path: AnyPath) -> int:
    """Return the size of a file in bytes.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return path.stat().st_size


def remove(path: AnyPath) -> None:
    """Delete a file, or a folder with all that lies below; a missing one is fine."""
    with suppress(FileNotFoundError, NotADirectoryError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def place(text: str | Path | ObjectPath) -> AnyPath:
    """Return the place that a text names: ``s3://bucket/prefix``, or a local folder, made absolute.

    Raises:
        UsageError: another scheme, or no bucket.
    """
    if isinstance(text, ObjectPath):
        return text
    scheme, separator, rest = str(text).partition("://")
    if isinstance(text, Path) or not separator:
        return Path(text).expanduser().absolute()
    return ObjectPath(tuple(_split(rest)))


class Lines:
    """A text file that only grows, with one writer.

    Args:
        path: the file.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path

    def append(self, line: str) -> None:
        """Append a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def flush(self) -> None:
        """Bring every line to the file."""

    def close(self) -> None:
        """Bring every line to the file and end it."""
