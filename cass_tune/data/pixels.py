"""Every image of a set, decoded and resized once, as one memory-mapped uint8 array in the per-user cache.

Reading from it is several times faster than decoding files again each epoch, and gives the same pixels as resizing
the opened image (torchvision's ``Resize`` on a PIL image is PIL's bilinear ``resize``).
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from cass_tune.data.cache_folder import cache_folder
from cass_tune.data.listing import Item, Listing

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

VERSION = 1
"""Raised when images are decoded or resized in another way; old caches are then not used."""


class Pixels:
    """The resized images of a listing.

    Args:
        listing: the data set.
        size_px: height and width, in pixels.
        array: uint8, shape (images, size_px, size_px, 3), or None to open each image when it is asked for.
    """

    def __init__(self, listing: Listing, size_px: int, array: np.ndarray | None) -> None:
        self.listing = listing
        self.size_px = size_px
        self._array = array

    def __getitem__(self, position: int) -> np.ndarray:
        """Return one image, uint8, shape (size_px, size_px, 3)."""
        if self._array is not None:
            return self._array[position]
        return decode(self.listing, self.listing.items[position], self.size_px)


def decode(listing: Listing, item: Item, size_px: int) -> np.ndarray:
    """Open and resize one image: uint8, shape (size_px, size_px, 3)."""
    import numpy as np
    from PIL import Image

    image = listing.open_image(item).resize((size_px, size_px), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def load_pixels(listing: Listing, size_px: int, progress: Callable[[int, int], None] | None = None) -> Pixels:
    """Map the cached pixels of a listing, making them first if they are not there.

    Where the cache cannot be written (no space, no permission), images are decoded whenever they are needed, and a
    warning says so; the numbers are the same.
    """
    import numpy as np
    import PIL

    version = f"{VERSION}-pillow{PIL.__version__}"
    path = cache_folder() / "pixels" / f"{listing.fingerprint[:32]}-{size_px}-{version}.npy"
    try:
        if not path.exists():
            _write(path, listing, size_px, progress)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError:  # torn by a machine that went down
            path.unlink()
            _write(path, listing, size_px, progress)
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        return Pixels(listing, size_px, array)
    except (OSError, ValueError) as error:
        logger.warning("cannot cache pixels in %s (%s); images are decoded every time, which is slower", path, error)
        return Pixels(listing, size_px, None)


def _write(path: Path, listing: Listing, size_px: int, progress: Callable[[int, int], None] | None) -> None:
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    count = len(listing.items)
    try:
        with temporary.open("wb") as stream, ThreadPoolExecutor(4) as pool:  # through a map a full disk would kill us
            shape = (count, size_px, size_px, 3)
            np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
            images: Iterable[np.ndarray] = pool.map(lambda item: decode(listing, item, size_px), listing.items)
            try:
                for number, image in enumerate(images):
                    stream.write(image.tobytes())
                    if progress:
                        progress(number + 1, count)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # the callback may raise, to end a trial
                raise
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
