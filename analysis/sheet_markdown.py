"""A table as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.typeset import with_signs

if TYPE_CHECKING:
    from analysis.sheet import Sheet

TIED = "†"
_SPECIAL = re.compile(r"[\\`*|<&~]|(?<![^\W_])_|_(?![^\W_])")


def escape(text: str) -> str:
    """Return text of which Markdown takes no sign as its own (GitHub's flavour)."""
    return re.sub(r"^#", r"\\#", _SPECIAL.sub(r"\\\g<0>", text))


def render(sheet: Sheet, above: Sequence[str]) -> str:
    """Return a table with its title and notes.

    Args:
        sheet: the table.
        above: lines on the study.
    """
    rows = [[escape(cell) for cell in row] for row in sheet.rows]
    for places, form in ((sheet.bold, "**{}**"), (sheet.ties, "{}" + TIED)):
        for row, header in places:
            column = sheet.rows[0].index(header)
            rows[row + 1][column] = form.format(rows[row + 1][column])
    head = "  \n".join(map(escape, [*above, *sheet.part]))
    parts = [
        head,
        f"**{escape(sheet.title)}**",
        table(rows),
        *(with_signs(note, escape, "**bold**", TIED) for note in sheet.notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return escaped cells as a table, the first row as its headers."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
