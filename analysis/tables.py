"""A study's tables, F1 and time: as text for the terminal, as CSV numbers and as Markdown.

Run it with ``python -m analysis.tables STUDY [--results DIR]``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.cells import f1_table
from analysis.command import run
from analysis.comparison import comparison
from analysis.format import aligned, markdown, shown_probes, text_rows, wrap
from analysis.groups import Group, file_names, split
from analysis.methods import explanation as methods_explanation
from analysis.methods import has_several, method_rows, method_table
from analysis.notes import EXPLANATION, TIME_EXPLAINED, footnotes, group_heading, heading, unfinished
from analysis.published import select
from analysis.results import load, read_plans, save, study_axes
from analysis.robustness import EXPLANATION as ROBUSTNESS
from analysis.robustness import robustness_rows, robustness_table
from analysis.search import is_search
from analysis.spending import spending_table
from analysis.timing import timing_table
from analysis.timing_text import (
    SPENDING,
    TIMING,
    device_lines,
    device_numbers,
    spending_notes,
    spending_rows,
    timing_notes,
    timing_rows,
)
from cass_tune.results import Record, StudyFolder
from cass_tune.storage import AnyPath, whole_file, write_text

__all__ = ["f1_table", "main", "render", "report", "spending_table", "timing_table"]

Rows = list[list[str]]


def render(study: StudyFolder, published: Mapping[str, object] | None = None) -> str:
    """Return a study's tables and notes as text, writing nothing.

    Args:
        study: the study's folder.
        published: which published rows lie beside it (`analysis.published.select`).
    """
    if is_search(read_plans(study)):
        from analysis import search_report

        return search_report.render(study)
    return _render(_tables(study, load(study), published))


def report(study: StudyFolder, published: Mapping[str, object] | None = None) -> str:
    """Write results.parquet, index.csv, the tables and the plots of a study or a search, and return its text."""
    from analysis import plots, search_report

    if is_search(read_plans(study)):
        return search_report.report(study)
    found = _tables(study, save(study), published)
    written = [*_write(study, found), *plots.draw(study, published or {})]
    folders = dict.fromkeys(str(path.parent) for path in written)
    return "\n\n".join([_render(found), "\n".join(f"written to {path}" for path in folders)])


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """Everything that is shown of a study.

    Args:
        plans: what was asked for, oldest first.
        frame: of `analysis.results.load`.
        axes: of the study.
        published: which published rows lie beside it.
        groups: the rows that share a table.
        f1: a table of each group.
        methods: a comparison of methods for each group, None where it has no two of them.
        robustness: a table of each group, without rows where the study has no factors.
        timing: a table of each group.
        spending: the account of the whole study, because groups share pretrainings.
    """

    plans: list[Record]
    frame: pd.DataFrame
    axes: list[str]
    published: Mapping[str, object]
    groups: list[Group]
    f1: list[pd.DataFrame]
    methods: list[pd.DataFrame | None]
    robustness: list[pd.DataFrame]
    timing: list[pd.DataFrame]
    spending: pd.DataFrame


def _tables(study: StudyFolder, frame: pd.DataFrame, published: Mapping[str, object] | None) -> _Tables:
    plans = read_plans(study)
    axes, beside = study_axes(plans), select(published or {})
    groups = split(frame, axes)
    return _Tables(
        plans=plans,
        frame=frame,
        axes=axes,
        published=published or {},
        groups=groups,
        f1=[f1_table(group.frame, axes, beside) for group in groups],
        methods=[method_table(group.frame, axes) if has_several(group.frame, axes) else None for group in groups],
        robustness=[robustness_table(group.frame, axes) for group in groups],
        timing=[timing_table(group.frame, axes, beside) for group in groups],
        spending=spending_table(study),
    )


def _render(found: _Tables) -> str:
    blocks = [heading(found.plans[-1], found.frame, found.axes)]
    for index, table in enumerate(found.f1):
        text = aligned(text_rows(table, found.axes, is_narrow=True))
        blocks += [[*group_heading(found.groups, index), text], footnotes(table, found.axes)]
    has_times = not all(map(shown_probes, found.f1))
    blocks += [[wrap(EXPLANATION + TIME_EXPLAINED * has_times)], *_method_blocks(found), *_time_blocks(found)]
    blocks += [unfinished(found.frame)]
    blocks += [comparison(found.frame, found.published)]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _method_blocks(found: _Tables) -> Iterator[list[str]]:
    """Yield the comparisons of methods, and their robustness, where the study has them."""
    for index, table in enumerate(found.methods):
        if table is not None:
            head = [*group_heading(found.groups, index), "Methods side by side"]
            rows = aligned(method_rows(table, found.axes, is_narrow=True))
            yield [*head, rows, wrap(methods_explanation(table))]
    for index, table in enumerate(found.robustness):
        if len(table):
            head = [*group_heading(found.groups, index), "Robustness"]
            yield [*head, aligned(robustness_rows(table)), wrap(ROBUSTNESS)]


def _time_blocks(found: _Tables) -> Iterator[list[str]]:
    """Yield the timing tables that have a time, the account, and what both mean."""
    short = device_numbers(*found.timing, found.spending)
    timed = [(index, table) for index, table in enumerate(found.timing) if sum(table["done"].tolist())]
    for index, table in timed:
        head = [*group_heading(found.groups, index), "Time of a trial alone"]
        yield [*head, aligned(timing_rows(table, found.axes, short)), *timing_notes(table)]
    if len(found.spending):
        yield ["Time of the study", aligned(spending_rows(found.spending, short)), *spending_notes(found.spending)]
        yield [*device_lines(short), *([wrap(TIMING)] if timed else []), wrap(SPENDING)]


def _write(study: StudyFolder, found: _Tables) -> list[AnyPath]:
    """Write every table as numbers (CSV) and as text (Markdown), and return the files."""
    plan, axes = found.plans[-1], found.axes
    head = heading(plan, found.frame, axes)
    written = []
    for index, name in enumerate(file_names(plan, found.groups, "f1")):
        table, own = found.f1[index], [*head, *group_heading(found.groups, index)]
        rows = text_rows(table, axes, is_narrow=False)
        notes = [*footnotes(table, axes), EXPLANATION + TIME_EXPLAINED]
        written += write_table(study.tables / name, table, own, rows, notes)
    for index, name in enumerate(file_names(plan, found.groups, "methods")):
        table, own = found.methods[index], [*head, *group_heading(found.groups, index)]
        if table is not None:
            rows = method_rows(table, axes, is_narrow=False)
            written += write_table(study.tables / name, table, own, rows, [methods_explanation(table)])
    for index, name in enumerate(file_names(plan, found.groups, "robustness")):
        table, own = found.robustness[index], [*head, *group_heading(found.groups, index)]
        if len(table):
            written += write_table(study.tables / name, table, own, robustness_rows(table), [ROBUSTNESS])
    for index, name in enumerate(file_names(plan, found.groups, "timing")):
        table, own = found.timing[index], [*head, *group_heading(found.groups, index)]
        rows = timing_rows(table, axes)
        written += write_table(study.tables / name, table, own, rows, [*timing_notes(table), TIMING])
    return [*written, *_write_spending(study, plan, head, found.spending)]


def write_spending(study: StudyFolder, plan: Record, head: list[str]) -> list[AnyPath]:
    """Write the account of a study and return the files.

    Args:
        study: the study's folder.
        plan: what was asked for last.
        head: lines above the text.
    """
    return _write_spending(study, plan, head, spending_table(study))


def _write_spending(study: StudyFolder, plan: Record, head: list[str], spending: pd.DataFrame) -> list[AnyPath]:
    name = "DEMO_spending" if plan["demo"] else "spending"
    notes = [*spending_notes(spending), SPENDING]
    return write_table(study.tables / name, spending, head, spending_rows(spending), notes)


def spending_blocks(study: StudyFolder) -> list[list[str]]:
    """Return the account of a study as blocks of lines; nothing where nothing was spent."""
    spending = spending_table(study)
    if not len(spending):
        return []
    short = device_numbers(spending)
    rows = ["Time of the study", aligned(spending_rows(spending, short)), *spending_notes(spending)]
    return [rows, [*device_lines(short), wrap(SPENDING)]]


def write_table(path: AnyPath, table: pd.DataFrame, head: list[str], rows: Rows, notes: list[str]) -> list[AnyPath]:
    """Write a table as numbers (CSV) and as text (Markdown), and return the files.

    Args:
        path: of the files, without an ending.
        table: numbers.
        head: lines above the text.
        rows: the text, its header first.
        notes: paragraphs below it.
    """
    numbers, text = (path.with_name(f"{path.name}.{kind}") for kind in ("csv", "md"))
    with whole_file(numbers) as temporary:
        table.to_csv(temporary, index=False)
    escaped = [note.replace("*", "\\*").replace("#", "\\#") for note in notes]
    write_text(text, "\n\n".join(["  \n".join(head), markdown(rows), *escaped]) + "\n")
    return [numbers, text]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the tables of a study."""
    return run("Write and print the tables of a study, finished or not.", report, arguments)


if __name__ == "__main__":
    sys.exit(main())
