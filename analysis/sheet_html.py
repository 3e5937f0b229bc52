"""A table as HTML: semantic, escaped, without scripts, its trials linked."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from analysis.typeset import is_number, minus, plus_minus, with_signs

if TYPE_CHECKING:
    from analysis.sheet import Sheet

BEST, TIED = "<strong>bold</strong>", "<sup>†</sup>"
STYLE = """\
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1a1a1a; }
figure.sheet { margin: 0; overflow-x: auto; }
figure.sheet table { border-collapse: collapse; border-block: 2px solid; font-variant-numeric: tabular-nums; }
figure.sheet caption { font-weight: 600; padding-bottom: .5rem; text-align: start; }
figure.sheet thead { border-bottom: 1px solid; }
figure.sheet th, figure.sheet td { padding: .2rem .7rem; text-align: start; vertical-align: baseline; }
figure.sheet th { font-weight: 500; }
figure.sheet .number { text-align: end; white-space: nowrap; }
figure.sheet sup { line-height: 0; }
figure.sheet .trials a { font-family: monospace; }
figure.sheet .note { color: #555; font-size: .85em; margin: .4rem 0; max-width: 60rem; }
"""
"""How a page shows a table; a report has a style of its own for the same classes."""


def render(sheet: Sheet, trials: str) -> str:
    """Return a table as a ``figure``.

    Classes: ``sheet`` of the figure, ``number`` of cells, ``trials`` of the last column, ``note`` of paragraphs.

    Args:
        sheet: the table.
        trials: where the trials' folders are.
    """
    headers = "".join(f'<th scope="col"{_kind(sheet, c)}>{_text(h)}</th>' for c, h in enumerate(sheet.shown[0]))
    headers += '<th scope="col">trials</th>' if sheet.trials else ""
    part = "".join(f" <small>{_text(line)}</small>" for line in sheet.part)
    return "\n".join(
        [
            f'<figure class="sheet" id="{escape(sheet.name)}">',
            "<table>",
            f"<caption>{_text(sheet.title)}{part}</caption>",
            f"<thead><tr>{headers}</tr></thead>",
            "<tbody>",
            *(_row(sheet, number, trials) for number in range(len(sheet.shown) - 1)),
            "</tbody>",
            "</table>",
            *(
                f'<p class="note">{with_signs(note, _text, "<strong>bold</strong>", TIED)}</p>'
                for note in sheet.shown_notes
            ),
            "</figure>",
        ]
    )


def page(sheet: Sheet, trials: str) -> str:
    """Return a table as a whole page, with its lines on the study; arguments as in `render`."""
    title = escape(f"{sheet.subject}: {sheet.title}")
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    lines = f"<p>{'<br>'.join(map(_text, sheet.head))}</p>\n"
    start = f'<!doctype html>\n<html lang="en">\n<head>{meta}<title>{title}</title>\n<style>\n{STYLE}</style></head>'
    return f"{start}\n<body>\n{lines}{render(sheet, trials)}\n</body>\n</html>\n"


def _row(sheet: Sheet, number: int, trials: str) -> str:
    cells = [_cell(sheet, number, column) for column in range(len(sheet.shown[0]))]
    cells += [_links(sheet.trials[number].split(), trials)] if sheet.trials else []
    return f"<tr>{''.join(cells)}</tr>"


def _cell(sheet: Sheet, number: int, column: int) -> str:
    place = (number, sheet.shown[0][column])
    text = _text(sheet.shown[number + 1][column])
    text = f"<strong>{text}</strong>" if place in sheet.bold else text
    text += TIED if place in sheet.ties else ""
    return f'<th scope="row">{text}</th>' if column == 0 else f"<td{_kind(sheet, column)}>{text}</td>"


def _kind(sheet: Sheet, column: int) -> str:
    is_numeric = column > 0 and len(sheet.shown) > 1 and all(is_number(row[column]) for row in sheet.shown[1:])
    return ' class="number"' if is_numeric else ""


def _links(ids: list[str], trials: str) -> str:
    if not ids:
        return '<td class="trials"></td>'
    links = " ".join(f'<a href="{escape(trials)}/{escape(name)}/">{escape(name)}</a>' for name in ids)
    return f'<td class="trials"><details><summary>{len(ids)}</summary>{links}</details></td>'


def _text(text: str) -> str:
    text = escape(plus_minus(text))
    return "\N{EN DASH}" if text == "-" else minus(text, "\N{MINUS SIGN}")
