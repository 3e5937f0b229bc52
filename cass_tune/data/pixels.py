"""Every image of a set, decoded and resized once, as memory-mapped uint8 arrays in the per-user cache.

Reading from it is several times faster than decoding files again each epoch, and gives the same pixels as resizing
the opened image (torchvision's ``Resize`` on a PIL image is PIL's bilinear ``resize``). An image whose three channels
are equal is kept as one. Equal files are kept once, and other labels or parts of the same files need no new cache; a
set of another name does, because it may open them in another way.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from cass_tune.data.listing import Item, Listing
from cass_tune.data.pixel_cache import PixelCache, is_grey

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

VERSION = 2
"""Raised when images are decoded or resized in another way; old caches are then not used."""


class Images(Protocol):
    """Images by their position; a numpy array is one."""

    def __getitem__(self, position: int, /) -> np.ndarray:
        """Return one image, uint8, shape (height, width, 3)."""
        ...


class Pixels:
    """The resized images of a listing.

    Args:
        listing: the data set.
        size_px: height and width, in pixels.
        images: uint8, each of shape (size_px, size_px, 3), or None to open each image when it is asked for.
    """

    def __init__(self, listing: Listing, size_px: int, images: Images | None) -> None:
        self.listing = listing
        self.size_px = size_px
        self._images = images

    def __getitem__(self, position: int) -> np.ndarray:
        """Return one image, uint8, shape (size_px, size_px, 3); the last stride of a grey one is 0."""
        if self._images is not None:
            return self._images[position]
        return _opened(self.listing, self.listing.items[position], self.size_px)


class _Cached:
    """The images of a listing from the cache; one that is damaged there is decoded instead.

    Args:
        listing: the data set.
        size_px: height and width, in pixels.
        cache: holds them.
    """

    def __init__(self, listing: Listing, size_px: int, cache: PixelCache) -> None:
        self._listing = listing
        self._size_px = size_px
        self._cache = cache
        self._verified = bytearray(len(listing.items))

    def __getitem__(self, position: int) -> np.ndarray:
        item = self._listing.items[position]
        image, checksum = self._cache.get(item.sha256)
        if not self._verified[position]:
            if zlib.crc32(image.data) != checksum:
                if self._cache.discard():
                    logger.warning("%s is damaged and was removed; its images are decoded again", self._cache.folder)
                return _opened(self._listing, item, self._size_px)
            self._verified[position] = 1
        return as_rgb(image)


def _opened(listing: Listing, item: Item, size_px: int) -> np.ndarray:
    """Return an image as it would come from the cache: a route may treat grey in another way."""
    image = decode(listing, item, size_px)
    return as_rgb(image[..., 0]) if is_grey(image) else image


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Return a grey image, shape (height, width), with three channels that are one memory; another as it is."""
    import numpy as np

    return image if image.ndim == 3 else np.broadcast_to(image[..., None], (*image.shape, 3))


def decode(listing: Listing, item: Item, size_px: int) -> np.ndarray:
    """Open and resize one image: uint8, shape (size_px, size_px, 3)."""
    import numpy as np
    from PIL import Image

    image = listing.open_image(item).resize((size_px, size_px), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def load_pixels(listing: Listing, size_px: int, progress: Callable[[int, int], None] | None = None) -> Pixels:
    """Map the cached pixels of a listing, making them first if they are not there.

    Where the cache cannot be written (no space, no permission, more than CASS_TUNE_CACHE_GIB), images are decoded
    whenever they are needed, and a warning says so; the numbers are the same.

    Args:
        listing: the data set.
        size_px: height and width, in pixels.
        progress: called with the numbers of images made and of all images; it may raise, to end the trial.
    """
    import PIL

    items = {item.sha256: item for item in listing.items}
    content = hashlib.sha256("\n".join([listing.name, *sorted(items)]).encode()).hexdigest()
    name = f"{content[:32]}-{size_px}-{VERSION}-pillow{PIL.__version__}"
    images = {key: partial(decode, listing, item, size_px) for key, item in items.items()}
    try:
        cache = PixelCache.load(name, size_px, images, progress or _no_progress)
    except OSError as error:
        logger.warning(
            "cannot cache pixels (%s); images are decoded every time, which is slower. Make room, or choose another "
            "folder with the environment variable CASS_TUNE_CACHE.",
            error,
        )
        return Pixels(listing, size_px, None)
    return Pixels(listing, size_px, _Cached(listing, size_px, cache))


def _no_progress(done: int, total: int) -> None:
    pass
