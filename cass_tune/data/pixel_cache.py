"""Resized images on the local disk, shared by all processes of a machine.

A cache is a folder: ``grey`` and ``rgb`` hold the images one after the other, ``index.json`` says where each is, with
its CRC-32. It appears whole, by a rename. One process makes it while others wait. Caches that have not been used for
the longest time make room for new ones, so that all together stay below CASS_TUNE_CACHE_GIB.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import time
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cass_tune.data.cache_folder import cache_folder

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

CAP_ENV = "CASS_TUNE_CACHE_GIB"
CAP_GIB = 50.0
"""How much room all cached images of a user may take, unless CASS_TUNE_CACHE_GIB says something else."""
THREADS = min(4, os.cpu_count() or 1)
"""Images that are decoded at a time; Pillow lets other threads run meanwhile, more than processors cost time."""
GROUP = 4
"""Images that a thread makes before another one hears of them, which takes as long as to make a small one."""
LOCK_POLL_S = 0.2
STALE_S = 24 * 3600.0
"""Age at which a cache that was never finished is taken for one whose process was killed."""

_CHANNELS = {"grey": (), "rgb": (3,)}


class PixelCache:
    """A cache that is there; its images are mapped when they are first asked for.

    Args:
        folder: where it lies.
        size_px: height and width of every image, in pixels.
    """

    def __init__(self, folder: Path, size_px: int) -> None:
        self.folder = folder
        self._size_px = size_px
        self._index: dict[str, tuple[str, int, int]] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._open()

    @classmethod
    def load(
        cls,
        name: str,
        size_px: int,
        images: Mapping[str, Callable[[], np.ndarray]],
        progress: Callable[[int, int], None],
    ) -> PixelCache:
        """Return a cache, which is made if it is not there or not whole.

        Args:
            name: of its folder; says what is in it, and how it was made.
            size_px: height and width of every image, in pixels.
            images: returns each image by its key, uint8, shape (size_px, size_px, 3).
            progress: called with the numbers of images made and of all images; it may raise.

        Raises:
            OSError: it cannot be written, or is larger than all caches may be.
        """
        folder = cache_folder() / "pixels" / name
        found = cls._found(folder, size_px)
        if found is None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _only_one(folder, lambda: progress(0, len(images))) as is_alone:
                found = cls._found(folder, size_px)  # made by another process meanwhile
                if found is None:
                    shutil.rmtree(folder, ignore_errors=True)
                    _remove_abandoned(folder, is_alone)
                    _write(folder, size_px, images, progress)
                    found = cls(folder, size_px)
        with contextlib.suppress(OSError):
            os.utime(folder)  # the last use
        return found

    @classmethod
    def _found(cls, folder: Path, size_px: int) -> PixelCache | None:
        try:
            return cls(folder, size_px)
        except (OSError, ValueError, KeyError, TypeError):  # not there, or torn by a machine that went down
            return None

    def _open(self) -> None:
        import numpy as np

        self._index = {key: tuple(entry) for key, entry in json.loads((self.folder / "index.json").read_text()).items()}
        for kind, channels in _CHANNELS.items():
            count = sum(entry[0] == kind for entry in self._index.values())
            shape = (count, self._size_px, self._size_px, *channels)
            if (self.folder / kind).stat().st_size != math.prod(shape):
                raise ValueError(f"{self.folder / kind} is not whole")
            if count:
                self._arrays[kind] = np.memmap(self.folder / kind, dtype=np.uint8, mode="r", shape=shape)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_size_px": self._size_px}  # a process that is spawned maps the files itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], state["_size_px"])

    def get(self, key: str) -> tuple[np.ndarray, int]:
        """Return an image, uint8, shape (size_px, size_px) or, if it is not grey, (size_px, size_px, 3); its CRC-32."""
        kind, row, checksum = self._index[key]
        return self._arrays[kind][row], checksum

    def discard(self) -> bool:
        """Remove the cache from the disk; return whether it was there. What is mapped stays usable."""
        was_there = self.folder.exists()
        shutil.rmtree(self.folder, ignore_errors=True)
        return was_there


def is_grey(image: np.ndarray) -> bool:
    """Return whether the three channels of an image, shape (height, width, 3), are equal."""
    some = image[:: max(1, len(image) // 8)]  # tells of most images in colour what they are
    return all((each[..., channel] == each[..., 0]).all() for each in (some, image) for channel in (1, 2))


@contextlib.contextmanager
def _only_one(folder: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Let one process of this machine at a time run the block; where locks do not work, let all, and give False."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    while True:
        try:
            lock.acquire(timeout=LOCK_POLL_S)
            break
        except Timeout:
            waiting()
        except (NotImplementedError, OSError):  # a file system without locks, or one that cannot be written
            break
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _write(
    folder: Path,
    size_px: int,
    images: Mapping[str, Callable[[], np.ndarray]],
    progress: Callable[[int, int], None],
) -> None:
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir()
        writer = _Writer(temporary, _room(folder.parent, len(images) * size_px**2))
        with writer.open(), ThreadPoolExecutor(THREADS) as pool:
            try:
                for number, image in enumerate(_ahead(pool, images), 1):
                    writer.add(image)
                    progress(number, len(images))
            except BaseException:
                pool.shutdown(cancel_futures=True)  # the callback may raise, to end a trial
                raise
        with contextlib.suppress(OSError):  # another process, where locks do not work, was faster
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class _Image:
    """An image as it is written: uint8, shape (height, width) or, if it is not grey, (height, width, 3)."""

    key: str
    kind: str
    pixels: np.ndarray
    checksum: int


def _make(images: Sequence[tuple[str, Callable[[], np.ndarray]]]) -> list[_Image]:
    return [_as_written(key, make()) for key, make in images]


def _as_written(key: str, image: np.ndarray) -> _Image:
    kind, pixels = ("grey", image[..., 0].copy()) if is_grey(image) else ("rgb", image)
    return _Image(key, kind, pixels, zlib.crc32(pixels.data))


def _ahead(pool: ThreadPoolExecutor, images: Mapping[str, Callable[[], np.ndarray]]) -> Iterator[_Image]:
    """Yield every image in order, some of them made in advance, but no more than memory has room for."""
    rest = iter(images.items())
    groups = iter(lambda: list(islice(rest, GROUP)), [])
    waiting = deque(pool.submit(_make, group) for group in islice(groups, 2 * THREADS))
    while waiting:
        yield from waiting.popleft().result()
        waiting.extend(pool.submit(_make, group) for group in islice(groups, 1))


class _Writer:
    """Writes images into a folder.

    Args:
        folder: where to.
        most_bytes: how many.
    """

    def __init__(self, folder: Path, most_bytes: float) -> None:
        self._folder = folder
        self._left = most_bytes
        self._index: dict[str, tuple[str, int, int]] = {}
        self._rows = dict.fromkeys(_CHANNELS, 0)
        self._files: dict[str, BinaryIO] = {}

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Open the files, and finish them when the block has ended well."""
        with contextlib.ExitStack() as stack:
            # written as files, because through a map a full disk would kill the process
            self._files = {kind: stack.enter_context((self._folder / kind).open("wb")) for kind in _CHANNELS}
            yield
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
        (self._folder / "index.json").write_text(json.dumps(self._index))

    def add(self, image: _Image) -> None:
        """Write one image."""
        self._left -= image.pixels.nbytes
        if self._left < 0:
            raise OSError(f"they would take more than the {_cap_gib():g} GiB of {CAP_ENV}")
        self._files[image.kind].write(image.pixels.data)
        self._index[image.key] = (image.kind, self._rows[image.kind], image.checksum)
        self._rows[image.kind] += 1


def _cap_gib() -> float:
    try:
        cap = float(os.environ.get(CAP_ENV, CAP_GIB))
    except ValueError:
        cap = math.nan
    if not cap >= 0:
        logger.warning(
            "%s must be a number of at least 0, but is %r; %g is used", CAP_ENV, os.environ[CAP_ENV], CAP_GIB
        )
        return CAP_GIB
    return cap


def _room(folder: Path, least_bytes: int) -> float:
    """Remove caches that have not been used for the longest time until there is room for at least so much more.

    What is larger than expected finds room only as far as the cap allows: images in colour take three times as much.
    """
    cap = _cap_gib() * 2**30
    others = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_last_use)
    sizes = {path: _size(path) for path in others}
    for path in others:
        if sum(sizes.values()) + 3 * least_bytes <= cap:
            break
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        del sizes[path]
    return cap - sum(sizes.values())


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    try:
        return sum(file.stat().st_size for file in files)
    except OSError:
        return 0


def _remove_abandoned(folder: Path, is_alone: bool) -> None:
    """Remove what processes left that were killed while they wrote this cache, or long ago another one.

    Args:
        folder: the cache.
        is_alone: whether no other process can be writing it.
    """
    for path in folder.parent.glob(".*.tmp"):
        is_ours = is_alone and path.name.startswith(f".{folder.name}.")
        if is_ours or time.time() - _last_use(path) > STALE_S:
            shutil.rmtree(path, ignore_errors=True)
