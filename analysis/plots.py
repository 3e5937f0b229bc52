"""A study's plots, each with the numbers that it shows.

Run it with ``python -m analysis.plots STUDY [--results DIR]``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from analysis import confusion, curves, drawing, examples, factor_plot, gantt_drawing, learning_drawing, search_plots
from analysis import time_f1 as times
from analysis.command import run
from analysis.epochs import load_epochs
from analysis.figures import Plot, save, style
from analysis.frames import first, where
from analysis.gantt import gantt
from analysis.groups import Group, file_names, split
from analysis.learning import collapsed_seeds, finetuning_curves, pretraining_curves
from analysis.methods import METHOD
from analysis.published import Row, select
from analysis.results import load, read_plans, study_axes
from analysis.search import is_search
from analysis.series import MOST, looks, pages, trial_series
from cass_tune.identity import matters_to_pretraining
from cass_tune.results import Record, StudyFolder
from cass_tune.storage import AnyPath


@dataclass(frozen=True)
class _Shown:
    """What a plot shows, before it is drawn.

    Args:
        title: what it is about.
        caption: what is drawn.
        record: the numbers; without any there is no plot.
        draw: draws them under a title.
    """

    title: str
    caption: str
    record: pd.DataFrame
    draw: Callable[[str], Figure]


class _Source:
    """What the plots of a study are made of.

    Args:
        study: its folder.
        published: rows that may stand beside its cells.
    """

    def __init__(self, study: StudyFolder, published: Sequence[Row]) -> None:
        plans = read_plans(study)
        self.study = study
        self.published = published
        self.plan: Record = plans[-1]
        # with the method last: it makes series, where another axis can be x
        self.axes = sorted(study_axes(plans), key=lambda axis: axis == METHOD)

    @functools.cached_property
    def groups(self) -> list[Group]:
        """Rows that may share a plot."""
        return split(load(self.study), self.axes)

    @functools.cached_property
    def epochs(self) -> pd.DataFrame:
        """The epochs of all trials."""
        return load_epochs(self.study)

    def series(self, group: Group) -> pd.DataFrame:
        """Return the cells of a group."""
        return trial_series(group.frame, self.axes)


def figures(study: StudyFolder, published: Mapping[str, object] | None = None) -> Iterator[Plot]:
    """Yield a study's plots in the order of a report, each when it is asked for; what nothing is known of is left out.

    Args:
        study: its folder.
        published: which published rows stand beside its cells (`analysis.published.select`).
    """
    source = _Source(study, select(published or {}))
    if is_search([source.plan]):
        yield from search_plots.figures(study)
    else:
        for stem, shown in _SHOWN.items():
            yield from _plots(source.plan, stem, [item for group in source.groups for item in shown(source, group)])
    yield from _plots(source.plan, "attempts", [_attempts(study)])


def _plots(plan: Record, stem: str, shown: Sequence[_Shown]) -> Iterator[Plot]:
    shown = [item for item in shown if len(item.record)]
    for item, name in zip(shown, file_names(plan, shown, stem), strict=True):
        title = f"{'DEMO: ' if plan['demo'] else ''}{item.title}, {plan['data']['name']}"
        with style():
            figure = item.draw(title)
        yield Plot(name, title, item.caption, item.record, figure)


def _f1(source: _Source, group: Group) -> Iterator[_Shown]:
    title = source.plan["title"].rstrip(".")
    for record in curves.pages(curves.f1_curves(group.frame, source.axes, source.published), MOST):
        yield _Shown(title, drawing.CAPTION, record, partial(drawing.f1_figure, record, source.axes))


def _time_f1(source: _Source, group: Group) -> Iterator[_Shown]:
    record = times.time_f1(group.frame, source.series(group))
    caption = times.CAPTION.format(devices=times.devices_of(record))
    yield _Shown("Training time against macro-F1", caption, record, partial(times.time_f1_figure, record))


def _factors(source: _Source, group: Group) -> Iterator[_Shown]:
    record = factor_plot.factors(group.frame, source.axes)
    caption = factor_plot.CAPTION.format(seeds=factor_plot.seeds_of(record))
    yield _Shown("Importance of the factors", caption, record, partial(factor_plot.factors_figure, record))


def _pretraining(source: _Source, group: Group) -> Iterator[_Shown]:
    trained = group.frame.loc[group.frame[METHOD.replace(".", "_")] != "none"]
    for page in pages(trial_series(trained, [axis for axis in source.axes if matters_to_pretraining(axis)])):
        record, collapsed = pretraining_curves(source.epochs, page), collapsed_seeds(source.epochs, page)
        draw = partial(learning_drawing.pretraining_figure, record, collapsed, looks(page))
        yield _Shown("Pretraining by epoch", learning_drawing.PRETRAINING_CAPTION, record, draw)


def _finetuning(source: _Source, group: Group) -> Iterator[_Shown]:
    for page in pages(source.series(group)):
        record = finetuning_curves(source.epochs, page)
        draw = partial(learning_drawing.finetuning_figure, record, looks(page))
        yield _Shown("Finetuning by epoch", learning_drawing.FINETUNING_CAPTION, record, draw)


def _confusion(source: _Source, group: Group) -> Iterator[_Shown]:
    record = confusion.confusion(source.study.results, confusion.shown_cells(source.series(group)))
    draw = partial(confusion.confusion_figure, record)
    yield _Shown("Confusion of the classes", confusion.CAPTION, record, draw)


def _examples(source: _Source, group: Group) -> Iterator[_Shown]:
    record = examples.examples(source.study, source.series(group))
    if record.empty:
        return
    trial = first(where(group.frame, {"trial_id": record["trial_id"].iloc[0]}))
    images = examples.read_images(record, trial["data_name"], trial["data_root"])
    if images is not None:
        caption = examples.CAPTION.format(cell=trial["name"], each=examples.EACH)
        yield _Shown("Surest predictions", caption, record, partial(examples.examples_figure, record, images))


def _attempts(study: StudyFolder) -> _Shown:
    record = gantt(study)
    return _Shown("Attempts by machine", gantt_drawing.CAPTION, record, partial(gantt_drawing.gantt_figure, record))


_SHOWN: Mapping[str, Callable[[_Source, Group], Iterator[_Shown]]] = {
    "f1": _f1,
    "factors": _factors,
    "time_f1": _time_f1,
    "pretraining": _pretraining,
    "finetuning": _finetuning,
    "confusion": _confusion,
    "examples": _examples,
}
"""What is shown of a group, by the name of its files, in the order of a report."""


def draw(study: StudyFolder, published: Mapping[str, object] | None = None) -> list[AnyPath]:
    """Write a study's plots as PNG, PDF and SVG with their numbers as CSV, and return the files."""
    return [path for plot in figures(study, published) for path in save(study, plot)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the plots of a study."""

    def action(study: StudyFolder, published: Mapping[str, object]) -> str:
        return "\n".join(str(path) for path in draw(study, published))

    return run("Draw the plots of a study, finished or not.", action, arguments)


if __name__ == "__main__":
    sys.exit(main())
