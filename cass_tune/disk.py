"""Files on a local disk: temporary, synced, deleted; and what an error of the disk asks the user to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cass_tune.errors import StorageError

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
def explained(what: str, folder: Path | None) -> Iterator[None]:
    """Turn an error of the local file system into a StorageError that says what to do.

    Args:
        what: begins the text: ``Cannot write FILE``.
        folder: in which the block writes or reads; None: that of `transfer_folder`.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        code = _system_error(error, folder or transfer_folder())
        if code not in _ADVICE:
            raise
        raise _failed(what, code, folder) from error


@contextmanager
def explained_deletion(path: object, folder: Path | None) -> Iterator[None]:
    """Turn an error of a deletion into a StorageError that says what to do; that something is missing is none.

    Args:
        path: what the block deletes.
        folder: as of `explained`.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        pass
    except StorageError:
        raise
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        raise _failed(f"Cannot delete {path}", error.errno, folder) from error


def transfer_folder() -> Path:
    """Return where the content of objects lies while it is sent or fetched: the system's temporary folder."""
    return Path(tempfile.gettempdir())


def _failed(what: str, code: int, folder: Path | None) -> StorageError:
    option = "--results DIR" if folder else "the environment variable TMPDIR"
    advice = f"{_ADVICE[code]}, or name another folder with {option}."
    return StorageError(code, f"{what}: {os.strerror(code)}{_free_bytes(folder or transfer_folder())}. {advice}")


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


def temporary_name(name: str) -> str:
    """Return a name for what will be called otherwise when it is complete."""
    return f".{name}.{uuid.uuid4().hex[:8]}.tmp"


def is_temporary(name: str) -> bool:
    """Return whether a name is one of `temporary_name`."""
    return name.startswith(".") and name.endswith(".tmp")


@contextmanager
def temporary_file(folder: Path, name: str) -> Iterator[Path]:
    """Give a path in a folder, which is made, where nothing is; what is there at the end is deleted."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / temporary_name(name)
    try:
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink()


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def delete(path: Path) -> None:
    """Delete a file, or a folder with all that lies below; a missing one is fine.

    Raises:
        StorageError: it cannot be deleted; says why, and what to do.
    """
    with explained_deletion(path, path.parent):
        _delete(path)


def _delete(path: Path) -> None:
    if not stat.S_ISDIR(path.lstat().st_mode):
        path.unlink()  # once: what another process puts in its place stays
        return
    while path.exists():
        with suppress(FileNotFoundError):  # of a file below, which another process has deleted meanwhile
            shutil.rmtree(path)
