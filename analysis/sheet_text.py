"""A table as plain ASCII text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.format import aligned, wrap
from analysis.typeset import with_signs

if TYPE_CHECKING:
    from analysis.sheet import Rows, Sheet

BEST, TIED = "^", "~"
"""Behind the best cell of a comparison, and behind those that share its place."""


def render(sheet: Sheet, without: frozenset[str]) -> str:
    """Return a table with its title and notes, but for some notes; its lines on the study are left out."""
    rows = [list(row) for row in sheet.shown]
    mark(rows, sheet)
    told = [wrap(with_signs(note, str, BEST, TIED)) for note in sheet.shown_notes if note not in without]
    return "\n".join([*sheet.part, sheet.title, aligned(rows), *told])


def mark(rows: Rows, sheet: Sheet) -> None:
    """Put the signs of the best cells into a table's text."""
    for places, sign in ((sheet.bold, BEST), (sheet.ties, TIED)):
        for row, header in places:
            rows[row + 1][rows[0].index(header)] += sign
