"""A study's F1 tables: as text for the terminal, as CSV numbers and as Markdown.

Run it with ``python -m analysis.tables STUDY [--results DIR]``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.cells import f1_table
from analysis.command import run
from analysis.comparison import comparison
from analysis.format import aligned, markdown, text_rows, wrap
from analysis.groups import file_names, split
from analysis.notes import EXPLANATION, footnotes, group_heading, heading, unfinished
from analysis.published import select
from analysis.results import load, read_plans, save, study_axes
from cass_tune.results import Record, StudyFolder
from cass_tune.storage import AnyPath, whole_file, write_text

__all__ = ["f1_table", "main", "render", "report"]


def render(study: StudyFolder, published: Mapping[str, object] | None = None) -> str:
    """Return a study's tables and notes as text, writing nothing.

    Args:
        study: the study's folder.
        published: which published rows lie beside it (`analysis.published.select`).
    """
    return _render(read_plans(study), load(study), published or {})


def report(study: StudyFolder, published: Mapping[str, object] | None = None) -> str:
    """Write results.parquet, index.csv, the tables and the plot of a study, and return its text."""
    from analysis import plots

    plans, frame = read_plans(study), save(study)
    written = [*_write(study, plans, frame, published or {}), *plots.draw(study, published or {})]
    folders = dict.fromkeys(str(path.parent) for path in written)
    return "\n\n".join([_render(plans, frame, published or {}), "\n".join(f"written to {path}" for path in folders)])


def _render(plans: list[Record], frame: pd.DataFrame, published: Mapping[str, object]) -> str:
    axes = study_axes(plans)
    groups = split(frame, axes)
    blocks = [heading(plans[-1], frame, axes)]
    for index, group in enumerate(groups):
        table = f1_table(group.frame, axes, select(published))
        text = aligned(text_rows(table, axes, is_narrow=True))
        blocks += [[*group_heading(groups, index), text], footnotes(table, axes)]
    blocks += [[wrap(EXPLANATION)], unfinished(frame), comparison(frame, published)]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _write(
    study: StudyFolder, plans: list[Record], frame: pd.DataFrame, published: Mapping[str, object]
) -> list[AnyPath]:
    """Write every group's table as numbers (CSV) and as text (Markdown)."""
    axes = study_axes(plans)
    groups = split(frame, axes)
    written = []
    for index, (group, name) in enumerate(zip(groups, file_names(plans[-1], groups, "f1"), strict=True)):
        table = f1_table(group.frame, axes, select(published))
        head = [*heading(plans[-1], frame, axes), *group_heading(groups, index)]
        notes = [note.replace("*", "\\*").replace("#", "\\#") for note in footnotes(table, axes)]
        body = markdown(text_rows(table, axes, is_narrow=False))
        written += [study.tables / f"{name}.csv", study.tables / f"{name}.md"]
        with whole_file(written[-2]) as temporary:
            table.to_csv(temporary, index=False)
        write_text(written[-1], "\n\n".join(["  \n".join(head), body, *notes, EXPLANATION]) + "\n")
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the tables of a study."""
    return run("Write and print the tables of a study, finished or not.", report, arguments)


if __name__ == "__main__":
    sys.exit(main())
