"""Splits and label fractions: who is held out, and who is labelled."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cass_tune.config import Data, Trial
from cass_tune.data.listing import Listing
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
        warnings: classes whose label fraction was raised to one image.
    """

    pretrain: tuple[int, ...]
    labelled: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    warnings: tuple[str, ...] = ()


def hold_out(labels: Sequence[str], groups: Sequence[str], fraction: float, seed: int, stream: str) -> set[int]:
    """Draw a stratified part of whole groups.

    A group counts for the class that most of its images have. Per class, groups are taken in random order until the
    share is reached as nearly as whole groups allow; at least one group is taken and at least one is left.

    Args:
        labels: class of each image.
        groups: group of each image.
        fraction: share to hold out, above 0 and below 1.
        seed: of the draw.
        stream: name of the draw, so that several draws with one seed differ.

    Returns:
        Positions held out.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group].append(position)
    by_class: dict[str, list[str]] = defaultdict(list)
    for group in sorted(members):
        most_common = sorted(Counter(labels[i] for i in members[group]).items(), key=lambda pair: (-pair[1], pair[0]))
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


def _by_class(listing: Listing, positions: Sequence[int]) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {label: [] for label in listing.classes}
    for position in positions:
        members[listing.items[position].label].append(position)
    return members


def training_and_validation(listing: Listing, data: Data) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the training positions without validation, and the validation positions (the same for every trial)."""
    train, given = listing.of_split("train"), listing.of_split("val")
    if given:
        return train, given
    items = [listing.items[i] for i in train]
    labels, groups = [i.label for i in items], [i.group for i in items]
    held = hold_out(labels, groups, data.validation_fraction, data.split_seed, "validation split")
    validation = tuple(position for i, position in enumerate(train) if i in held)
    return tuple(position for i, position in enumerate(train) if i not in held), validation


def fraction_of(count: int, fraction: float) -> int:
    """Return max(1, round(fraction * count)), rounding halves up."""
    return max(1, math.floor(fraction * count + 0.5))


def split(listing: Listing, data: Data, seed: int) -> Parts:
    """Return the parts of one trial.

    Per class, one permutation by the seed orders the training images, and a label fraction takes the first of them: the
    images of 1 % lie inside those of 10 %. Pretraining takes the first of its own permutation, which ignores labels.

    Raises:
        UsageError: a class has no training image left.
    """
    training, validation = training_and_validation(listing, data)
    labelled: list[int] = []
    raised: list[str] = []
    for number, (label, members) in enumerate(_by_class(listing, training).items()):
        if not members:
            raise UsageError(
                f"Class {label!r} has no training image beside validation (--data.validation-fraction "
                f"{data.validation_fraction}). Every class needs at least two training images."
            )
        order = generator(seed, "labels", item=number).permutation(len(members))
        labelled.extend(members[i] for i in order[: fraction_of(len(members), data.label_fraction)])
        if data.label_fraction * len(members) < 0.5:
            raised.append(label)
    order = generator(seed, "pretrain/images").permutation(len(training))
    pretrain = [training[i] for i in order[: fraction_of(len(training), data.pretrain_fraction)]]
    warning = f"--data.label-fraction {data.label_fraction:g} is under half an image; took one of: {', '.join(raised)}."
    return Parts(
        pretrain=tuple(sorted(pretrain)),
        labelled=tuple(sorted(labelled)),
        validation=validation,
        test=listing.of_split("test"),
        warnings=(warning,) if raised else (),
    )


def check_batch(trial: Trial, pretrain_images: int) -> None:
    """Raise a UsageError when a pretraining batch is larger than the images that there are for it."""
    pretrain = trial.pretrain
    if pretrain.method != "none" and pretrain.batch_size > pretrain_images:
        raise UsageError(
            f"--pretrain.batch-size {pretrain.batch_size} is larger than the {pretrain_images} pretraining images "
            "(training part without validation, times --data.pretrain-fraction). Give at most that, or more images."
        )
