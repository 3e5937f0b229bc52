"""From the files that a reader found to a listing: examined, checked, grouped, and split where no part is given."""

from __future__ import annotations

import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cass_tune.config import Data
from cass_tune.data.decode import decode_rgb
from cass_tune.data.groups import identical_file_warnings, leak_warning, merge_groups
from cass_tune.data.index import Progress, examine
from cass_tune.data.listing import SPLITS, Item, Listing, Split, fingerprint
from cass_tune.data.task import Label, names
from cass_tune.data.wording import PART_NAMES, counted, listed
from cass_tune.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One file that should be an image.

    Args:
        path: relative to the data's root, with forward slashes.
        label: class name, or the names of all its labels in a multi-label set.
        split: the part it belongs to, or None where a test part is still to be drawn.
        group: the user's group (patient), or None.
    """

    path: str
    label: Label
    split: Split | None
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a reader found, before any image is opened.

    Args:
        root: folder to which the paths are relative.
        candidates: the files, in any order.
        classes: class names per given part, those without any file included; empty where a part is still to be drawn.
        problems: what the reader found wrong.
        warnings: what the user should know.
    """

    root: Path
    candidates: Sequence[Candidate]
    classes: Mapping[Split, set[str]]
    problems: Sequence[str] = ()
    warnings: Sequence[str] = ()


def data_root(data: Data) -> Path:
    """Return the absolute folder of the images.

    Raises:
        UsageError: it is not given, does not exist, is no folder, or is empty.
    """
    if not data.root:
        raise UsageError(
            f"Data set {data.name!r} needs the folder of its images, but --data.root is not given. "
            "Give --data.root DIR, or set it in cass_tune.toml."
        )
    root = Path(os.path.abspath(Path(data.root).expanduser()))
    given = f"--data.root must be a folder with the images of {data.name!r}, but {str(root)!r}"
    check = "Check the path given by --data.root or in cass_tune.toml."
    if not os.path.exists(root):
        raise UsageError(f"{given} does not exist or cannot be reached. {check}")
    if not os.path.isdir(root):
        raise UsageError(f"{given} is a file. {check}")
    try:
        empty = next(root.iterdir(), None) is None
    except OSError as error:
        raise UsageError(f"{given} cannot be read: {error.strerror}. {check}") from error
    if empty:
        raise UsageError(f"{given} is empty. {check}")
    return root


def collect(data: Data, found: Found, progress: Progress) -> Listing:
    """Examine the files that a reader found and return the listing of the usable ones.

    Args:
        data: says what to do with bad images, and how to draw a test part where none is given.
        found: the reader's result.
        progress: called with the numbers of files examined and of all files.

    Raises:
        UsageError: everything that is wrong in the reader's result, or, once that is right, in the images.
    """
    _raise([*found.problems, *_class_problems(found.candidates, found.classes)])
    usable, hashes, bad = _examine(found, progress)
    _raise([*_bad_image_problems(bad, data), *_class_problems(usable, found.classes)])
    items = _items(usable, hashes, data)
    if not found.classes:
        drawn: dict[Split, set[str]] = {
            "train": {name for c in found.candidates for name in names(c.label)},
            "test": {name for item in items for name in item.labels},
        }
        _raise(_class_problems(items, drawn))
    warnings = [
        *found.warnings,
        *_missing_class_warnings(items),
        *identical_file_warnings(items),
        leak_warning(_parts_of_group(usable), data.group_column),
    ]
    return Listing(
        name=data.name,
        items=items,
        open_image=partial(_open, found.root),
        fingerprint=fingerprint(items),
        bad_images=bad,
        warnings=tuple(text for text in warnings if text),
    )


def _raise(problems: Iterable[str]) -> None:
    problems = list(problems)
    if problems:
        raise UsageError(*problems)


def _examine(found: Found, progress: Progress) -> tuple[list[Candidate], list[str], dict[str, str]]:
    """Return the usable candidates by path, the hash of each, and the reason of each bad image."""
    candidates = sorted(found.candidates, key=lambda candidate: candidate.path)
    examined = examine([found.root / candidate.path for candidate in candidates], progress)
    usable: list[Candidate] = []
    hashes: list[str] = []
    bad: dict[str, str] = {}
    for candidate in candidates:
        outcome = examined[found.root / candidate.path]
        if outcome.error is None:
            usable.append(candidate)
            hashes.append(outcome.sha256)
        else:
            bad[candidate.path] = outcome.error
    return usable, hashes, bad


def _open(root: Path, item: Item) -> Image:
    """Decode an image that is still the one that was listed: pixels are cached under its hash."""
    content = (root / item.path).read_bytes()
    if hashlib.sha256(content).hexdigest() != item.sha256:
        raise UsageError(
            f"Image {item.path!r} in {str(root)!r} has changed since the data were listed. Leave the data as they are "
            "while a study runs, and run the same command again."
        )
    return decode_rgb(io.BytesIO(content))


def _bad_image_problems(bad: Mapping[str, str], data: Data) -> list[str]:
    if not bad or data.on_bad_image == "skip":
        return []
    reasons = [f"{path} ({reason})" for path, reason in bad.items()]
    return [
        f"Every image must decode, but {counted(len(bad), 'file does', 'files do')} not: "
        f"{listed(reasons, separator='; ')}. "
        "Mend or remove them, or give --data.on-bad-image skip to leave them out (each result lists them)."
    ]


def _class_problems(images: Iterable[Candidate | Item], classes: Mapping[Split, set[str]]) -> list[str]:
    """Return one text per broken rule about parts and classes; without given parts, only what holds for all images."""
    present: dict[Split | None, set[str]] = defaultdict(set)
    for image in images:
        present[image.split].update(names(image.label))
    if not classes:
        return _too_few_classes(present[None])
    trained = classes.get("train", set())
    return [
        *(_too_few_classes(trained) if "train" in classes else []),
        *_classes_without_training_image(trained - present["train"]),
        *_empty_parts(classes, present),
        *_unknown_classes(classes, trained),
    ]


def _too_few_classes(labels: set[str]) -> list[str]:
    if len(labels) >= 2:
        return []
    return [
        f"At least 2 classes are needed for training, but there are {len(labels)}: "
        f"{listed(sorted(labels)) or 'none'}. Add images of another class."
    ]


def _classes_without_training_image(labels: set[str]) -> list[str]:
    if not labels:
        return []
    return [
        "Every class needs a usable image in the training part, but there is none of "
        f"{listed(sorted(labels))}. Add images, or remove the class from every part."
    ]


def _empty_parts(classes: Mapping[Split, set[str]], present: Mapping[Split | None, set[str]]) -> list[str]:
    return [
        f"The {PART_NAMES[part]} part has no usable image. "
        + ("Add images, or leave the part out." if part == "val" else "Add images.")
        for part in SPLITS
        if part in classes and part != "train" and not present.get(part)
    ]


def _unknown_classes(classes: Mapping[Split, set[str]], trained: set[str]) -> list[str]:
    texts = []
    for part in SPLITS:
        unknown = sorted(classes.get(part, set()) - trained) if trained else []
        if unknown:
            names = ", ".join(f"{label!r}{did_you_mean(label, trained)}" for label in unknown[:10])
            texts.append(
                f"Unknown class in the {PART_NAMES[part]} part: {names}"
                f"{f' and {len(unknown) - 10} more' if len(unknown) > 10 else ''}. "
                f"Allowed are the classes of the training part: {listed(sorted(trained))}. Correct the class, or add "
                "training images of it."
            )
    return texts


def _items(usable: Sequence[Candidate], hashes: Sequence[str], data: Data) -> tuple[Item, ...]:
    groups = merge_groups([c.path for c in usable], hashes, [c.group for c in usable])
    held_out: set[int] = set()
    if any(candidate.split is None for candidate in usable):
        from cass_tune.data.splits import hold_out

        labels = [candidate.label for candidate in usable]
        held_out = hold_out(labels, groups, data.test_fraction, data.split_seed, "test split")
    return tuple(
        Item(
            path=candidate.path,
            sha256=sha256,
            label=candidate.label,
            split=candidate.split or ("test" if position in held_out else "train"),
            group=group,
        )
        for position, (candidate, sha256, group) in enumerate(zip(usable, hashes, groups, strict=True))
    )


def _missing_class_warnings(items: Sequence[Item]) -> list[str]:
    labels: dict[Split, set[str]] = defaultdict(set)
    for item in items:
        labels[item.split].update(item.labels)
    return [
        f"The {PART_NAMES[part]} part has no image of {listed(sorted(missing))}; its metrics say nothing about that."
        for part in SPLITS
        if labels[part] and (missing := labels["train"] - labels[part])
    ]


def _parts_of_group(candidates: Iterable[Candidate]) -> dict[str, set[str]]:
    parts: dict[str, set[str]] = defaultdict(set)
    for candidate in candidates:
        if candidate.group is not None and candidate.split is not None:
            parts[candidate.group].add(candidate.split)
    return parts
