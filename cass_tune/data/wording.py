"""Wording shared by the messages about a data set: parts of the set, counts and shortened lists."""

from __future__ import annotations

from collections.abc import Sequence

from cass_tune.data.listing import Split

PART_NAMES: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}
"""How a message calls each part."""

PART_SYNONYMS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""How a folder or a table may call each part, in any case."""


def part_called(name: str) -> Split | None:
    """Return the part that a folder's or table's word stands for, or None."""
    word = name.casefold()
    return next((part for part, words in PART_SYNONYMS.items() if word in words), None)


def part_words() -> str:
    """Return the allowed words for the parts, for messages."""
    return ", ".join("|".join(words) for words in PART_SYNONYMS.values())


def counted(count: int, singular: str, plural: str = "") -> str:
    """Return for example ``"1 image"`` or ``"2 images"``."""
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def listed(texts: Sequence[object], limit: int = 10, separator: str = ", ") -> str:
    """Return the first `limit` texts, and how many more there are."""
    shown = separator.join(str(text) for text in texts[:limit])
    return shown if len(texts) <= limit else f"{shown}{separator}and {len(texts) - limit} more"
