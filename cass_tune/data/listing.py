"""The list of a data set's usable images, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cass_tune.data.task import Label, Task, names, shown

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One usable image.

    Args:
        path: relative to the data's root, with forward slashes; also the image's id in every record.
        sha256: of the file's bytes.
        label: class name, or in a multi-label set the names of its labels (`cass_tune.data.task`).
        split: the part it belongs to.
        group: images of one group (a patient, identical files) never lie on both sides of a split made here.
    """

    path: str
    sha256: str
    label: Label
    split: Split
    group: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The class alone, or all labels."""
        return names(self.label)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A data set: its images in a fixed order, and how to open one.

    Args:
        name: catalogued name.
        items: sorted by path.
        open_image: returns the RGB image of an item; raises `UsageError` in a set of volumes.
        fingerprint: SHA-256 that stands for all items (or for the generator of a synthetic set).
        bad_images: relative path and reason of every image that was skipped.
        warnings: what the user should know (identical files across parts, ...).
        open_volume: returns the volume of an item, uint8 of shape (depth, height, width); None in a set of images.
    """

    name: str
    items: tuple[Item, ...]
    open_image: Callable[[Item], Image]
    fingerprint: str
    bad_images: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    open_volume: Callable[[Item], np.ndarray] | None = None

    @property
    def spatial_dims(self) -> Literal[2, 3]:
        """2 in a set of images, 3 in one of volumes."""
        return 2 if self.open_volume is None else 3

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of classes (or labels) in alphabetical order: the order of weights and outputs everywhere."""
        return tuple(sorted({name for item in self.items for name in item.labels}))

    @property
    def task(self) -> Task:
        """What is asked about each image."""
        return "multi-class" if all(isinstance(item.label, str) for item in self.items) else "multi-label"

    def of_split(self, split: Split) -> tuple[int, ...]:
        """Return the positions in `items` of one part."""
        return tuple(i for i, item in enumerate(self.items) if item.split == split)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images per part and class; in a multi-label set, per part and combination of labels."""
        pairs = Counter((item.split, shown(item.label)) for item in self.items)
        kinds = self.classes if self.task == "multi-class" else sorted({kind for _, kind in pairs})
        return {s: {k: pairs[s, k] for k in kinds} for s in SPLITS if any(pairs[s, k] for k in kinds)}


def fingerprint(items: tuple[Item, ...]) -> str:
    """Return the SHA-256 over every item's path, content, label, part and group, in the order of paths."""
    rows = sorted((i.path, i.sha256, i.label, i.split, i.group) for i in items)
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
