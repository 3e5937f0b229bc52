"""What is in a data set: counts, sizes and modes of its files, mean and standard deviation, some of its images."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cass_tune.data.decode import open_image
from cass_tune.data.index import Progress, no_progress
from cass_tune.data.listing import SPLITS, Item, Listing, Split
from cass_tune.data.pixel_cache import is_grey
from cass_tune.data.pixels import decode
from cass_tune.data.wording import PART_NAMES, listed
from cass_tune.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

EXIF_ORIENTATION = 0x0112
UPRIGHT = 1
EACH = 6
"""Images of each class in the picture."""
TILE_PX = 96
MARGIN_PX = 6
TEXT_PX = 14
EDGES = ("wide", "high", "deep")


@dataclass(frozen=True)
class Look:
    """How an image is stored.

    Args:
        kind: format and Pillow's mode, for example ``JPEG L``.
        size: width and height, in pixels; width, height and depth of a volume, in voxels.
        is_turned: whether its EXIF data ask for a rotation, which is not done.
        frames: pictures in the file, of which the first is used.
    """

    kind: str
    size: tuple[int, ...]
    is_turned: bool = False
    frames: int = 1


def look(listing: Listing, item: Item, root: Path | None) -> Look:
    """Return how an image is stored: what its file says, or, where it has no file of its own, the image as it is used.

    Args:
        listing: the set.
        item: the image.
        root: folder of the files.
    """
    import numpy as np

    if listing.open_volume is not None:
        volume = listing.open_volume(item)
        return Look(f"array {volume.dtype}", volume.shape[::-1])
    if root is None or not (root / item.path).is_file():
        image = listing.open_image(item)
        mode = "L" if is_grey(np.asarray(image)) else image.mode  # a set opens every image as RGB
        return Look(f"array {mode}", image.size)
    return look_at_file(root / item.path)


def look_at_file(path: Path) -> Look:
    """Return how an image is stored in a file; what cannot be read beside its pixels is taken for what is usual."""
    with open_image(path) as image:
        plain = Look(f"{image.format} {image.mode}", image.size)
        is_turned = _read(lambda: image.getexif().get(EXIF_ORIENTATION, UPRIGHT) != UPRIGHT, plain.is_turned)
        return replace(plain, is_turned=is_turned, frames=_read(lambda: getattr(image, "n_frames", 1), plain.frames))


def _read(read: Callable[[], T], otherwise: T) -> T:
    with warnings.catch_warnings(action="ignore"):
        try:
            return read()
        except Exception:  # Pillow raises many kinds where EXIF data or later pictures are damaged
            return otherwise


def plural(listing: Listing) -> str:
    """Return the word for what a set consists of."""
    return "images" if listing.spatial_dims == 2 else "volumes"


def count_lines(listing: Listing) -> Iterator[str]:
    """Yield a table of the images by class (or label) and part."""
    parts: list[Split] = [part for part in SPLITS if listing.of_split(part)]
    pairs = Counter((item.split, name) for item in listing.items for name in item.labels)
    names = list(listing.classes)
    width = max(len(name) for name in (*names, plural(listing), "without any label"))
    rows = [(name, [pairs[part, name] for part in parts]) for name in names]
    if listing.task == "multi-label":
        without = Counter(item.split for item in listing.items if not item.labels)
        rows.append(("without any label", [without[part] for part in parts]))
    rows.append((plural(listing), [len(listing.of_split(part)) for part in parts]))
    yield " ".join([" " * width, *(f"{PART_NAMES[part]:>10}" for part in parts)])
    for name, counts in rows:
        yield " ".join([f"{name:<{width}}", *(f"{count:>10}" for count in counts)])


def look_lines(looks: Sequence[Look]) -> Iterator[str]:
    """Yield which formats, modes and sizes there are."""
    kinds = Counter(each.kind for each in looks)
    yield "stored as: " + listed([f"{kind} {count}" for kind, count in kinds.most_common()])
    sizes = Counter(each.size for each in looks)
    shown = listed([f"{' x '.join(map(str, size))} ({count})" for size, count in sizes.most_common()], limit=5)
    edges = list(zip(*sizes, strict=True))
    ranges = [f"{min(edge)} to {max(edge)} {word}" for edge, word in zip(edges, EDGES[: len(edges)], strict=True)]
    yield f"sizes in {'pixels' if len(edges) == 2 else 'voxels'}: {shown}; from {listed(ranges)}"
    turned, several = sum(each.is_turned for each in looks), sum(each.frames > 1 for each in looks)
    if turned:
        yield f"{turned} with an EXIF rotation, which is not done: images are used as they are stored"
    if several:
        yield f"{several} with several pictures in one file, of which the first is used"


def channel_statistics(
    listing: Listing, size_px: int, progress: Progress = no_progress
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of the training images (or volumes), between 0 and 1.

    Args:
        listing: the set.
        size_px: height and width to which each image is resized, as for a trial; volumes stay as they are.
        progress: called with the numbers of images done and of all images.
    """
    import numpy as np

    positions = listing.of_split("train")
    sums = squares = np.zeros(())
    for done, position in enumerate(positions, 1):
        item = listing.items[position]
        values = listing.open_volume(item)[..., None] if listing.open_volume else decode(listing, item, size_px)
        pixels = values.reshape(-1, values.shape[-1]).astype(np.float64) / 255
        sums = sums + pixels.mean(axis=0)
        squares = squares + (pixels**2).mean(axis=0)
        progress(done, len(positions))
    mean = sums / len(positions)
    std = np.sqrt(np.maximum(squares / len(positions) - mean**2, 0))
    return tuple(mean.tolist()), tuple(std.tolist())


def contact_sheet(listing: Listing) -> Image:
    """Return a picture of some images of each class (or label), a row each, spread over all parts.

    Of a volume it shows the slice in the middle of its depth.
    """
    from PIL import Image, ImageDraw
    from PIL.ImageOps import pad

    rows = [(name, _some(listing, lambda item, name=name: name in item.labels)) for name in listing.classes]
    if any(not item.labels for item in listing.items):
        rows.append(("without any label", _some(listing, lambda item: not item.labels)))
    step = TILE_PX + MARGIN_PX
    sheet = Image.new("RGB", (EACH * step + MARGIN_PX, len(rows) * (step + TEXT_PX) + MARGIN_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, items) in enumerate(rows):
        top = MARGIN_PX + row * (step + TEXT_PX)
        draw.text((MARGIN_PX, top), name, fill="black")
        for column, item in enumerate(items):
            tile = pad(_shown(listing, item), (TILE_PX, TILE_PX), color="grey")
            sheet.paste(tile, (MARGIN_PX + column * step, top + TEXT_PX))
    return sheet


def _shown(listing: Listing, item: Item) -> Image:
    from PIL import Image

    if listing.open_volume is None:
        return listing.open_image(item)
    volume = listing.open_volume(item)
    return Image.fromarray(volume[len(volume) // 2]).convert("RGB")


def _some(listing: Listing, is_wanted: Callable[[Item], bool]) -> list[Item]:
    found = [item for item in listing.items if is_wanted(item)]
    return found[:: max(1, math.ceil(len(found) / EACH))][:EACH]


def save_sheet(listing: Listing, path: Path) -> None:
    """Write `contact_sheet` to a file.

    Raises:
        UsageError: its ending is none of a picture, or it cannot be written.
    """
    try:
        contact_sheet(listing).save(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--sheet must be the file of a picture that can be written (.png, .jpg, .pdf), but got {str(path)!r}: "
            f"{error}."
        ) from error


def text_of(numbers: Sequence[float]) -> str:
    """Return the numbers of the channels as text."""
    return ", ".join(f"{number:.4f}" for number in numbers)
