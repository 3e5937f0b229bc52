"""A study's tables, as text for the terminal, CSV numbers, Markdown, LaTeX and HTML.

Run it with ``python -m analysis.tables STUDY [--results DIR]``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis import search_report
from analysis.cells import f1_table
from analysis.command import run
from analysis.comparison import comparison
from analysis.notes import unfinished
from analysis.results import load, read_plans, save
from analysis.search import is_search
from analysis.sheet import Sheet
from analysis.spending import spending_table
from analysis.study_sheets import study_sheets
from analysis.timing import timing_table
from cass_tune.results import StudyFolder

__all__ = ["f1_table", "main", "render", "report", "sheets", "spending_table", "timing_table"]

DETAIL_ROWS = 40
"""A table of details with more rows is left to the files."""


def sheets(
    study: StudyFolder, published: Mapping[str, object] | None = None, frame: pd.DataFrame | None = None
) -> list[Sheet]:
    """Return all tables of a study or a search, in the order in which they are read, writing nothing.

    Args:
        study: the study's folder.
        published: which published rows lie beside it (`analysis.published.select`).
        frame: of `analysis.results.load`, where it is loaded already.

    Raises:
        UsageError: nothing was asked for, or a record is damaged.
    """
    frame = load(study) if frame is None else frame
    if is_search(read_plans(study)):
        return search_report.sheets(study, frame)
    return study_sheets(study, frame, published or {})


def render(study: StudyFolder, published: Mapping[str, object] | None = None) -> str:
    """Return a study's tables and notes as text for a terminal, writing nothing; arguments as in `sheets`."""
    frame = load(study)
    return text_of(study, sheets(study, published, frame), frame, published)


def text_of(
    study: StudyFolder, found: list[Sheet], frame: pd.DataFrame, published: Mapping[str, object] | None = None
) -> str:
    """Return tables that have been made already as text for a terminal.

    Args:
        study: the study's folder.
        found: of `sheets`.
        frame: of `analysis.results.load`.
        published: which published rows lie beside it.
    """
    if is_search(read_plans(study)):
        return search_report.render(study, found, frame)
    return _render(found, frame, published or {})


def report(study: StudyFolder, published: Mapping[str, object] | None = None) -> str:
    """Write results.parquet, index.csv and the tables of a study or a search, and return its text."""
    frame = save(study)
    found = sheets(study, published, frame)
    write(study, found)
    return f"{text_of(study, found, frame, published)}\n\nwritten to {study.tables}"


def write(study: StudyFolder, found: list[Sheet]) -> None:
    """Write tables as CSV, Markdown, LaTeX and HTML among those of a study."""
    for sheet in found:
        sheet.write(study.tables)


def _render(found: list[Sheet], frame: pd.DataFrame, published: Mapping[str, object]) -> str:
    """Return the tables as text; a note that several of them have stands below the first."""
    shown = [sheet for sheet in found if not sheet.is_empty and not _is_long(sheet)]
    told = [frozenset(note for other in shown[:number] for note in other.shown_notes) for number in range(len(shown))]
    files = (f"{s.title}: {len(s.rows) - 1} rows, in the files {s.name}.*" for s in found if _is_long(s))
    blocks = [
        "\n".join(found[0].head),
        *(sheet.text(without) for sheet, without in zip(shown, told, strict=True)),
        "\n".join(files),
        "\n".join(unfinished(frame)),
        "\n".join(comparison(frame, published)),
    ]
    return "\n\n".join(block for block in blocks if block)


def _is_long(sheet: Sheet) -> bool:
    return sheet.is_detail and len(sheet.rows) - 1 > DETAIL_ROWS


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the tables of a study."""
    return run("Write and print the tables of a study, finished or not.", report, arguments)


if __name__ == "__main__":
    sys.exit(main())
