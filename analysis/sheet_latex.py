r"""A table as LaTeX that compiles with nothing but ``\usepackage{booktabs}``, whatever the names in it."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from analysis.typeset import is_number, minus, plus_minus, with_signs

if TYPE_CHECKING:
    from analysis.sheet import Sheet

TIED = r"$^{\dagger}$"
_SIGNS = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{NO-BREAK SPACE}": r"\,",
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "°": r"$^{\circ}$",
    "µ": r"$\mu$",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
    **{
        letter: f"\\{name}{{}}"
        for letter, name in zip("ßæÆøØłŁœŒ", ["ss", "ae", "AE", "o", "O", "l", "L", "oe", "OE"], strict=True)
    },
}
_ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0308\u0304\u0307\u0306\u030a\u030b\u030c\u0327", "`'^~\"=.urHvc", strict=True)
)
"""Command of a combining accent: grave, acute, circumflex, tilde, diaeresis, macron, dot, breve, ring, and so on."""

_SIZES = {r"\small": (4.7, 4), r"\footnotesize": (4.3, 3), r"\scriptsize": (4.0, 3), r"\tiny": (3.4, 2)}
"""Widths of a digit in Computer Modern, and the space on each side of a column that goes with it, in points."""
_TEXT_WIDTH_PT = 345
"""Of an article at 10 pt."""


def escape(text: str) -> str:
    r"""Return text as LaTeX, its accents as commands, and a letter of another script as its code, like ``U+65E5``."""
    found = (_SIGNS.get(sign) or (sign if sign.isascii() else _letter(sign)) for sign in plus_minus(text))
    return minus("".join(found), "$-$")


def _letter(sign: str) -> str:
    base, *marks = unicodedata.normalize("NFD", sign)
    if base.isascii() and len(marks) == 1 and marks[0] in _ACCENTS:
        return f"\\{_ACCENTS[marks[0]]}{{{base}}}"
    return f"U+{ord(sign):04X}"


def render(sheet: Sheet) -> str:
    """Return a table with its caption and notes; the lines on the study are comments above it."""
    rows = [[_cell(cell) for cell in row] for row in sheet.shown]
    _mark(rows, sheet)
    caption = ". ".join(escape(text.rstrip(".")) for text in [sheet.subject, sheet.title, *map(_line, sheet.part)])
    lines = [
        *(f"% {_line(line)}" for line in [*sheet.head, *sheet.part]),
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{caption}.}}",
        f"\\label{{tab:{re.sub('[^A-Za-z0-9]', '-', sheet.name)}}}",
        r"\par\smallskip",
        *_tabular(sheet, rows),
        *_below(sheet.shown_notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    r"""Return a cell's text; a sign that ``\\`` would take as its argument is protected."""
    found = "--" if text == "-" else escape(text)
    return f"{{}}{found}" if found.startswith(("[", "*")) else found


def _mark(rows: list[list[str]], sheet: Sheet) -> None:
    headers = sheet.shown[0]
    for places, form in ((sheet.bold, "\\textbf{%s}"), (sheet.ties, "%s" + TIED)):
        for row, header in places:
            column = headers.index(header)
            rows[row + 1][column] = form % rows[row + 1][column]


def _tabular(sheet: Sheet, rows: list[list[str]]) -> list[str]:
    body = list(zip(*sheet.shown[1:], strict=True))
    kinds = "".join("r" if n and all(map(is_number, cells)) else "l" for n, cells in enumerate(body))
    size, space = _size(sheet.shown)
    head, *cells = (" & ".join(row) + r" \\" for row in rows)
    return [
        size,
        f"\\setlength{{\\tabcolsep}}{{{space}pt}}",
        f"\\begin{{tabular}}{{{kinds or 'l' * len(rows[0])}}}",
        *[r"\toprule", head, r"\midrule", *cells, r"\bottomrule"],
        r"\end{tabular}",
    ]


def _size(rows: list[list[str]]) -> tuple[str, int]:
    """Return the largest size of letters with which the columns fit the text width, and the space that goes with it."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    fits = {
        size: sum(widths) * digit + 2 * len(widths) * space <= _TEXT_WIDTH_PT for size, (digit, space) in _SIZES.items()
    }
    size = next((size for size, does in fits.items() if does), list(_SIZES)[-1])
    return size, _SIZES[size][1]


def _below(notes: list[str]) -> list[str]:
    if not notes:
        return []
    paragraphs = [with_signs(_line(note), escape, r"\textbf{bold}", TIED) + r"\par" for note in notes]
    return [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize\raggedright", *paragraphs, r"\end{minipage}"]
