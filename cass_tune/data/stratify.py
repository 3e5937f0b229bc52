"""Parts with the same share of every label: iterative stratification (Sechidis et al. 2011, algorithm 1)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from cass_tune.data.task import Label, names
from cass_tune.randomness import generator

_WITHOUT = ""
"""Stands for what images without any label have in common, so that these are shared out, too."""


def iterative_stratification(
    labels: Sequence[Label], groups: Sequence[Hashable], shares: Sequence[float], seed: int, stream: str
) -> list[int]:
    """Return the part of each image; images of one group are in one part.

    Again and again the label is taken of which the fewest groups are left, and each of them goes to the part that lacks
    most images with that label; of equal ones to the one that lacks most images, of equal ones to the first. Groups are
    taken from the largest to the smallest, of equal ones in random order.

    Args:
        labels: class, or all labels, of each image.
        groups: group of each image.
        shares: of each part, with a sum of 1.
        seed: of the draw.
        stream: name of the draw, so that several draws with one seed differ.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group].append(position)
    units = list(members.values())
    has = [Counter(name for i in unit for name in names(labels[i]) or (_WITHOUT,)) for unit in units]
    order = generator(seed, stream).permutation(len(units)).tolist()
    waiting = sorted(order, key=lambda unit: -len(units[unit]))
    totals = sum(has, Counter[str]())
    wanted = [{name: share * count for name, count in totals.items()} for share in shares]
    room = [share * len(labels) for share in shares]
    parts = [0] * len(labels)
    left = Counter(name for unit in has for name in unit)
    while waiting:
        rarest = min((name for name in left if left[name]), key=lambda name: (left[name], name))
        for unit in [unit for unit in waiting if rarest in has[unit]]:
            part = max(range(len(shares)), key=lambda part: (wanted[part].get(rarest, 0.0), room[part], -part))
            for position in units[unit]:
                parts[position] = part
            for name, count in has[unit].items():
                wanted[part][name] -= count
                left[name] -= 1
            room[part] -= len(units[unit])
        waiting = [unit for unit in waiting if rarest not in has[unit]]
    return parts


def rarest_label(labels: Sequence[Label]) -> list[str]:
    """Return for each image the one of its labels that the fewest images have, an empty text where it has none."""
    counts = Counter(name for label in labels for name in names(label))
    return [min(names(label), key=lambda name: (counts[name], name), default=_WITHOUT) for label in labels]
