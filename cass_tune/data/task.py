"""What is asked about an image: which one of several classes it has, or which of several labels (maybe none)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

Label: TypeAlias = str | tuple[str, ...]
"""The class of an image; of a multi-label set the names of its labels in alphabetical order, maybe none."""

Task = Literal["multi-class", "multi-label"]
"""`multi-class`: one class for each image, two classes included; `multi-label`: a yes or no for each label."""

SEPARATOR = "|"
"""Between the labels of an image where they are shown as text."""


def names(label: Label) -> tuple[str, ...]:
    """Return the class of an image alone, or its labels."""
    return (label,) if isinstance(label, str) else label


def shown(label: Label) -> str:
    """Return an image's class or labels as text, for messages and figures."""
    return SEPARATOR.join(names(label)) or "no label"


def encode(label: Label, classes: Sequence[str]) -> int | list[int]:
    """Return the position of an image's class, or for each label 1 where the image has it and 0 where not."""
    return classes.index(label) if isinstance(label, str) else [int(name in label) for name in classes]
