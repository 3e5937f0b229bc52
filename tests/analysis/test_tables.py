from __future__ import annotations

import re
import subprocess
import sys
import types
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import tables
from analysis.cells import f1_table
from analysis.frames import where
from analysis.groups import split
from analysis.published import select
from analysis.results import load, read_plans, study_axes
from analysis.statistics import summarise
from cass_tune.leases import Lease
from tests.analysis.synthetic import BRAIN_MRI, BRAIN_MRI_SUBSET, LARGE, PHANTOM, SMALL, TIMM, Root, cells, replace
from tests.small import local

REPOSITORY = Path(__file__).parents[2]
SEEDS = (0, 1, 2)
TRIALS = cells(SMALL, "pretrain.batch_size", [8, 16], SEEDS)
CONTROLS, EIGHT, SIXTEEN = TRIALS[:3], TRIALS[3:6], TRIALS[6:]
SCORES = (0.70, 0.76, 0.73)
PAPER = {"dataset": "brain_mri", "method": "CASS", "pretrain_epochs": 100, "origin": "paper"}


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path, demo=True)
    root.plan(TRIALS)
    return root


def finish(root: Root, trials: list, scores: tuple[float, ...] = SCORES) -> None:
    for trial, score in zip(trials, scores, strict=True):
        root.finish(trial, score, score / 2)


def table_of(root: Root, published: dict | None = None) -> list[dict]:
    axes = study_axes(read_plans(root.study))
    (group,) = split(load(root.study), axes)
    return f1_table(group.frame, axes, select(published or {})).to_dict("records")


def test_one_row_per_cell_and_arm_arm_by_arm_controls_last(root: Root) -> None:
    rows = table_of(root)
    found = [(row["arm"], row["pretrain_method"], row["pretrain_batch_size"]) for row in rows]
    assert found[:2] == [("cnn", "cass", 8), ("cnn", "cass", 16)]
    assert [arm for arm, _, _ in found] == ["cnn"] * 3 + ["vit"] * 3
    assert rows[2]["pretrain_method"] == rows[5]["pretrain_method"] == "none"
    assert pd.isna(rows[2]["pretrain_batch_size"])


def test_numbers_of_a_cell(root: Root) -> None:
    finish(root, EIGHT)
    finish(root, CONTROLS, (0.6, 0.7, 0.65))
    row = table_of(root)[0]
    expected = summarise(SCORES)
    assert (row["macro_f1_mean"], row["macro_f1_low"]) == pytest.approx((expected.mean, expected.low), abs=1e-9)
    assert (row["macro_f1_n"], row["done"], row["trials"]) == (3, 3, 3)
    assert row["micro_f1_at_half_mean"] == pytest.approx(0.68, abs=1e-9)
    assert row["control_macro_f1_mean"] == pytest.approx(0.65, abs=1e-9)
    difference = summarise([0.1, 0.06, 0.08])
    assert row["difference_mean"] == pytest.approx(0.08, abs=1e-9)
    assert row["difference_high"] == pytest.approx(difference.high, abs=1e-9)
    assert (row["pretrain_seconds"], row["finetune_seconds"]) == (91.0, 6.0)


def test_the_control_is_paired_on_equal_seeds(root: Root) -> None:
    finish(root, EIGHT[1:], (0.8, 0.9))
    finish(root, CONTROLS[:2], (0.5, 0.6))
    row = table_of(root)[0]
    assert (row["macro_f1_n"], row["control_macro_f1_n"], row["difference_n"]) == (2, 2, 1)
    assert row["difference_mean"] == pytest.approx(0.8 - 0.6, abs=1e-9)


def test_a_control_counts_only_with_the_cells_seeds(tmp_path: Path) -> None:
    root = Root(tmp_path)
    more = cells(SMALL, "pretrain.batch_size", [], (0, 1, 2, 3))
    root.plan([*more, *EIGHT])
    finish(root, more, (0.5, 0.5, 0.5, 0.9))
    rows = table_of(root)
    assert (rows[0]["control_macro_f1_mean"], rows[0]["control_macro_f1_n"]) == (0.5, 3)
    assert rows[1]["macro_f1_n"] == 4


def test_a_control_of_each_label_fraction_stands_beside_its_cells(tmp_path: Path) -> None:
    root = Root(tmp_path)
    trials = cells(SMALL, "data.label_fraction", [0.01, 0.1], [0])
    root.plan(trials, ["data.label_fraction"])
    for trial in trials:
        is_control = trial.pretrain.method == "none"
        root.finish(trial, trial.data.label_fraction + (0 if is_control else 0.5))
    rows = where(pd.DataFrame(table_of(root)), {"arm": "cnn"}).to_dict("records")
    assert [row["data_label_fraction"] for row in rows] == [0.01, 0.1, 0.01, 0.1]
    assert [row["control_macro_f1_mean"] for row in rows[:2]] == [0.01, 0.1]
    assert [row["difference_mean"] for row in rows[:2]] == pytest.approx([0.5, 0.5])
    assert [row["difference_n"] for row in rows[2:]] == [0, 0]


def test_failed_missing_and_collapsed_cells_are_shown(tmp_path: Path) -> None:
    trials = cells(SMALL, "pretrain.batch_size", [4, 8, 16, 32], SEEDS, controls=False)
    root = Root(tmp_path, demo=True)
    root.plan(trials)
    finish(root, trials[:2], SCORES[:2])
    for trial in (trials[2], *trials[3:6]):
        root.fail(trial)
    for trial in trials[9:]:
        root.fail(trial, "Collapsed", "constant outputs")
    text = tables.render(root.study)
    cnn = {line.split()[2]: line for line in text.splitlines() if line.startswith("cnn  ")}
    assert "2/3, 1 failed" in cnn["4"] and "0.730" in cnn["4"]
    assert "failed" in cnn["8"] and cnn["8"].endswith("0/3, 3 failed")
    assert "missing" in cnn["16"] and cnn["16"].endswith("0/3, 3 missing")
    assert cnn["32"].endswith("0/3, 3 collapsed")
    assert "failed: batch_size=8 seed=1: RuntimeError: out of memory" in text
    assert f"  log: {root.results.trial(root.digest(trials[4])).log}" in text
    assert "missing (3 of 12 trials; run the study again): batch_size=16 seed=0" in text


def test_one_seed_has_no_interval(root: Root) -> None:
    finish(root, EIGHT[:1], SCORES[:1])
    assert "0.700 (n=1)" in tables.render(root.study)
    tables.report(root.study)
    assert "0.700 (n=1, no interval)" in (root.study.tables / "DEMO_f1.md").read_text()


def test_trials_that_crossed_kinds_of_device_are_marked_and_counted(root: Root) -> None:
    finish(root, EIGHT[1:], SCORES[1:])
    root.finish(EIGHT[0], SCORES[0], devices=["cuda (NVIDIA T4)", "cpu (AMD EPYC, 1 thread)"])
    finish(root, SIXTEEN)
    text = tables.report(root.study)
    note = "# More than one kind of device computed 1 of 3 seeds at batch_size=8: these numbers need not repeat."
    assert note in text
    rows = [line for line in text.partition("\n\nMacro-F1 by")[0].splitlines() if line.startswith("cnn  ")]
    assert ["#" in row for row in rows] == [True, False, False]
    markdown = local(root.study.tables) / "DEMO_f1.md"
    assert "\\# More than one kind" in markdown.read_text()


def test_a_trial_that_runs_is_shown_as_running(root: Root) -> None:
    finish(root, SIXTEEN)
    folders = [root.results.trial(root.digest(trial)) for trial in EIGHT]
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(Lease.acquire(folder.path, "a1"))
        text = tables.render(root.study)
    row = next(line for line in text.splitlines() if line.startswith("cnn") and line.endswith("0/3, 3 running"))
    assert row.split()[3] == "running"
    assert "running (3 of 9 trials): " in text


def test_collapsed_outputs_are_marked_and_counted(root: Root) -> None:
    finish(root, EIGHT[1:], SCORES[1:])
    root.finish(EIGHT[0], SCORES[0], collapsed=True)
    finish(root, SIXTEEN)
    text = tables.render(root.study)
    rows = [line for line in text.partition("\n\nMacro-F1 by")[0].splitlines() if line.startswith(("cnn  ", "vit  "))]
    assert ["*" in row for row in rows] == [True, False, False] * 2
    assert "* The outputs of the pretraining collapsed in 1 of 3 seeds at batch_size=8." in text


def test_the_heading_names_the_common_facts(root: Root) -> None:
    finish(root, EIGHT)
    head = tables.render(root.study).split("\n\n")[0]
    assert head.startswith("DEMO: Batch size of the pretraining (batch_ablation, preset demo, recipe as_described)")
    assert "240 training + 60 validation + 80 test images, 48 px, 10 % of the labels" in head
    assert "cnn: test_resnet.r160_in1k (random)" in head
    assert "pretraining epochs: 2, finetuning epochs: 3" in head
    assert "devices: cpu (AMD EPYC, 1 thread)" in head and "mixed" not in head
    assert "pretraining batch size" not in head


def test_the_heading_leaves_out_a_validation_part_that_the_data_do_not_bring(tmp_path: Path) -> None:
    root = Root(tmp_path, {part: PHANTOM[part] for part in ("train", "test")})
    root.plan(TRIALS)
    assert "240 training + 80 test images" in tables.render(root.study)


def test_mixed_devices_are_said(root: Root) -> None:
    finish(root, EIGHT)
    root.finish(SIXTEEN[0], 0.5, devices=["cuda (H200)"])
    assert "cuda (H200) (mixed" in tables.render(root.study)


def test_other_settings_give_other_tables_the_last_asked_for_first(root: Root) -> None:
    longer = [replace(trial, pretrain_epochs=9) for trial in EIGHT]
    root.plan(longer)
    finish(root, longer)
    finish(root, CONTROLS, (0.6, 0.6, 0.6))
    axes = ["pretrain.batch_size"]
    groups = split(load(root.study), axes)
    assert [group.settings["pretrain_epochs"] for group in groups] == [9, 2]
    assert all(f1_table(group.frame, axes)["pretrain_method"].eq("none").sum() == 2 for group in groups)
    assert f1_table(groups[0].frame, axes)["difference_n"].tolist()[0] == 3
    text = tables.render(root.study)
    assert "Table 1 of 2 (last asked for): pretrain_epochs 9\n" in text
    assert "Table 2 of 2: pretrain_epochs 2\n" in text
    tables.report(root.study)
    names = sorted(path.name for path in root.study.tables.iterdir())
    stems = ("f1", "f1_2", "paper", "paper_2", "paper_micro", "paper_micro_2", "spending", "timing", "timing_2")
    stems += ("variance_2",)  # only the second has two batch sizes
    assert names == [f"DEMO_{stem}.{kind}" for stem in stems for kind in ("csv", "html", "md", "tex")]


def test_controls_of_other_finetuning_are_a_table_of_their_own(root: Root) -> None:
    root.plan([replace(trial, finetune_epochs=9) for trial in CONTROLS])
    groups = split(load(root.study), ["pretrain.batch_size"])
    assert [group.settings["finetune_epochs"] for group in groups] == [9, 3]
    assert len(groups[0].frame) == 2 * len(SEEDS)


def test_methods_stand_in_one_table_whatever_only_one_of_them_has(tmp_path: Path) -> None:
    """The section of DINO is no setting of CASS, whose variants are none of DINO: neither parts them."""
    axes = ["pretrain.method"]
    methods = [replace(SMALL, pretrain_method=method) for method in ("cass", "dino", "supervised", "none")]
    root = Root(tmp_path)
    root.plan(methods, axes)
    (group,) = split(load(root.study), axes)
    assert group.frame["pretrain_method"].tolist() == [m for m in ("cass", "dino", "supervised", "none") for _ in "ab"]
    assert (group.settings["dino_outputs"], group.settings["pretrain_variance_weight"]) == (65536, 0.0)

    root.plan([replace(SMALL, pretrain_method="dino", dino_outputs=64)], axes)
    last, first = split(load(root.study), axes)
    assert last.frame["pretrain_method"].tolist() == [m for m in ("dino", "cass", "supervised", "none") for _ in "ab"]
    assert len(first.frame) == 8 and first.settings["dino_outputs"] == 65536


def test_a_section_of_dino_parts_no_trials_of_cass(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan([replace(SMALL, dino_outputs=64), replace(SMALL, seed=1), replace(SMALL, pretrain_method="dino")])
    groups = split(load(root.study), ["pretrain.batch_size"])
    assert [group.settings["pretrain_method"] for group in groups] == ["cass", "dino"]


def test_results_of_another_version_are_not_pooled(root: Root) -> None:
    root.plan([replace(trial, seed=trial.seed + 10) for trial in EIGHT], results_version=2)
    groups = split(load(root.study), ["pretrain.batch_size"])
    assert [group.settings["results_version"] for group in groups] == [2, 1]


def test_csv_holds_the_numbers(root: Root) -> None:
    finish(root, EIGHT)
    finish(root, CONTROLS, (0.6, 0.7, 0.65))
    tables.report(root.study)
    read = pd.read_csv(local(root.study.tables) / "DEMO_f1.csv")
    expected = pd.DataFrame(table_of(root))
    numbers = [name for name in expected if name.endswith(("_mean", "_low", "_high", "_n", "_sd", "_seconds"))]
    assert len(numbers) == (4 + 2) * 5 + 2 + 2
    assert read[numbers].to_numpy(float) == pytest.approx(expected[numbers].to_numpy(float), abs=1e-12, nan_ok=True)
    assert read["pretrain_batch_size"].tolist()[:2] == [8, 16]


def test_report_writes_everything_and_says_where(root: Root) -> None:
    finish(root, EIGHT)
    text = tables.report(root.study, PAPER)
    assert root.study.parquet.exists() and root.study.index.exists()
    kinds = {path.suffix for path in root.study.tables.iterdir() if path.stem == "DEMO_f1"}
    assert kinds == {".csv", ".md", ".tex", ".html"}
    assert text.endswith(f"written to {root.study.tables}")


def test_render_writes_nothing(root: Root) -> None:
    tables.render(root.study)
    assert [path.name for path in root.study.path.iterdir()] == ["plans"]


def full(folder: Path, counts: dict) -> Root:
    root = Root(folder, counts, TIMM)
    trials = cells(LARGE, "pretrain.batch_size", [8, 12, 16], SEEDS)
    root.plan(trials)
    for trial in trials:
        seconds = {"pretrain": 25000.0, "cnn": 3000.0, "vit": 5000.0}
        root.finish(trial, 0.93 + trial.seed / 100, 0.9, seconds=seconds)
    return root


def test_the_papers_setting_has_the_published_number_in_its_row(tmp_path: Path) -> None:
    root = full(tmp_path, BRAIN_MRI)
    rows = {(row["arm"], row["pretrain_batch_size"]): row for row in table_of(root, PAPER)}
    assert [rows["cnn", size]["published_value"] for size in (8, 16)] == [0.9895, 0.9909]
    assert rows["vit", 16]["published_value"] == 0.9276
    assert pd.isna(rows["cnn", 12]["published_value"])
    text = tables.render(root.study, PAPER)
    line = next(line for line in text.splitlines() if line.startswith("cnn  cass    16"))
    assert "0.9909" in line and "6.9 h + 50 min" in line
    assert "Published numbers, comparable:" in text and "not stated in the sources: finetuning epochs" in text
    assert "pretraining batch size: 8, 12, 16 here against 32 published" in text
    assert "pretraining took 7.2 h" in text


def test_a_subset_has_the_published_numbers_below_with_the_reason(tmp_path: Path) -> None:
    root = full(tmp_path, BRAIN_MRI_SUBSET)
    assert all(pd.isna(row["published_value"]) for row in table_of(root, PAPER))
    text = tables.render(root.study, PAPER)
    assert "publ." not in text and "Published numbers, comparable" not in text
    below = text.split("Published numbers, not comparable, because of:\n")[1]
    assert below.startswith("  training images: 1600 here against 5712 published\n  test images: 400 here against 1311")
    assert below.count("1600") == 1
    assert "CASS resnet50, batch 16, 100 epochs, 100 % labels: micro-F1 0.9909" in below


def test_without_published_counterpart_nothing_is_said(root: Root) -> None:
    assert "Published" not in tables.render(root.study)


def test_text_fits_the_terminal(tmp_path: Path, root: Root) -> None:
    finish(root, EIGHT)
    root.fail(SIXTEEN[0])
    finish(root, SIXTEEN[1:], SCORES[1:])
    finish(root, CONTROLS)
    for text in (tables.render(root.study, PAPER), tables.render(full(tmp_path / "full", BRAIN_MRI).study, PAPER)):
        lines = [line for line in text.splitlines() if "log: " not in line]
        assert max(map(len, lines)) <= 120
        assert text.isascii()


class TestProbes:
    def test_numbers(self, root: Root) -> None:
        for number, trial in enumerate(EIGHT):
            root.probe(trial, linear=0.6 + number / 100, knn=0.5)
        rows = table_of(root)
        assert rows[0]["linear_macro_f1_mean"] == pytest.approx(0.61) and rows[0]["linear_macro_f1_n"] == 3
        low, high = summarise([0.6, 0.61, 0.62]).low, summarise([0.6, 0.61, 0.62]).high
        assert [rows[0][f"linear_macro_f1_{end}"] for end in ("low", "high")] == pytest.approx([low, high])
        assert rows[3]["knn_macro_f1_mean"] == 0.25 and rows[1]["knn_macro_f1_n"] == 0

    def test_text(self, root: Root) -> None:
        finish(root, EIGHT)
        finish(root, SIXTEEN)
        for trial in EIGHT[:2]:
            root.probe(trial, linear=0.6)
        root.probe(SIXTEEN[0], linear=0.7)
        text = tables.render(root.study)
        head, _, eight, sixteen, control = text[text.index("arm  method") :].splitlines()[:5]
        assert "linear" in head and "kNN" not in head
        assert " 0.600 n=2 " in eight and " 0.700 n=1 " in sixteen and " missing " in control
        assert "probes of the frozen features" in " ".join(text.split())

    def test_without_any_there_is_no_column(self, root: Root) -> None:
        finish(root, EIGHT)
        text = tables.render(root.study)
        assert "kNN" not in text and "linear" not in text

    def test_markdown_has_the_interval(self, root: Root) -> None:
        finish(root, EIGHT)
        for trial in EIGHT:
            root.probe(trial, linear=0.6 + trial.seed / 100, knn=0.5)
        tables.report(root.study)
        text = (local(root.study.tables) / "DEMO_f1.md").read_text()
        assert f"| {summarise([0.6, 0.61, 0.62]).text()} n=3 | 0.500 [0.500, 0.500] n=3 |" in text
        assert "| missing | missing |" in text

    def test_the_text_fits_the_terminal(self, tmp_path: Path) -> None:
        root = full(tmp_path, BRAIN_MRI)
        for trial in cells(LARGE, "pretrain.batch_size", [8, 12, 16], SEEDS):
            root.probe(trial, linear=0.6, knn=0.5)
        text = tables.render(root.study, PAPER)
        assert max(map(len, text.splitlines())) <= 120
        assert "publ." in text and " time:" not in text  # it has a table of its own

    def test_probes_of_another_version_are_missing(self, root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
        root.probe(EIGHT[0], linear=0.6, knn=0.5)
        monkeypatch.setattr("cass_tune.results.trial.PROBES_VERSION", 2)
        assert table_of(root)[0]["linear_macro_f1_n"] == 0

    def test_tidy_columns(self, root: Root) -> None:
        root.probe(EIGHT[0], linear=0.6, knn=0.5)
        row = where(load(root.study), {"digest": root.digest(EIGHT[0]), "arm": "cnn"}).iloc[0]
        assert (row["linear_macro_f1"], row["linear_validation_macro_f1"], row["knn_auroc"]) == (0.6, 0.7, 0.6)
        assert (row["linear_c"], row["linear_converged"], row["knn_k"]) == (0.1, True, 20)
        assert row["status"] == "missing"


def test_command_line(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    finish(root, EIGHT)
    assert tables.main(["batch_ablation", "--results", str(root.results.root)]) == 0
    out, error = capsys.readouterr()
    assert out.startswith("DEMO: ") and not error
    assert tables.main([str(root.study.path)]) == 0


def test_command_line_of_an_unknown_study(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["batch_ablaton", "--results", str(root.results.root)]) == 2
    out, error = capsys.readouterr()
    assert not out and "batch_ablation" in error
    with pytest.raises(SystemExit) as caught:
        tables.main([])
    assert caught.value.code == 2


def test_command_line_takes_the_published_rows_of_the_page(
    root: Root, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = types.ModuleType("studies.batch_ablation")
    page.__dict__["STUDY"] = types.SimpleNamespace(published=PAPER)
    monkeypatch.setitem(sys.modules, "studies.batch_ablation", page)
    assert tables.main([str(root.study.path)]) == 0
    assert "Published numbers, not comparable" in capsys.readouterr().out


def test_command_line_without_a_page(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    root.plan(TRIALS, study="no_such_page")
    assert tables.main([str(root.study.path)]) == 0
    assert "Published" not in capsys.readouterr().out


def test_tables_as_data_as_the_page_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Root(tmp_path / "results")
    root.plan(TRIALS)
    finish(root, EIGHT)
    page = (REPOSITORY / "docs" / "notebooks.md").read_text(encoding="utf-8")
    first, second = (
        code
        for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
        if "split(" in code or "tables.sheets" in code
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(first + second, names)
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"f1 {names['tables'].sheets(names['study'])[0].numbers.shape}"
    assert {line.split()[0] for line in out.splitlines()} <= set(re.findall(r"`(\w+)`", page))
    assert not root.study.tables.exists()


def test_neither_torch_nor_ray_is_imported() -> None:
    code = "import sys, analysis.tables, analysis.plots; print({'torch', 'ray', 'studies'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "set()"
