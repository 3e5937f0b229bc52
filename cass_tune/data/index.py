"""A per-user index of image files: content hash and whether they decode, so that each file is read only once."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cass_tune.data.cache_folder import cache_folder
from cass_tune.data.decode import FORMATS, decode_rgb

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the number of files done and the total."""

_THREADS = 4
_CHUNK = 256  # files between two writes: what an interruption can cost; below sqlite's limit of variables
_LOCK_SECONDS = 30.0
_TABLE = (
    "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,"
    " pillow TEXT NOT NULL, sha256 TEXT NOT NULL, error TEXT) WITHOUT ROWID"
)


@dataclass(frozen=True)
class Examined:
    """What reading a file showed.

    Args:
        sha256: of the file's bytes; empty where they cannot be read.
        error: why the file does not decode fully, or None.
    """

    sha256: str
    error: str | None


@dataclass(frozen=True)
class _Stamp:
    """What tells that a file is still the one that was read."""

    size: int
    mtime_ns: int


def no_progress(done: int, total: int) -> None:
    """Report nothing."""


def examine(paths: Sequence[Path], progress: Progress = no_progress) -> dict[Path, Examined]:
    """Return the hash and the decodability of files; only those not in the index are read.

    The index lies in the user's cache folder. Where it cannot be read or written, everything works without
    remembering, with one warning in the log.

    Args:
        paths: the files.
        progress: called after each file.
    """
    stamps = {path: _stamp(path) for path in paths}
    with _Index() as index:
        known = index.find(stamps)
        unknown = [path for path in stamps if path not in known]
        progress(len(known), len(stamps))
        for path, examined in _read_all(unknown, stamps, index):
            known[path] = examined
            progress(len(known), len(stamps))
    return {path: known[path] for path in stamps}


def _read_all(
    paths: Sequence[Path], stamps: dict[Path, _Stamp | None], index: _Index
) -> Iterator[tuple[Path, Examined]]:
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            rows: list[tuple[Path, _Stamp, Examined]] = []
            for path, (examined, lasting) in zip(chunk, pool.map(_read, chunk), strict=True):
                stamp = stamps[path]  # from before the reading: a file changed meanwhile will not match it
                if lasting and stamp is not None:
                    rows.append((path, stamp, examined))
                yield path, examined
            index.remember(rows)


def _read(path: Path) -> tuple[Examined, bool]:
    """Read and decode one file; also say whether the outcome is the file's own, worth remembering."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Examined("", f"cannot be read: {error.strerror or error}"), False
    sha256 = hashlib.sha256(content).hexdigest()
    if not content:
        return Examined(sha256, "the file is empty"), True
    try:
        decode_rgb(io.BytesIO(content))
    except MemoryError:
        return Examined(sha256, "not enough memory to decode it"), False
    except Exception as error:  # Pillow's decoders raise many kinds for damaged files
        return Examined(sha256, _reason(error)), True
    return Examined(sha256, None), True


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its own text holds a memory address
        return "not an image of a known format, or its beginning is damaged"
    return f"{type(error).__name__}: {error}"


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return _Stamp(status.st_size, status.st_mtime_ns)


def _key(path: Path) -> bytes:
    return os.fsencode(os.path.abspath(path))


class _Index:
    """The database file; after the first failure it is left alone."""

    def __init__(self) -> None:
        from PIL import __version__ as pillow_version

        self._file: Path | None = None
        self._reader = f"{pillow_version} {' '.join(FORMATS)}"  # another may decode what this one cannot
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> _Index:
        try:
            self._file = cache_folder() / "index.sqlite"
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self._file, timeout=_LOCK_SECONDS)
            self._database.execute(_TABLE)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
        return self

    def __exit__(self, *_: object) -> None:
        if self._database is not None:
            self._database.close()

    def find(self, stamps: dict[Path, _Stamp | None]) -> dict[Path, Examined]:
        """Return what is known of the files that have not changed since."""
        found: dict[Path, Examined] = {}
        if self._database is None:
            return found
        paths = list(stamps)
        try:
            for start in range(0, len(paths), _CHUNK):
                found.update(self._find(self._database, paths[start : start + _CHUNK], stamps))
        except sqlite3.Error as error:
            self._give_up(error)
        return found

    def _find(
        self, database: sqlite3.Connection, paths: list[Path], stamps: dict[Path, _Stamp | None]
    ) -> Iterator[tuple[Path, Examined]]:
        by_key = {_key(path): path for path in paths}
        marks = ",".join("?" * len(by_key))
        query = f"SELECT path, size, mtime_ns, sha256, error FROM files WHERE pillow = ? AND path IN ({marks})"
        for key, size, mtime_ns, sha256, error in database.execute(query, (self._reader, *by_key)):
            path = by_key[key]
            if stamps[path] == _Stamp(size, mtime_ns):
                yield path, Examined(sha256, error)

    def remember(self, rows: Sequence[tuple[Path, _Stamp, Examined]]) -> None:
        """Keep what was read."""
        if self._database is None or not rows:
            return
        values = [(_key(p), s.size, s.mtime_ns, self._reader, e.sha256, e.error) for p, s, e in rows]
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", values)
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        logger.warning(
            "The index of image files %s cannot be used (%s), so images are read anew each time. Make its folder "
            "writable or choose another with the environment variable CASS_TUNE_CACHE; a damaged file may be deleted.",
            self._file or "",
            error,
        )
        if self._database is not None:
            self._database.close()
            self._database = None
