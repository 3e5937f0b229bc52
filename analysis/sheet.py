"""A table as it is shown: its numbers, its text, and what stands around it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from analysis import sheet_html, sheet_latex, sheet_markdown, sheet_text
from cass_tune.storage import AnyPath, whole_file, write_text

Rows = list[list[str]]
"""A table's text: the headers, then a row of cells each."""

Places = frozenset[tuple[int, str]]
"""Cells of a table: number of the row below the headers, from 0, and header of the column."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table as it is shown.

    Args:
        name: of its files, without an ending, for example ``DEMO_f1``.
        subject: what the study is about, for example ``DEMO: Batch size of the pretraining, brain_mri``.
        title: what the table shows, for example ``Time of a trial alone``.
        head: lines on the study, the same for all its tables.
        part: lines that tell it from the other tables with its title; none where it is the only one.
        numbers: what was computed, a row for everything with a number, ``trial_ids`` among the columns.
        rows: the text in full: the headers, then the cells.
        notes: paragraphs that explain it; ``{best}`` and ``{tied}`` in them stand for the signs of such cells.
        narrow: the text for a terminal and a printed page; by default the same.
        narrow_notes: paragraphs that explain that; by default the same.
        bold: the best cells, by the header of their column; see `analysis.best`.
        ties: cells that share the best place.
        trials: for every row below the headers, the ids of its trials, separated by spaces; none by default.
        is_empty: whether it has nothing to tell yet: it is written, and left out of what people read.
        is_detail: whether a terminal shows it only where it is short.
    """

    name: str
    subject: str
    title: str
    numbers: pd.DataFrame
    rows: Rows
    head: list[str] = field(default_factory=list)
    part: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    narrow: Rows | None = None
    narrow_notes: list[str] | None = None
    bold: Places = frozenset()
    ties: Places = frozenset()
    trials: list[str] = field(default_factory=list)
    is_empty: bool = False
    is_detail: bool = False

    @property
    def shown(self) -> Rows:
        """The text for a terminal and a printed page."""
        return self.rows if self.narrow is None else self.narrow

    @property
    def shown_notes(self) -> list[str]:
        """The paragraphs that explain it."""
        return self.notes if self.narrow_notes is None else self.narrow_notes

    def text(self, without: frozenset[str] = frozenset()) -> str:
        """Return it as plain ASCII text that fits a terminal of 120 columns.

        Args:
            without: notes that are told elsewhere.
        """
        return sheet_text.render(self, without)

    def markdown(self, *, is_alone: bool = True) -> str:
        """Return it as Markdown.

        Args:
            is_alone: whether the lines on the study stand above it.
        """
        return sheet_markdown.render(self, self.head if is_alone else [])

    def latex(self) -> str:
        r"""Return it as a LaTeX ``table`` that needs only ``\usepackage{booktabs}``."""
        return sheet_latex.render(self)

    def html(self, trials: str = "../../trials") -> str:
        """Return it as an HTML ``figure`` for a page: no scripts and no style of its own.

        Args:
            trials: where the trials' folders are, seen from the page.
        """
        return sheet_html.render(self, trials)

    def write(self, folder: AnyPath) -> list[AnyPath]:
        """Write the numbers as CSV, and the text as Markdown, LaTeX and a page of HTML; return the files.

        Args:
            folder: ``tables`` of a study (`cass_tune.results.StudyFolder`), from which a page finds the trials.
        """
        numbers = folder / f"{self.name}.csv"
        with whole_file(numbers) as temporary:
            self.numbers.to_csv(temporary, index=False)
        texts = {"md": self.markdown(), "tex": self.latex(), "html": sheet_html.page(self, "../../../trials")}
        for ending, text in texts.items():
            write_text(folder / f"{self.name}.{ending}", text)
        return [numbers, *(folder / f"{self.name}.{ending}" for ending in texts)]
