"""Series of a plot: which trials make one, their order, and how a control looks beside its cell."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.groups import split
from analysis.results import load
from analysis.series import looks, pages, trial_series
from cass_tune.config import Trial
from cass_tune.plan import grid, replicate, with_controls
from tests.analysis.synthetic import SMALL, Root, cells

LABELS = "data.label_fraction"
BATCH = "pretrain.batch_size"


def series_of(folder: Path, trials: list[Trial], axes: list[str]) -> pd.DataFrame:
    root = Root(folder)
    root.plan(trials, axes)
    (group,) = split(load(root.study), axes)
    return trial_series(group.frame, axes)


def test_trials_that_differ_in_the_seed_are_one_series(tmp_path: Path) -> None:
    found = series_of(tmp_path, cells(SMALL, BATCH, [16, 8], (1, 0)), [BATCH])
    pairs = list(zip(found["series"], found["seed"], strict=True))
    assert pairs == [(name, seed) for name in ("batch 8", "batch 16", "no pretraining") for seed in (0, 1)]
    assert found["level"].tolist()[-1] == "no pretraining" and found["setting"].tolist()[-1] == ""
    assert found["is_control"].tolist() == [False] * 4 + [True] * 2


def test_a_control_with_a_setting_shares_its_colour_and_has_an_open_marker(tmp_path: Path) -> None:
    found = looks(series_of(tmp_path, cells(SMALL, LABELS, [0.1, 1.0], (0,)), [LABELS]))
    assert list(found) == ["labels 10 %", "no pretraining, labels 10 %", "labels 100 %", "no pretraining, labels 100 %"]
    cell, control, other, _ = found.values()
    assert (cell.colour, cell.marker) == (control.colour, control.marker) != (other.colour, other.marker)
    assert control.face == "white" != cell.face and control.line != cell.line


def test_one_control_for_all_is_grey(tmp_path: Path) -> None:
    found = looks(series_of(tmp_path, cells(SMALL, BATCH, [8, 16], (0,)), [BATCH]))
    assert found["no pretraining"].colour == "0.4" and len({look.colour for look in found.values()}) == 3


def test_without_an_axis_all_cells_are_one(tmp_path: Path) -> None:
    assert series_of(tmp_path, [SMALL], [])["series"].tolist() == ["all cells"]


@pytest.mark.parametrize(("batches", "sizes"), [((8, 16, 32), [6, 6]), ((4, 8, 16, 32), [4, 4, 4, 4])])
def test_more_cells_than_colours_make_several_figures_with_whole_levels_and_their_controls(
    tmp_path: Path, batches: tuple[int, ...], sizes: list[int]
) -> None:
    values = {BATCH: batches, LABELS: (0.01, 0.1, 0.5, 1.0)}
    trials = replicate(with_controls(grid(SMALL, values)), [0])
    found = pages(series_of(tmp_path, trials, list(values)))
    assert [(~page["is_control"].astype(bool)).sum() for page in found] == sizes
    names = found[0]["series"].tolist()
    assert names[: len(batches)] == [f"batch {batch}, labels 1 %" for batch in batches]
    labels = ["1 %", "10 %"][: sizes[0] // len(batches)]
    assert names[sizes[0] :] == [f"no pretraining, labels {label}" for label in labels]


def test_one_control_stands_in_every_figure(tmp_path: Path) -> None:
    found = pages(series_of(tmp_path, cells(SMALL, BATCH, range(8, 16), (0,)), [BATCH]))
    assert [len(page) for page in found] == [7, 3]
    assert [page["series"].tolist()[-1] for page in found] == ["no pretraining"] * 2
