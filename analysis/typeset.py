"""What printed tables have in common: which cells are numbers, and their minus signs."""

from __future__ import annotations

import re
from collections.abc import Callable

_NUMBER = re.compile(r"(-/|<)?[+-]?\d[^A-Za-z]*( ?(h|min|s|n=\d+|\(n=1[^)]*\)))*[*#]*|-|")
_MINUS = re.compile(r"(?<![\w)\]])-(?=[\d.])")


def is_number(cell: str) -> bool:
    """Return whether a cell holds a number, perhaps with an interval, unit or sign, or nothing."""
    return _NUMBER.fullmatch(cell) is not None


def plus_minus(text: str) -> str:
    """Return text with a sign for ``+-``, and space around it between numbers."""
    return re.sub(r" ?\+-(?=\d)", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}", text).replace("+-", "±")


def minus(text: str, sign: str) -> str:
    """Return text with another sign before negative numbers."""
    return _MINUS.sub(lambda _: sign, text)


def with_signs(note: str, escape: Callable[[str], str], best: str, tied: str) -> str:
    """Return an escaped note with the signs of the best and of the tied cells for ``{best}`` and ``{tied}``."""
    parts = (tied.join(map(escape, part.split("{tied}"))) for part in note.split("{best}"))
    return best.join(parts)
