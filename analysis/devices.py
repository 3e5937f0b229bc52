"""Kinds of devices: what a trial or a pretraining ran on, as one word per set of kinds."""

from __future__ import annotations

from collections.abc import Iterable

SEPARATOR = "; "
"""Between the kinds of one trial (`analysis.results`, column ``devices``)."""
UNKNOWN = "unknown"
"""The kind of what was computed on a device that is not recorded."""


def kind_of(devices: Iterable[str]) -> str:
    """Return the kinds in a fixed order as one text; more than one where the work crossed kinds."""
    return SEPARATOR.join(sorted(set(devices))) or UNKNOWN


def is_crossed(kind: str) -> bool:
    """Return whether more than one kind worked on it."""
    return SEPARATOR in kind


def numbers(kinds: Iterable[str]) -> dict[str, str]:
    """Return a short name of every kind, for example ``1``, and ``1+2`` where the work crossed kinds."""
    kinds = list(kinds)
    single = sorted({name for kind in kinds for name in kind.split(SEPARATOR)})
    short = {name: str(number) for number, name in enumerate(single, 1)}
    return {kind: "+".join(short[name] for name in kind.split(SEPARATOR)) for kind in [*single, *kinds]}
