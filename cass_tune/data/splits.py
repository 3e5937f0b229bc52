"""Splits and label fractions: who is held out, and who is labelled."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cass_tune.config import Data, Trial
from cass_tune.data.listing import Listing
from cass_tune.data.listings import Listings
from cass_tune.data.stratify import iterative_stratification, rarest_label
from cass_tune.data.task import Label
from cass_tune.data.wording import counted
from cass_tune.errors import UsageError
from cass_tune.randomness import generator


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Positions in the listing's items, each part sorted.

    Args:
        pretrain: images of pretraining, labels unused.
        labelled: images of finetuning.
        validation: never pretrained on, never finetuned on, never reduced.
        test: the whole test part.
        warnings: what was done beside what was asked for.
    """

    pretrain: tuple[int, ...]
    labelled: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    warnings: tuple[str, ...] = ()


def hold_out(labels: Sequence[Label], groups: Sequence[str], fraction: float, seed: int, stream: str) -> set[int]:
    """Draw a stratified part of whole groups.

    A group counts for the class that most of its images have. Per class, groups are taken in random order until the
    share is reached as nearly as whole groups allow; at least one group is taken and at least one is left. In a
    multi-label set, see `iterative_stratification`.

    Args:
        labels: class, or all labels, of each image.
        groups: group of each image.
        fraction: share to hold out, above 0 and below 1.
        seed: of the draw.
        stream: name of the draw, so that several draws with one seed differ.

    Returns:
        Positions held out.
    """
    names = [label for label in labels if isinstance(label, str)]
    if len(names) < len(labels):
        parts = iterative_stratification(labels, groups, (1 - fraction, fraction), seed, stream)
        return {position for position, part in enumerate(parts) if part == 1}
    members: dict[str, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group].append(position)
    by_class: dict[str, list[str]] = defaultdict(list)
    for group in sorted(members):
        most_common = sorted(Counter(names[i] for i in members[group]).items(), key=lambda pair: (-pair[1], pair[0]))
        by_class[most_common[0][0]].append(group)
    held: set[int] = set()
    for number, label in enumerate(sorted(by_class)):
        order = generator(seed, stream, item=number).permutation(len(by_class[label]))
        ordered = [members[by_class[label][i]] for i in order]
        held.update(_take(ordered, fraction))
    return held


def _take(groups: list[list[int]], fraction: float) -> list[int]:
    target = fraction * sum(len(group) for group in groups)
    taken: list[int] = []
    for number, group in enumerate(groups[:-1]):  # one group always stays
        if number and abs(len(taken) + len(group) - target) > abs(len(taken) - target):
            break
        taken.extend(group)
    return taken


def training_and_validation(listing: Listing, data: Data) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the training positions without validation, and the validation positions (the same for every trial).

    Of several folds one is the validation part, and the others are the training part; a validation part that the set
    brings is then a part of what the folds are made of. Leaks that are dropped are images of the training part alone.
    """
    training, validation = _training_and_validation(listing, data)
    leaking = _leaking(listing, training, validation) if data.leaks == "drop" else set[int]()
    return tuple(position for position in training if position not in leaking), validation


def _training_and_validation(listing: Listing, data: Data) -> tuple[tuple[int, ...], tuple[int, ...]]:
    train, given = listing.of_split("train"), listing.of_split("val")
    if given and not data.folds:
        return train, given
    pool = sorted([*train, *given])
    items = [listing.items[i] for i in pool]
    labels, groups = [i.label for i in items], [i.group for i in items]
    if data.folds:
        folds = iterative_stratification(labels, groups, [1 / data.folds] * data.folds, data.split_seed, "folds")
        held = {position for position, fold in enumerate(folds) if fold + 1 == data.fold}
    else:
        held = hold_out(labels, groups, data.validation_fraction, data.split_seed, "validation split")
    validation = tuple(position for i, position in enumerate(pool) if i in held)
    return tuple(position for i, position in enumerate(pool) if i not in held), validation


def _leaking(listing: Listing, training: Sequence[int], validation: Sequence[int]) -> set[int]:
    """Return the training images that have their group (patient, identical files) in another part, too."""
    elsewhere = {listing.items[i].group for i in (*validation, *listing.of_split("test"))}
    return {position for position in training if listing.items[position].group in elsewhere}


def fraction_of(count: int, fraction: float) -> int:
    """Return max(1, round(fraction * count)), rounding halves up."""
    return max(1, math.floor(fraction * count + 0.5))


def split(listing: Listing, data: Data, seed: int) -> Parts:
    """Return the parts of one trial.

    Per class, one permutation by the seed orders the training images, and a label fraction takes the first of them: the
    images of 1 % lie inside those of 10 %. In a multi-label set an image counts for the rarest of its labels, and one
    image of every label comes first. Pretraining takes the first of its own permutation, which ignores labels.

    Raises:
        UsageError: a class has no training image left, or there is no image for validation.
    """
    training, validation = training_and_validation(listing, data)
    _check_parts(listing, training, validation, data)
    labelled: list[int] = []
    raised: list[str] = []
    for number, (label, members, first) in enumerate(_strata(listing, training, seed)):
        order = generator(seed, "labels", item=number).permutation(len(members))
        ordered = sorted((members[i] for i in order), key=lambda position: position not in first)
        labelled.extend(ordered[: max(len(first), fraction_of(len(members), data.label_fraction))])
        if data.label_fraction * len(members) < 0.5:
            raised.append(label)
    order = generator(seed, "pretrain/images").permutation(len(training))
    pretrain = [training[i] for i in order[: fraction_of(len(training), data.pretrain_fraction)]]
    return Parts(
        pretrain=tuple(sorted(pretrain)),
        labelled=tuple(sorted(labelled)),
        validation=validation,
        test=listing.of_split("test"),
        warnings=(*_dropped(listing, training, validation, data), *_raised(raised, data)),
    )


def _check_parts(listing: Listing, training: Sequence[int], validation: Sequence[int], data: Data) -> None:
    held = f"--data.folds {data.folds}" if data.folds else f"--data.validation-fraction {data.validation_fraction}"
    if not validation:
        fold = f"{held} --data.fold {data.fold}" if data.folds else held
        raise UsageError(
            f"The validation part ({fold}) has no image: {len(training)} training images in too few groups (patients, "
            f"identical files). Give {'fewer folds, or ' if data.folds else ''}more images."
        )
    there = {name for position in training for name in listing.items[position].labels}
    missing = [repr(name) for name in listing.classes if name not in there]
    if not missing:
        return
    dropped = " and without what --data.leaks drop leaves out" if data.leaks == "drop" else ""
    raise UsageError(
        f"Class {', '.join(missing)} has no training image beside validation ({held}){dropped}. "
        "Every class needs at least two training images."
    )


_NO_LABEL = "no label"


def _strata(listing: Listing, training: Sequence[int], seed: int) -> Iterator[tuple[str, list[int], set[int]]]:
    """Yield each class with its images; of several labels each with the images of which it is the rarest, and those of
    them that come first: one of every label, whichever stratum it lies in."""
    labels = [listing.items[position].label for position in training]
    names = listing.classes
    if listing.task == "multi-label":
        chosen = _one_of_each(listing, training, seed)
        kinds, names = [name or _NO_LABEL for name in rarest_label(labels)], (*names, _NO_LABEL)
    else:
        chosen, kinds = set[int](), [str(label) for label in labels]
    members: dict[str, list[int]] = {name: [] for name in names}
    for position, kind in zip(training, kinds, strict=True):
        members[kind].append(position)
    for name, positions in members.items():
        if positions:
            yield name, positions, chosen.intersection(positions)


def _one_of_each(listing: Listing, training: Sequence[int], seed: int) -> set[int]:
    """Return for every label a random one of the images that have it."""
    order = generator(seed, "one of each label").permutation(len(training))
    first: dict[str, int] = {}
    for position in (training[i] for i in order):
        for name in listing.items[position].labels:
            first.setdefault(name, position)
    return set(first.values())


def _dropped(listing: Listing, training: Sequence[int], validation: Sequence[int], data: Data) -> Iterator[str]:
    used = len(training) + len(validation) + len(listing.of_split("test"))
    if used < len(listing.items):
        images = counted(len(listing.items) - used, "training image")
        yield f"--data.leaks drop leaves out {images} whose group (patient, identical files) lies in another part, too."


def _raised(labels: Sequence[str], data: Data) -> Iterator[str]:
    if labels:
        fraction = f"--data.label-fraction {data.label_fraction:g}"
        yield f"{fraction} is under half an image; took one of: {', '.join(labels)}."


def left_out(listing: Listing, data: Data) -> tuple[str, ...]:
    """Return what is to be told about the images that a split leaves out; nothing where there are none."""
    return tuple(_dropped(listing, *training_and_validation(listing, data), data))


SPLIT_OPTIONS = ("validation_fraction", "test_fraction", "split_seed", "folds", "fold", "leaks")
"""Fields of a trial's data on which its parts depend, beside the listing."""


def split_record(listing: Listing, data: Data) -> dict[str, Any]:
    """Return which image is in which part, whatever a trial's seed and label fraction.

    Args:
        listing: the set.
        data: a trial's options.
    """
    training, validation = training_and_validation(listing, data)
    members = {"training": training, "validation": validation, "test": listing.of_split("test")}
    return {
        "data": listing.name,
        "fingerprint": listing.fingerprint,
        "options": {name: getattr(data, name) for name in SPLIT_OPTIONS},
        "parts": {name: [listing.items[i].path for i in positions] for name, positions in members.items()},
    }


def split_digest(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what is in a `split_record` of images and parts, 64 hexadecimal digits."""
    kept = {name: record[name] for name in ("fingerprint", "parts")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def distinct_splits(listings: Listings, sections: Iterable[Data]) -> dict[str, Data]:
    """Return the digest of every distinct split, in order, with the options that first give it.

    Args:
        listings: the set, as each of the trials has it.
        sections: options of trials.
    """
    options = {
        (listings(data).fingerprint, *(getattr(data, name) for name in SPLIT_OPTIONS)): data for data in sections
    }
    found: dict[str, Data] = {}
    for data in options.values():
        found.setdefault(split_digest(split_record(listings(data), data)), data)
    return found


def check_batch(trial: Trial, pretrain_images: int) -> None:
    """Raise a UsageError when a pretraining batch is larger than the images that there are for it."""
    pretrain = trial.pretrain
    if pretrain.method != "none" and pretrain.batch_size > pretrain_images:
        raise UsageError(
            f"--pretrain.batch-size {pretrain.batch_size} is larger than the {pretrain_images} pretraining images "
            "(training part without validation, times --data.pretrain-fraction). Give at most that, or more images."
        )
