"""ISIC 2019: the official folder of images and ground-truth table; the images of one lesion stay together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from cass_tune.config import Data
from cass_tune.data.collect import Candidate, Found, collect, data_root
from cass_tune.data.index import Progress, no_progress
from cass_tune.data.listing import Listing
from cass_tune.data.table import group_named, read_table
from cass_tune.data.wording import counted, listed
from cass_tune.errors import UsageError

IMAGES = "ISIC_2019_Training_Input"
TRUTH = "ISIC_2019_Training_GroundTruth.csv"
METADATA = "ISIC_2019_Training_Metadata.csv"


def isic_2019_listing(data: Data, progress: Progress = no_progress) -> Listing:
    """List ISIC 2019's training images, of which a test part is drawn, as CASS's authors drew theirs.

    The official test part is left out: a ninth of its classes (UNK) has no training image.

    Raises:
        UsageError: the folder, a table or an image is missing or wrong.
    """
    root = data_root(data)
    classes = _classes(root / TRUTH)
    lesions = _lesions(root / METADATA)
    missing = [name for name in classes if not os.path.isfile(root / IMAGES / f"{name}.jpg")]
    problem = (
        f"Every image of {TRUTH} must lie in {IMAGES}/, but {counted(len(missing), 'file is', 'files are')} missing: "
        f"{listed([f'{name}.jpg' for name in missing])}. Unpack the official archive there."
    )
    found = Found(
        root=root,
        candidates=[
            Candidate(path=f"{IMAGES}/{name}.jpg", label=label, split=None, group=lesions.get(name))
            for name, label in classes.items()
        ],
        classes={},
        problems=[problem] if missing else [],
        warnings=[
            f"A test part of whole lesions was drawn (--data.test-fraction {data.test_fraction:g}, --data.split-seed "
            f"{data.split_seed}) from the training images; the official test part is not used.",
            *_alone_warnings(root / METADATA, classes, lesions),
        ],
    )
    return collect(data, found, progress)


def _classes(table: Path) -> dict[str, str]:
    """Return the class of each image."""
    header, lines = read_table(table, "It must lie in the folder given by --data.root, beside the images.")
    if header[:1] != ["image"] or len(set(header)) < len(header) or len(header) < 3:
        raise UsageError(
            f"Table {str(table)!r} must have a column 'image' and then one column per class, but its columns are "
            f"{listed([repr(name) for name in header]) or 'none'}. Use the official file."
        )
    found: dict[str, str] = {}
    wrong: list[str] = []
    for line, (image, *cells) in lines:
        given = [name for name, cell in zip(header[1:], cells, strict=True) if _is_one(cell)]
        if len(given) != 1 or image in found or not _is_name(image):
            wrong.append(str(line))
        else:
            found[image] = given[0]
    if wrong:
        raise UsageError(
            f"Every row of {str(table)!r} must name an image that no other row names, and have a 1 for one class, but "
            f"that is not so at line {listed(wrong)}. Use the official file."
        )
    return found


def _is_one(cell: str) -> bool:
    try:
        return float(cell) == 1
    except ValueError:
        return False


def _is_name(image: str) -> bool:
    return bool(image) and all(letter.isalnum() or letter in "_-" for letter in image)


def _alone_warnings(table: Path, images: Iterable[str], lesions: Mapping[str, str]) -> list[str]:
    if not table.exists():
        return [f"{table.name} is not there: images of one lesion may lie in training and test."]
    alone = [name for name in images if name not in lesions]
    if not alone:
        return []
    return [f"{counted(len(alone), 'image')} without a lesion in {table.name}, each taken as one of its own."]


def _lesions(table: Path) -> dict[str, str]:
    """Return the lesion of each image that has one."""
    if not table.exists():
        return {}
    header, lines = read_table(table, "It must lie in the folder given by --data.root, beside the images.")
    if "image" not in header or "lesion_id" not in header:
        raise UsageError(
            f"Table {str(table)!r} must have the columns 'image' and 'lesion_id', but has {_quoted(header)}. Use the "
            "official file, or remove it: then images of one lesion may lie in several parts."
        )
    image, lesion = header.index("image"), header.index("lesion_id")
    found = {cells[image]: group_named(cells[lesion]) for _, cells in lines}
    return {name: group for name, group in found.items() if group is not None}


def _quoted(names: Iterable[str]) -> str:
    return listed([repr(name) for name in names]) or "none"
