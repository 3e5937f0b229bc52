from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from analysis import plots
from analysis.curves import f1_curves
from analysis.drawing import f1_figure
from analysis.figures import PAGE_IN
from analysis.frames import where
from analysis.groups import split
from analysis.published import select
from analysis.results import load
from analysis.statistics import summarise
from cass_tune.config import Trial, with_field
from tests.analysis.synthetic import BRAIN_MRI, LARGE, SMALL, TIMM, Root, cells
from tests.small import local

SEEDS = (0, 1, 2)
BATCH = ["pretrain.batch_size"]
PAPER = {"dataset": "brain_mri", "method": "CASS", "pretrain_epochs": 100, "origin": "paper"}


def score(trial: Trial) -> float:
    base = 0.5 if trial.pretrain.method == "none" else 0.5 + trial.pretrain.batch_size / 100
    return base + trial.seed**2 / 100 + trial.data.label_fraction / 10


def root_of(folder: Path, trials: list[Trial], axes: list[str], **changes: Any) -> Root:
    root = Root(folder, demo=True)
    root.plan(trials, axes)
    for trial in trials:
        root.finish(trial, score(trial), **changes)
    return root


def curves_of(root: Root, axes: list[str], published: dict | None = None) -> pd.DataFrame:
    (group,) = split(load(root.study), axes)
    return f1_curves(group.frame, axes, select(published or {}))


def test_record_of_one_axis(tmp_path: Path) -> None:
    trials = cells(SMALL, BATCH[0], [8, 16], SEEDS)
    curves = where(curves_of(root_of(tmp_path, trials, BATCH), BATCH), {"arm": "cnn"})
    eight = [score(trial) for trial in trials[3:6]]
    mean = where(curves, {"kind": "mean", "x": 8}).iloc[0]
    expected = summarise(eight)
    assert (mean["y"], mean["low"], mean["high"]) == pytest.approx((expected.mean, expected.low, expected.high))
    assert where(curves, {"kind": "seed", "x": 8})["y"].tolist() == pytest.approx(eight)
    control = where(curves, {"kind": "control"})
    assert len(control) == 1 and pd.isna(control["x"].iloc[0])
    assert control["y"].iloc[0] == pytest.approx(summarise([score(trial) for trial in trials[:3]]).mean)


def test_further_axes_are_series(tmp_path: Path) -> None:
    axes = [*BATCH, "data.label_fraction"]
    trials = [
        trial
        for share in (0.1, 1.0)
        for trial in cells(with_field(SMALL, "data.label_fraction", share), BATCH[0], [8, 16], [0])
    ]
    curves = where(curves_of(root_of(tmp_path, trials, axes), axes), {"arm": "vit"})
    for kind in ("mean", "seed", "control"):
        assert set(where(curves, {"kind": kind})["series"]) == {"labels 10 %", "labels 100 %"}
    mean = where(curves, {"kind": "mean", "series": "labels 100 %", "x": 16}).iloc[0]
    assert mean["y"] == pytest.approx(0.76) and mean["n"] == 1 and pd.isna(mean["low"])


def test_a_control_has_an_x_where_the_setting_is_its_own(tmp_path: Path) -> None:
    axes = ["data.label_fraction"]
    curves = curves_of(root_of(tmp_path, cells(SMALL, axes[0], [0.1, 1.0], [0]), axes), axes)
    assert where(curves, {"kind": "control", "arm": "cnn"})["x"].tolist() == [0.1, 1.0]


def test_a_cell_without_result_keeps_its_place(tmp_path: Path) -> None:
    root = Root(tmp_path)
    trials = cells(SMALL, BATCH[0], [8, 16], [0])
    root.plan(trials)
    root.finish(trials[1], 0.5)
    means = where(curves_of(root, BATCH), {"arm": "cnn", "kind": "mean"})
    assert means["x"].tolist() == [8, 16] and means["y"].isna().tolist() == [False, True]


def test_published_values_stand_where_they_are_comparable(tmp_path: Path) -> None:
    root = Root(tmp_path, BRAIN_MRI, TIMM)
    trials = cells(LARGE, BATCH[0], [8, 12, 16], [0])
    root.plan(trials)
    for trial in trials:
        root.finish(trial, 0.9)
    found = where(curves_of(root, BATCH, PAPER), {"kind": "published"})
    values = list(zip(found["arm"], found["x"], found["y"], strict=True))
    assert values == [("cnn", 8, 0.9895), ("cnn", 16, 0.9909), ("vit", 8, 0.9315), ("vit", 16, 0.9276)]


def test_the_drawing_shows_the_record(tmp_path: Path) -> None:
    root = root_of(tmp_path, cells(SMALL, BATCH[0], [8, 16], SEEDS), BATCH, collapsed=True)
    curves = curves_of(root, BATCH)
    figure = f1_figure(curves, BATCH, "A title")
    cnn, vit = figure.axes
    assert [panel.get_title() for panel in (cnn, vit)] == ["CNN", "ViT"]
    assert [label.get_text() for label in cnn.get_xticklabels()] == ["8", "16"]
    assert cnn.get_xlabel() == "Pretraining batch size (images)"
    means = where(curves, {"arm": "cnn", "kind": "mean"})["y"].tolist()
    drawn = [np.asarray(line.get_ydata()).tolist() for line in cnn.lines]
    assert means in drawn
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [
        "Mean, 95 % t interval",
        "Single seeds",
        "No pretraining, mean and 95 % t interval",
        "Outputs of some seeds collapsed",
    ]


@pytest.mark.parametrize("done", [0, 1, 12])
def test_files_of_a_study_however_far_it_is(tmp_path: Path, done: int) -> None:
    root = Root(tmp_path, demo=True)
    trials = cells(SMALL, BATCH[0], [4, 8, 16], SEEDS)
    root.plan(trials)
    for trial in trials[::-1][:done]:
        root.finish(trial, score(trial))
    names = {path.name for path in plots.draw(root.study)}
    assert {"DEMO_f1.csv", "DEMO_f1.pdf", "DEMO_f1.png", "DEMO_f1.svg"} <= names
    assert "DEMO: Batch size of the pretraining" in (root.study.plots / "DEMO_f1.svg").read_text()


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("data.label_fraction", [0.01, 0.1, 1.0]),
        ("pretrain.epochs", [5, 10, 20]),
        ("finetune.focal_gamma", [0.0, 2.0]),
        ("pretrain.method", ["cass"]),
    ],
)
def test_axes_of_every_kind_can_be_drawn(tmp_path: Path, axis: str, values: list) -> None:
    root = root_of(tmp_path, cells(SMALL, axis, values, SEEDS), [axis])
    (plot,) = (plot for plot in plots.figures(root.study) if plot.name == "DEMO_f1")
    assert plot.image("png").startswith(b"\x89PNG") and plot.figure.axes[0].get_xlabel()


@pytest.mark.parametrize("axis", ["pretrain.batch_size", "pretrain.epochs", "data.label_fraction"])
def test_places_are_logarithms_to_base_two(tmp_path: Path, axis: str) -> None:
    values = [0.01, 0.02, 0.04, 0.32] if axis.startswith("data") else [2, 4, 8, 64]
    root = root_of(tmp_path, cells(SMALL, axis, values, [0]), [axis])
    figure = f1_figure(curves_of(root, [axis]), [axis], "A title")
    ticks = np.asarray(figure.axes[0].get_xticks())
    assert ticks - ticks[0] == pytest.approx([0, 1, 2, 5])


def test_equal_results_give_equal_files(tmp_path: Path) -> None:
    root = root_of(tmp_path, cells(SMALL, BATCH[0], [8], SEEDS), BATCH)
    first = [path.read_bytes() for path in plots.draw(root.study)]
    assert [path.read_bytes() for path in plots.draw(root.study)] == first


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = root_of(tmp_path, cells(SMALL, BATCH[0], [8], SEEDS), BATCH)
    assert plots.main(["batch_ablation", "--results", str(tmp_path)]) == 0
    assert str(root.study.plots / "DEMO_f1.png") in capsys.readouterr().out
    assert plots.main(["nothing", "--results", str(tmp_path)]) == 2


ALL = ["f1", "factors", "time_f1", "pretraining", "finetuning", "confusion", "examples", "attempts"]
LOSSES = [2.0, math.nan, 0.5]
CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def work_on(root: Root, trial: Trial, attempt: str) -> None:
    """Record the epochs and an attempt of a trial, and of its pretraining, if it has one."""
    root.attempt(trial, attempt, "12:00:00", "12:01:00", "interrupted")
    health: dict[str, list] = {f"{arm}_feature_std": [0.5, 0.05, 0.01] for arm in ("cnn", "vit")}
    health |= {f"{arm}_effective_rank": [9.0, 5.0, 1.0] for arm in ("cnn", "vit")} | {"collapsed": [False, True, True]}
    tested: dict[str, list] = {"validation_loss": LOSSES, "macro_f1": [0.1, 0.2, 0.3]}
    for segment in root.segments.get(trial, ()):
        root.learn(segment["stage"], "pretrain", {"loss": LOSSES, **health}, attempt)
    for arm in ("cnn", "vit"):
        root.learn(trial, f"finetune_{arm}", {"loss": LOSSES, **tested}, attempt)


def finish(root: Root, trial: Trial, macro_f1: float | None) -> None:
    """Record a trial as finished, with its predictions."""
    outputs = [[2.0, -1, -1, -1], [-1.0, -1, -1, 1]]
    names = [(arm, f"test/{label}/{n:03d}", label) for arm in ("cnn", "vit") for label in CLASSES for n in (0, 1)]
    root.predict(trial, [(*name, outputs[number % 2]) for number, name in enumerate(names)])
    root.finish(trial, macro_f1)


def worked(folder: Path, seeds: tuple[int, ...], done: int, has_scores: bool = True) -> Root:
    """Return a study of which some trials are finished, one has failed, and the others are begun."""
    root = Root(folder, demo=True)
    trials = cells(SMALL, BATCH[0], [8, 16], seeds)
    for number, trial in enumerate(trials):
        if trial.pretrain.method != "none":
            root.segments[trial] = [{"stage": f"{number:064x}"[::-1], "start": 0, "end": 3}]
    root.plan(trials)
    for number, trial in enumerate(trials[::-1]):
        work_on(root, trial, f"a{number}")
        if number < done:
            finish(root, trial, score(trial) if has_scores else None)
    if done < len(trials):
        root.fail(trials[0])
    return root


def names(root: Root) -> list[str]:
    return [plot.name.removeprefix("DEMO_") for plot in plots.figures(root.study)]


def test_a_finished_study_has_every_plot_in_every_kind_with_its_numbers(tmp_path: Path) -> None:
    root = worked(tmp_path, (0, 1, 2), done=9)
    drawn = plots.draw(root.study)
    assert [path.name for path in drawn] == [
        f"DEMO_{name}.{kind}" for name in ALL for kind in ("png", "pdf", "svg", "csv")
    ]
    for plot in plots.figures(root.study):
        written = (local(root.study.plots) / f"{plot.name}.csv").read_text()
        assert written == plot.record.to_csv(index=False) and len(plot.record)
        assert plot.title.startswith("DEMO: ") and plot.caption.endswith(".") and "{" not in plot.caption
    starts = {path.name.rpartition(".")[2]: path.read_bytes()[:5] for path in map(local, drawn)}
    assert starts["png"].startswith(b"\x89PNG") and starts["pdf"] == b"%PDF-" and starts["svg"] == b"<?xml"


def test_one_seed_says_nothing_of_factors(tmp_path: Path) -> None:
    assert names(worked(tmp_path, (0,), done=3)) == [name for name in ALL if name != "factors"]


def test_a_study_half_way_shows_what_is_known(tmp_path: Path) -> None:
    assert names(worked(tmp_path, (0, 1), done=1)) == [name for name in ALL if name != "factors"]


def test_a_study_without_result_has_its_curves_and_attempts(tmp_path: Path) -> None:
    assert names(worked(tmp_path, (0, 1), done=0)) == ["f1", "pretraining", "finetuning", "attempts"]


def test_a_study_that_has_not_begun_has_empty_places(tmp_path: Path) -> None:
    root = Root(tmp_path, demo=True)
    root.plan(cells(SMALL, BATCH[0], [8], (0,)))
    assert names(root) == ["f1"]


def test_missing_metrics_are_no_points(tmp_path: Path) -> None:
    found = names(worked(tmp_path, (0, 1), done=6, has_scores=False))
    assert found == [name for name in ALL if name not in ("factors", "time_f1")]


def test_groups_and_pages_have_files_of_their_own(tmp_path: Path) -> None:
    root = root_of(tmp_path, cells(SMALL, BATCH[0], range(4, 12), (0,)), BATCH)
    other = [with_field(trial, "finetune.epochs", 7) for trial in cells(SMALL, BATCH[0], [8], (0,), controls=False)]
    root.plan(other)
    for trial in [*cells(SMALL, BATCH[0], range(4, 12), (0,)), *other]:
        root.learn(trial, "finetune_cnn", {"loss": [1.0], "validation_loss": [1.0], "macro_f1": [0.5]})
    assert [name for name in names(root) if name.startswith("finetuning")] == [
        "finetuning",
        "finetuning_2",
        "finetuning_3",
    ]


def test_more_series_than_colours_make_several_figures_with_their_control(tmp_path: Path) -> None:
    axes = ["data.label_fraction", *BATCH]
    trials = [
        trial for share in (0.1, 1.0) for trial in cells(with_field(SMALL, axes[0], share), BATCH[0], range(4, 12), [0])
    ]
    root = root_of(tmp_path, trials, axes)
    found = [plot.record for plot in plots.figures(root.study) if plot.name.startswith("DEMO_f1")]
    assert [where(record, {"kind": "mean"})["series"].nunique() for record in found] == [6, 2]
    assert [where(record, {"kind": "control", "arm": "cnn"})["x"].tolist() for record in found] == [[0.1, 1.0]] * 2


def test_fonts_and_widths_fit_a_paper(tmp_path: Path) -> None:
    for plot in plots.figures(worked(tmp_path, (0, 1), done=6).study):
        plot.figure.draw_without_rendering()  # the labels of the ticks are made in the drawing
        assert plot.figure.get_figwidth() <= PAGE_IN
        texts = [text for text in plot.figure.findobj(Text) if isinstance(text, Text) and text.get_text()]
        sizes = {float(text.get_fontsize()) for text in texts}
        assert min(sizes) >= 7 and max(sizes) <= 9, plot.name
