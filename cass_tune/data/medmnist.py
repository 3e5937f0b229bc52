"""MedMNIST: an official npz file as it is downloaded, read without the medmnist package and without unpickling."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from cass_tune.config import Data
from cass_tune.data.collect import data_root
from cass_tune.data.groups import identical_file_warnings, merge_groups
from cass_tune.data.index import Progress, no_progress
from cass_tune.data.listing import SPLITS, Item, Listing, Split, fingerprint
from cass_tune.data.medmnist_sets import SETS, SIZES_PX, MedMnist
from cass_tune.data.task import Label
from cass_tune.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

PREFIX = "medmnist:"
"""Before the name of a set."""


def medmnist_listing(data: Data, progress: Progress = no_progress) -> Listing:
    """List the images (or volumes) of ``medmnist:<name>``; the name of the larger sizes ends in _64, _128 or _224.

    The parts are the official ones, and the classes have the official names; grades are classes.

    Raises:
        UsageError: there is no such set, or its file is missing, is another one, or is damaged.
    """
    file_name = data.name.removeprefix(PREFIX)
    known, md5 = _known(file_name)
    path = data_root(data) / f"{file_name}.npz"
    _check_md5(path, md5)
    return listing_of(path, known, progress)


def _known(file_name: str) -> tuple[MedMnist, str]:
    """Return what is known of a set, and the MD5 of its file."""
    name, _, size = file_name.partition("_")
    known = SETS.get(name)
    sizes = ["" if px == SIZES_PX[0] else str(px) for px in SIZES_PX[: len(known.md5) if known else None]]
    if known is None or size not in sizes or file_name.endswith("_"):
        larger = ", ".join(f"_{size}" for size in sizes[1:])
        raise UsageError(
            f"--data.name {PREFIX}NAME must name one of {', '.join(SETS)}, with {larger} behind it for the larger "
            f"sizes, but got {file_name!r}.{did_you_mean(name, SETS)}"
        )
    return known, known.md5[sizes.index(size)]


def _check_md5(path: Path, expected: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise UsageError(
            f"The folder given by --data.root must have the file {path.name}, but {str(path)!r} cannot be read: "
            f"{error.strerror}. Download it from https://zenodo.org/records/10519652."
        ) from error
    if found != expected:
        raise UsageError(
            f"{str(path)!r} is not the official file: its MD5 must be {expected}, but is {found}. It is damaged, or "
            "another version. Download it again from https://zenodo.org/records/10519652."
        )


def listing_of(path: Path, known: MedMnist, progress: Progress = no_progress) -> Listing:
    """Return the images (or volumes) of an npz file, whatever its checksum.

    Args:
        path: the file; its stem is the listing's name.
        known: what must be in it.
        progress: called with the numbers of images hashed and of all images.

    Raises:
        UsageError: it cannot be read, or its arrays are not those of the set.
    """
    found: list[tuple[str, str, Label, Split]] = []
    total = sum(known.images.values())
    for part in SPLITS:
        images, labels = _arrays(path, known, part)
        for number, (image, label) in enumerate(zip(images, _labels(labels, known), strict=True)):
            found.append((f"{part}/{number:06}", hashlib.sha256(image.tobytes()).hexdigest(), label, part))
        progress(len(found), total)
    found.sort()
    paths, hashes = [row[0] for row in found], [row[1] for row in found]
    groups = merge_groups(paths, hashes, [None] * len(found))
    items = tuple(
        Item(path=place, sha256=sha256, label=label, split=part, group=group)
        for (place, sha256, label, part), group in zip(found, groups, strict=True)
    )
    return Listing(
        name=path.stem,
        items=items,
        open_image=partial(_open if known.spatial_dims == 2 else _refuse, path),
        fingerprint=fingerprint(items),
        warnings=tuple(identical_file_warnings(items)),
        open_volume=partial(_open_volume, path) if known.spatial_dims == 3 else None,
    )


def _arrays(path: Path, known: MedMnist, part: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of one part, checked."""
    images, labels = read_array(path, f"{part}_images"), read_array(path, f"{part}_labels")
    count, columns = known.images[part], len(known.labels) if known.task == "multi-label" else 1
    shapes = [f"({count}, height, width)", f"({count}, height, width, 3)"]
    is_right = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    if known.spatial_dims == 3:
        shapes, is_right = [f"({count}, depth, height, width)"], images.ndim == 4
    if not is_right or images.dtype != "uint8" or len(images) != count or 0 in images.shape:
        raise UsageError(
            f"{str(path)!r}: {part}_images must be uint8 of shape {' or '.join(shapes)}, but is {images.dtype} of "
            f"shape {images.shape}. Download the file again."
        )
    highest = 1 if known.task == "multi-label" else len(known.labels) - 1
    if labels.dtype.kind not in "iu" or labels.shape != (count, columns) or labels.min() < 0 or labels.max() > highest:
        raise UsageError(
            f"{str(path)!r}: {part}_labels must be whole numbers from 0 to {highest} of shape ({count}, {columns}), "
            f"but is {labels.dtype} of shape {labels.shape}, or has others. Download the file again."
        )
    return images, labels


def _labels(labels: np.ndarray, known: MedMnist) -> Sequence[Label]:
    if known.task == "multi-label":
        return [tuple(sorted(n for n, has in zip(known.labels, row, strict=True) if has)) for row in labels.tolist()]
    return [known.labels[number] for (number,) in labels.tolist()]


def read_array(path: Path, key: str) -> np.ndarray:
    """Return one array of an npz file; nothing in it is unpickled.

    Raises:
        UsageError: the file cannot be read, or has no such array.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it is no npz file")
            if key not in file:
                raise ValueError(f"it has no array {key!r}, but {', '.join(map(repr, file.files)) or 'none'}")
            return np.asarray(file[key])
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror or error}. Check --data.root.") from error
    except Exception as error:  # numpy and zipfile raise many kinds for damaged files
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
        raise UsageError(
            f"{str(path)!r} cannot be read as an official MedMNIST file: {reason}. Download it again from "
            "https://zenodo.org/records/10519652."
        ) from error


@lru_cache(maxsize=len(SPLITS))
def _images(path: Path, part: str) -> np.ndarray:
    return read_array(path, f"{part}_images")


def _open(path: Path, item: Item) -> Image:
    return open_image(path, item.path)


def _refuse(path: Path, item: Item) -> Image:
    raise UsageError(f"{str(path)!r} has volumes, not images. Give another --data.name.")


def _array(path: Path, place: str) -> np.ndarray:
    part, _, number = place.partition("/")
    return _images(Path(os.path.abspath(path)), part)[int(number)]


def _open_volume(path: Path, item: Item) -> np.ndarray:
    return _array(path, item.path)


def open_image(path: Path, place: str) -> Image:
    """Return one image as RGB.

    Args:
        path: the npz file.
        place: path of the item: its part and number.
    """
    from PIL import Image

    return Image.fromarray(_array(path, place)).convert("RGB")
