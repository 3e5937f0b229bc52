"""The paper's layout, and the marks of the best cells, on hand-made studies."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis import tables
from analysis.cells import f1_table
from analysis.frames import where
from analysis.groups import split
from analysis.marks import compared_axis, marked
from analysis.paper import column_axis, paper_table, pivot, title
from analysis.published import select
from analysis.results import load, read_plans, study_axes
from analysis.sheet import Sheet
from cass_tune.config import Trial
from cass_tune.plan import grid, replicate, star, with_controls
from cass_tune.presets import as_method
from tests.analysis.synthetic import BRAIN_MRI, LARGE, SMALL, TIMM, Root, cells, replace
from tests.small import local

SEEDS = (0, 1, 2)
PAPER = {"dataset": "brain_mri", "method": "CASS", "pretrain_epochs": 100, "origin": "paper"}
BATCH = cells(SMALL, "pretrain.batch_size", [8, 16], SEEDS)
METHODS = {"pretrain.method": ("cass", "dino"), "data.label_fraction": (0.1, 1.0)}


def sheet(root: Root, name: str, published: dict | None = None) -> Sheet:
    (found,) = [sheet for sheet in tables.sheets(root.study, published) if sheet.name == name]
    return found


def numbers(root: Root, score: str = "macro_f1", published: dict | None = None) -> tuple[pd.DataFrame, list[str]]:
    axes = study_axes(read_plans(root.study))
    (group,) = split(load(root.study), axes)
    table = f1_table(group.frame, axes, select(published or {}))
    return marked(table, group.frame, axes, score), axes


def finish(root: Root, trials: list[Trial], start: float, spread: float = 0.01) -> None:
    for trial in trials:
        root.finish(trial, start + spread * (trial.seed == 1), start / 2 + spread * trial.seed)


@pytest.fixture
def batch(tmp_path: Path) -> Root:
    root = Root(tmp_path)
    root.plan(BATCH)
    finish(root, BATCH[:3], 0.60)
    finish(root, BATCH[3:6], 0.70, spread=0.011)
    finish(root, BATCH[6:], 0.80)
    return root


def methods_root(folder: Path) -> Root:
    trials = replicate(with_controls([as_method(trial, METHODS) for trial in grid(SMALL, METHODS)]), SEEDS)
    root = Root(folder)
    root.plan(trials, METHODS)
    for trial in trials:
        start = {"cass": 0.70, "dino": 0.72, "none": 0.50}[trial.pretrain.method] + 0.1 * trial.data.label_fraction
        noise = {"cass": (0.0, 0.01, 0.02), "dino": (0.03, 0.0, 0.0), "none": (0.01, 0.0, 0.015)}
        root.finish(trial, start + noise[trial.pretrain.method][trial.seed])
    return root


# Layout


def test_batch_sizes_stand_side_by_side_with_the_control_last(batch: Root) -> None:
    rows = sheet(batch, "paper").rows
    assert rows[0] == ["arm", "method", "batch 8", "batch 16", "control"]
    assert [row[:2] for row in rows[1:]] == [["cnn", "cass"], ["vit", "cass"]]
    assert [cell.split()[0] for cell in rows[1][2:]] == ["0.704", "0.803", "0.603"]
    assert sheet(batch, "paper").title == "Macro-F1 by pretraining batch size"


def test_label_fractions_are_columns_and_methods_with_the_control_rows(tmp_path: Path) -> None:
    table = sheet(methods_root(tmp_path), "paper")
    assert table.rows[0] == ["arm", "method", "labels 10 %", "labels 100 %"]
    assert [row[1] for row in table.rows[1:4]] == ["cass", "dino", "none"]
    assert table.rows[3][2].startswith("0.518 +-")
    assert len(table.rows) == 1 + 2 * 3


def test_levels_are_ordered_by_size_and_those_a_row_does_not_have_are_empty(tmp_path: Path) -> None:
    axes = {"pretrain.method": ("cass",), "pretrain.batch_size": (16, 8, 32), "pretrain.epochs": (4, 2)}
    middle = replace(SMALL, pretrain_batch_size=16, pretrain_epochs=4)
    trials = list(star(middle, axes))
    root = Root(tmp_path)
    root.plan(trials, axes)
    for trial in trials:
        root.finish(trial, trial.pretrain.batch_size / 100)
    rows = sheet(root, "paper").rows
    assert rows[0] == ["arm", "method", "epochs", "batch 8", "batch 16", "batch 32"]
    assert rows[1:3] == [
        ["cnn", "cass", "4", "0.080 (n=1)", "0.160 (n=1)", "0.320 (n=1)"],
        ["cnn", "cass", "2", "-", "0.160 (n=1)", "-"],
    ]


def test_methods_alone_are_columns(tmp_path: Path) -> None:
    trials = [replace(SMALL, pretrain_method=method) for method in ("cass", "none")]
    root = Root(tmp_path)
    root.plan(trials, ["pretrain.method"])
    for trial in trials:
        root.finish(trial, 0.5)
    rows = sheet(root, "paper").rows
    assert rows == [["arm", "cass", "none"], *([arm, "0.500 (n=1)", "0.500 (n=1)"] for arm in ("cnn", "vit"))]


def test_controls_alone_are_shown(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan(BATCH[:3])
    finish(root, BATCH[:3], 0.6)
    assert sheet(root, "paper").rows[1][1:] == ["none", "0.603 +-0.014"]


def test_unfinished_and_collapsed_cells_say_so(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan(BATCH)
    finish(root, BATCH[3:5], 0.7)
    root.finish(BATCH[5], 0.7, collapsed=True)
    root.fail(BATCH[6])
    table = sheet(root, "paper")
    assert table.rows[1][2].endswith("*") and table.rows[1][3:] == ["failed", "missing"]
    assert any(note.startswith("* The outputs of the pretraining collapsed in 1 of 3") for note in table.notes)


def test_which_axis_is_where() -> None:
    assert column_axis(["pretrain.epochs", "data.label_fraction"]) == "data.label_fraction"
    assert column_axis(["pretrain.method", "pretrain.epochs"]) == "pretrain.epochs"
    assert title(["data.label_fraction"], "micro_f1_at_half") == "Micro-F1 at 0.5 by share of the training labels"
    compared = {
        "pretrain.method": ["data.label_fraction", "pretrain.method"],
        "pretrain.epochs": ["data.label_fraction", "pretrain.epochs"],
        "pretrain.batch_size": ["pretrain.batch_size"],
    }
    assert all(compared_axis(axes) == axis for axis, axes in compared.items())
    assert compared_axis(["data.label_fraction"]) == "pretrain.method"


def test_a_comparable_published_score_has_a_row_below_its_cells(tmp_path: Path) -> None:
    root = Root(tmp_path, BRAIN_MRI, TIMM)
    trials = cells(LARGE, "pretrain.batch_size", [8, 12, 16], SEEDS)
    root.plan(trials)
    finish(root, trials, 0.9)
    table = sheet(root, "paper_micro", PAPER)
    assert [row[1:] for row in table.rows[2::2]] == [
        ["cass, publ.", "0.9895", "-", "0.9909", "-"],
        ["cass, publ.", "0.9315", "-", "0.9276", "-"],
    ]
    assert table.rows[1][2].startswith("0.853 +-") and len(table.trials) == len(table.rows) - 1
    assert any(note.startswith("publ.: published micro-F1") for note in table.notes)
    assert table.html().count('<td class="trials"></td>') == 2
    assert {row[1] for row in sheet(root, "paper", PAPER).rows[1:]} == {"cass"}
    read, axes = numbers(root, "micro_f1_at_half", PAPER)
    assert paper_table(read, axes, "micro_f1_at_half")["published_value"].dropna().tolist()[0] == 0.9895
    assert "published_value" not in paper_table(*numbers(root), "macro_f1")


# Marks


def test_the_best_level_is_bold_when_it_differs_from_every_other(batch: Root) -> None:
    table = sheet(batch, "paper")
    assert table.bold == {(0, "batch 16"), (1, "batch 16")} and not table.ties
    assert sheet(batch, "f1").bold == {(1, "macro-F1"), (4, "macro-F1")}
    read, _ = numbers(batch)
    assert read["macro_f1_verdict"].tolist() == ["", "best", ""] * 2
    assert read["macro_f1_best_p"].notna().tolist() == [True, False, False] * 2
    assert all(p < 0.05 for p in read["macro_f1_best_p"].dropna())
    text = tables.render(batch.study)
    assert "^: best, distinguishable from every cell" in text and "0.803 +-0.014^" in text
    assert "Compared: levels of pretraining batch size" in " ".join(text.split())


def test_methods_are_compared_with_the_control_within_arm_and_label_fraction(tmp_path: Path) -> None:
    root = methods_root(tmp_path)
    read, _ = numbers(root)
    few = where(read, {"arm": "cnn", "data_label_fraction": 0.1})
    found = dict(zip(few["pretrain_method"], few["macro_f1_verdict"], strict=True))
    assert found == {"cass": "tied", "dino": "tied", "none": ""}
    table = sheet(root, "paper")
    assert not table.bold and {header for _, header in table.ties} == {"labels 10 %", "labels 100 %"}
    assert {row for row, _ in table.ties} == {0, 1, 3, 4}
    assert "0.720 +-0.025†" in table.markdown() and r"$^{\dagger}$" in table.latex()


def test_one_seed_marks_nothing_and_says_so(tmp_path: Path) -> None:
    root = Root(tmp_path)
    trials = cells(SMALL, "pretrain.batch_size", [8, 16], (0,))
    root.plan(trials)
    finish(root, trials, 0.5)
    table = sheet(root, "paper")
    assert not table.bold and not table.ties
    assert numbers(root)[0]["macro_f1_verdict"].tolist() == ["untested", "untested", ""] * 2
    assert any("fewer than two seeds in common" in note for note in table.notes)


def test_a_single_level_is_compared_with_nothing(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan(BATCH[:6])
    finish(root, BATCH[:6], 0.5)
    table = sheet(root, "paper")
    assert not table.bold and not table.ties and not any("{best}" in note for note in table.notes)


# Every number leads to its trials


def test_every_row_of_numbers_names_its_trials(batch: Root) -> None:
    ids = {trial: batch.results.trial(batch.digest(trial)).id for trial in BATCH}
    tables.report(batch.study)
    for path in sorted(local(batch.study.tables).glob("*.csv")):
        assert pd.read_csv(path)["trial_ids"].str.len().gt(0).all(), path.name
    read = pd.read_csv(local(batch.study.tables) / "paper.csv", dtype=str)
    assert read["trial_ids"].tolist()[:3] == [" ".join(ids[t] for t in BATCH[n : n + 3]) for n in (3, 6, 0)]
    spent = pd.read_csv(local(batch.study.tables) / "spending.csv")["trial_ids"].item()
    assert set(spent.split()) == set(ids.values())
    page = (local(batch.study.tables) / "paper.html").read_text()
    folders = {local(batch.study.tables) / f"../../../trials/{name}" for name in ids.values()}
    assert all(f'href="../../../trials/{folder.name}/"' in page and folder.is_dir() for folder in folders)


def test_a_missing_trial_is_named_nowhere(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan(BATCH)
    finish(root, BATCH[3:4], 0.5)
    read, _ = numbers(root)
    assert read["trial_ids"].tolist()[:3] == [root.results.trial(root.digest(BATCH[3])).id, "", ""]


def test_every_table_of_a_study_is_a_sheet_in_order(tmp_path: Path) -> None:
    found = tables.sheets(methods_root(tmp_path).study)
    assert [sheet.name for sheet in found] == [
        "f1",
        "paper",
        "paper_micro",
        "methods",
        "variance",
        "timing",
        "spending",
    ]
    assert all(sheet.subject == "Batch size of the pretraining" and sheet.head for sheet in found)
    assert all(len(sheet.trials) == len(sheet.shown) - 1 for sheet in found)


def test_the_pivot_of_a_score_keeps_every_cell(batch: Root) -> None:
    table, axes = numbers(batch)
    layout = pivot(table, axes, "macro_f1")
    shown = {cell.split()[0] for row in layout.rows[1:] for cell in row[2:]}
    assert shown == {f"{mean:.3f}" for mean in table["macro_f1_mean"]}
