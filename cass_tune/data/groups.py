"""Images that belong together: identical files and images of one patient, and what that says about leaks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

from cass_tune.data.listing import SPLITS, Item
from cass_tune.data.task import shown
from cass_tune.data.wording import PART_NAMES, counted, listed

_SHOWN = 5


class _UnionFind:
    def __init__(self) -> None:
        self._parent: dict[Hashable, Hashable] = {}

    def root(self, node: Hashable) -> Hashable:
        """Return the node that stands for the whole set of this one."""
        self._parent.setdefault(node, node)
        while self._parent[node] != node:
            self._parent[node] = self._parent[self._parent[node]]
            node = self._parent[node]
        return node

    def join(self, one: Hashable, other: Hashable) -> None:
        self._parent[self.root(one)] = self.root(other)


def merge_groups(paths: Sequence[str], hashes: Sequence[str], given: Sequence[str | None]) -> list[str]:
    """Return the group of each image: identical files and images of one given group are together, transitively.

    Args:
        paths: of each image; the group of one that is alone.
        hashes: SHA-256 of each image's file.
        given: the user's group (patient) of each image, or None.

    Returns:
        Per image, ``group:<name>`` (the alphabetically first of the given groups it was merged from),
        ``sha256:<first 16 digits>`` for identical files without a given group, or the image's own path.
    """
    sets = _UnionFind()
    for path, sha256, name in zip(paths, hashes, given, strict=True):
        sets.join(("path", path), ("sha256", sha256))
        if name is not None:
            sets.join(("path", path), ("given", name))
    members: dict[Hashable, list[int]] = defaultdict(list)
    for position, path in enumerate(paths):
        members[sets.root(("path", path))].append(position)
    groups = [""] * len(paths)
    for positions in members.values():
        name = _group_name(positions, paths, hashes, given)
        for position in positions:
            groups[position] = name
    return groups


def _group_name(
    positions: Sequence[int], paths: Sequence[str], hashes: Sequence[str], given: Sequence[str | None]
) -> str:
    names = [name for i in positions if (name := given[i]) is not None]
    if names:
        return f"group:{min(names)}"
    first = positions[0]
    return paths[first] if len(positions) == 1 else f"sha256:{hashes[first][:16]}"


def identical_file_warnings(items: Iterable[Item]) -> list[str]:
    """Return what to tell about byte-identical files: inside a part, across parts, and with different labels."""
    by_hash: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_hash[item.sha256].append(item)
    sets = [same for same in by_hash.values() if len(same) > 1]
    return [text for text in (*_inside_parts(sets), _across_parts(sets), _other_labels(sets)) if text]


def _inside_parts(sets: Sequence[Sequence[Item]]) -> list[str]:
    texts = []
    for part in SPLITS:
        counts = [n for same in sets if (n := sum(item.split == part for item in same)) > 1]
        if counts:
            texts.append(
                f"{counted(len(counts), 'set')} of identical files inside the {PART_NAMES[part]} part "
                f"({counted(sum(counts), 'image')}); they are kept, and stay together in every split made here."
            )
    return texts


def _across_parts(sets: Sequence[Sequence[Item]]) -> str:
    pairs = [pair for same in sets if (pair := _first_of_two_parts(same))]
    if not pairs:
        return ""
    shown = listed([f"{one.path} = {other.path}" for one, other in pairs], limit=_SHOWN, separator="; ")
    return (
        f"{counted(len(pairs), 'set')} of identical files in more than one part, so that a test may know an image from "
        f"training: {shown}. They are kept as the set has them, unless --data.leaks drop leaves them out of training."
    )


def _first_of_two_parts(same: Sequence[Item]) -> tuple[Item, Item] | None:
    first: dict[str, Item] = {}
    for item in same:
        first.setdefault(item.split, item)
    ordered = [first[part] for part in SPLITS if part in first]
    return (ordered[0], ordered[1]) if len(ordered) > 1 else None


def _other_labels(sets: Sequence[Sequence[Item]]) -> str:
    clashes = [same for same in sets if len({item.label for item in same}) > 1]
    if not clashes:
        return ""
    texts = [" = ".join(f"{item.path} ({shown(item.label)})" for item in same) for same in clashes]
    return (
        f"{counted(len(clashes), 'set')} of identical files with different labels, of which at most one can be right: "
        f"{listed(texts, limit=_SHOWN, separator='; ')}."
    )


def leak_warning(parts_of_group: Mapping[str, set[str]], column: str) -> str:
    """Return what to tell about the user's groups that lie in several given parts, or an empty text."""
    leaking = sorted(group for group, parts in parts_of_group.items() if len(parts) > 1)
    if not leaking:
        return ""
    return (
        f"{len(leaking)} of {counted(len(parts_of_group), 'group')} in column {column!r} lie in more than one part "
        f"(a leak: the test may know the patient from training): {listed(leaking, limit=_SHOWN)}."
    )
