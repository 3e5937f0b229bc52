"""The list of a data set's usable images, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One usable image.

    Args:
        path: relative to the data's root, with forward slashes; also the image's id in every record.
        sha256: of the file's bytes.
        label: class name.
        split: the part it belongs to.
        group: images of one group (a patient, identical files) never lie on both sides of a split made here.
    """

    path: str
    sha256: str
    label: str
    split: Split
    group: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A data set: its images in a fixed order, and how to open one.

    Args:
        name: catalogued name.
        items: sorted by path.
        open_image: returns the RGB image of an item.
        fingerprint: SHA-256 that stands for all items (or for the generator of a synthetic set).
        bad_images: relative path and reason of every image that was skipped.
        warnings: what the user should know (identical files across parts, ...).
    """

    name: str
    items: tuple[Item, ...]
    open_image: Callable[[Item], Image]
    fingerprint: str
    bad_images: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in alphabetical order: the order of labels, weights and outputs everywhere."""
        return tuple(sorted({item.label for item in self.items}))

    def of_split(self, split: Split) -> tuple[int, ...]:
        """Return the positions in `items` of one part."""
        return tuple(i for i, item in enumerate(self.items) if item.split == split)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images per part and class."""
        pairs = Counter((item.split, item.label) for item in self.items)
        return {s: {c: pairs[s, c] for c in self.classes} for s in SPLITS if any(pairs[s, c] for c in self.classes)}


def fingerprint(items: tuple[Item, ...]) -> str:
    """Return the SHA-256 over every item's path, content, label, part and group, in the order of paths."""
    rows = sorted((i.path, i.sha256, i.label, i.split, i.group) for i in items)
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
