"""The tables of a study of cells, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import pandas as pd

from analysis.cells import f1_table, trial_ids
from analysis.epochs import load_epochs
from analysis.factors import EXPLANATION as VARIANCE
from analysis.factors import anova_notes, anova_rows, anova_table
from analysis.format import has_published, shown_probes, text_rows
from analysis.frames import records
from analysis.groups import Group, file_names, split
from analysis.marks import marked, places, rule
from analysis.methods import explanation as methods_explanation
from analysis.methods import has_several, method_rows, method_table
from analysis.notes import (
    EXPLANATION,
    INTERVAL,
    PUBLISHED_EXPLAINED,
    TIME_EXPLAINED,
    footnotes,
    group_heading,
    heading,
    sign_notes,
    subject,
)
from analysis.paired import EXPLANATION as IMAGES
from analysis.paired import comparison_rows, model_comparison
from analysis.paper import SCORES, paper_table, pivot, title
from analysis.per_class import EXPLANATION as CLASSES
from analysis.per_class import class_rows, class_table, left_out
from analysis.predictions import load_predictions
from analysis.published import METRIC, Row, select
from analysis.rates import rates_table
from analysis.results import read_plans, study_axes
from analysis.robustness import EXPLANATION as ROBUSTNESS
from analysis.robustness import robustness_rows, robustness_table
from analysis.sheet import Sheet
from analysis.spending import spending_table
from analysis.time_sheets import Make, spending_sheet, timing_sheet
from analysis.timing import timing_table
from analysis.timing_text import device_numbers
from cass_tune.results import Record, StudyFolder


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What the tables of a study are made from.

    Args:
        study: the study's folder.
        plan: what was asked for last.
        axes: of the study.
        groups: the rows that share a table.
        published: published rows that may stand beside its cells.
        head: lines on the study.
    """

    study: StudyFolder
    plan: Record
    axes: list[str]
    groups: list[Group]
    published: list[Row]
    head: list[str]

    def sheet(self, stem: str, index: int = 0) -> Make:
        """Return what makes a sheet of a group, named by its stem."""
        return partial(
            Sheet,
            name=file_names(self.plan, self.groups, stem)[index],
            subject=subject(self.plan),
            head=self.head,
            part=group_heading(self.groups, index),
        )


def study_sheets(study: StudyFolder, frame: pd.DataFrame, published: Mapping[str, object]) -> list[Sheet]:
    """Return the tables of a study of cells.

    Args:
        study: the study's folder.
        frame: of `analysis.results.load`.
        published: which published rows lie beside it (`analysis.published.select`).
    """
    plans = read_plans(study)
    axes = study_axes(plans)
    facts = _Facts(
        study=study,
        plan=plans[-1],
        axes=axes,
        groups=split(frame, axes),
        published=select(published),
        head=heading(plans[-1], frame, axes),
    )
    predictions = load_predictions(study, leave_out_damaged=True)
    marks = [_marked(group.frame, axes, facts.published) for group in facts.groups]
    return [
        *_f1(facts, marks),
        *_paper(facts, marks),
        *_methods(facts),
        *_robustness(facts),
        *_variance(facts),
        *_classes(facts, predictions),
        *_images(facts, predictions),
        *_times(facts),
    ]


def _marked(frame: pd.DataFrame, axes: list[str], published: list[Row]) -> pd.DataFrame:
    table = f1_table(frame, axes, published)
    for score in SCORES:
        table = marked(table, frame, axes, score)
    return table


def _f1(facts: _Facts, tables: list[pd.DataFrame]) -> Iterator[Sheet]:
    for index, table in enumerate(tables):
        notes = [*footnotes(table, facts.axes), *rule(table, facts.axes, "macro_f1"), INTERVAL]
        marks = {(number, "macro-F1"): verdict for number, verdict in enumerate(table["macro_f1_verdict"])}
        yield facts.sheet("f1", index)(
            title="F1 of every cell",
            numbers=table,
            rows=text_rows(table, facts.axes, is_narrow=False),
            notes=[*notes, EXPLANATION + TIME_EXPLAINED],
            narrow=text_rows(table, facts.axes, is_narrow=True),
            narrow_notes=[*notes, EXPLANATION + TIME_EXPLAINED * (not shown_probes(table))],
            trials=table["trial_ids"].tolist(),
            **places(marks),
        )


def _paper(facts: _Facts, tables: list[pd.DataFrame]) -> Iterator[Sheet]:
    for score, stem in zip(SCORES, ("paper", "paper_micro"), strict=True):
        for index, table in enumerate(tables):
            layout = pivot(table, facts.axes, score)
            published = [PUBLISHED_EXPLAINED] * (score == METRIC and has_published(table))
            yield facts.sheet(stem, index)(
                title=title(facts.axes, score),
                numbers=paper_table(table, facts.axes, score),
                rows=layout.rows,
                notes=[*published, *sign_notes(table, facts.axes), *rule(table, facts.axes, score), INTERVAL],
                trials=layout.trials,
                **places(layout.marks),
            )


def _methods(facts: _Facts) -> Iterator[Sheet]:
    for index, group in enumerate(facts.groups):
        if has_several(group.frame, facts.axes):
            table = method_table(group.frame, facts.axes)
            yield facts.sheet("methods", index)(
                title="Methods side by side",
                numbers=table,
                rows=method_rows(table, facts.axes, is_narrow=False),
                notes=[methods_explanation(table)],
                narrow=method_rows(table, facts.axes, is_narrow=True),
                trials=table["trial_ids"].tolist(),
            )


def _robustness(facts: _Facts) -> Iterator[Sheet]:
    for index, group in enumerate(facts.groups):
        table = robustness_table(group.frame, facts.axes)
        if len(table):
            yield facts.sheet("robustness", index)(
                title="Robustness",
                numbers=table,
                rows=robustness_rows(table),
                notes=[ROBUSTNESS],
                trials=table["trial_ids"].tolist(),
            )


def _variance(facts: _Facts) -> Iterator[Sheet]:
    for index, group in enumerate(facts.groups):
        table = anova_table(group.frame, facts.axes)
        if len(table):
            rows = anova_rows(table)
            yield facts.sheet("variance", index)(
                title="What the factors and the seeds explain of macro-F1",
                numbers=table.assign(trial_ids=[_of_arm(group.frame, arm) for arm in table["arm"]]),
                rows=rows,
                notes=[*anova_notes(table), VARIANCE],
                trials=[_of_arm(group.frame, row[0]) for row in rows[1:]],
                is_empty=len(rows) == 1,
            )


def _of_arm(frame: pd.DataFrame, arm: str) -> str:
    """Return the ids of the trials that an analysis of variance of an arm is made of."""
    trained = frame.loc[(frame["pretrain_method"] != "none") & (frame["arm"] == arm)]
    return trial_ids(records(trained, ["trial_id", "status"]))


def _images(facts: _Facts, predictions: pd.DataFrame) -> Iterator[Sheet]:
    for index, group in enumerate(facts.groups):
        table = model_comparison(predictions, group.frame, facts.axes)
        if len(table):
            yield facts.sheet("images", index)(
                title="What the test images say of every network",
                numbers=(numbers := table.assign(trial_ids=table["trial_id"])),
                rows=comparison_rows(table, facts.axes),
                notes=[*left_out(numbers, group.frame), IMAGES],
                trials=table["trial_id"].tolist(),
                is_detail=True,
            )


def _classes(facts: _Facts, predictions: pd.DataFrame) -> Iterator[Sheet]:
    for index, group in enumerate(facts.groups):
        table = class_table(group.frame, facts.axes, predictions)
        if len(table):
            yield facts.sheet("per_class", index)(
                title="Precision, recall, F1 and AUROC of each class",
                numbers=table,
                rows=class_rows(table, facts.axes, is_narrow=False),
                notes=[*left_out(table, group.frame), CLASSES, INTERVAL],
                narrow=class_rows(table, facts.axes, is_narrow=True),
                trials=table["trial_ids"].tolist(),
                is_detail=True,
            )


def _times(facts: _Facts) -> Iterator[Sheet]:
    """Yield the times of every group, and the account of the whole study, because groups share pretrainings."""
    rates = rates_table(load_epochs(facts.study))
    timing = [timing_table(group.frame, facts.axes, facts.published, rates) for group in facts.groups]
    spending = spending_table(facts.study)
    short = device_numbers(*timing, spending)
    for index, table in enumerate(timing):
        yield timing_sheet(facts.sheet("timing", index), table, facts.axes, short)
    yield spending_sheet(partial(facts.sheet("spending"), part=[]), spending, short)
