"""Where records are kept, a local folder or an object store, and how they are written whole or not at all.

An object store is addressed as ``s3://bucket/prefix`` (`cass_tune.object_store`).
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from cass_tune import disk
from cass_tune.disk import delete, is_temporary, sync, temporary_file, transfer_folder
from cass_tune.errors import Damaged, UsageError
from cass_tune.object_store import download, explained_transfer, upload
from cass_tune.objects import ObjectPath, parts_of

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
    parts = tuple(parts_of(rest))
    if not parts or not re.fullmatch(r"[\w.-]{3,63}", parts[0], re.ASCII) or ".." in parts or "?" in rest:
        shown = re.sub(r".*@", "...@", rest.partition("?")[0])  # a secret may contain slashes
        raise UsageError(
            f"An object store is given as s3://bucket/prefix, but got s3://{shown}. The bucket has 3 to 63 letters, "
            "digits, '.', '-' or '_'; endpoint and credentials are given by the environment alone (AWS_ENDPOINT_URL, "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)."
        )
    return ObjectPath(parts)


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
    with explained(path), temporary_file(_local_folder(path), path.name) as temporary:
        between_steps("opened", path)
        yield temporary
        between_steps("written", path)
        if isinstance(path, Path):
            sync(temporary)
        between_steps("synced", path)
        if isinstance(path, Path):
            temporary.replace(path)
            sync(path.parent)
        else:
            upload(temporary, path.key)
        between_steps("renamed", path)


@contextmanager
def explained(path: AnyPath, what: str = "write") -> Iterator[None]:
    """Turn an error of the local file system into a StorageError that says what to do.

    Args:
        path: what the block writes, or reads.
        what: ``write`` or ``read``.
    """
    if isinstance(path, Path):
        with disk.explained(f"Cannot {what} {path}", path.parent):
            yield
    else:
        with explained_transfer(path.key):
            yield


def _local_folder(path: AnyPath) -> Path:
    return path.parent if isinstance(path, Path) else transfer_folder()


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
            download(path.key, copy)
        yield copy


def size(path: AnyPath) -> int:
    """Return the size of a file in bytes.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if isinstance(path, Path):
        return path.stat().st_size
    return path.size()


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
    path.delete() if isinstance(path, ObjectPath) else delete(path)


def sweep(folder: AnyPath) -> None:
    """Delete what writers that were killed have left in a folder; only its holder may do so. Does not raise."""
    with suppress(OSError):
        for path in folder.iterdir() if folder.is_dir() else ():
            if is_temporary(path.name):
                remove(path)
