"""The studies that compare methods: which trials they want, with which settings, and one small real run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis import write_report
from cass_tune.config import Trial, get_field, with_field
from cass_tune.options import parse
from cass_tune.presets import as_method, of_method
from cass_tune.results import StudyFolder
from studies.method_comparison import STUDY as COMPARISON
from studies.robustness import STUDY as ROBUSTNESS
from tests import small

DRY = ("--dry-run", "--seeds", "0")


def said(capsys: pytest.CaptureFixture[str], *arguments: str, study=COMPARISON) -> list[str]:
    assert study.main(write_report, [*DRY, *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def names(lines: list[str]) -> list[str]:
    return [line.partition("missing")[2].strip() for line in lines if "  missing  " in line]


def test_the_comparison_wants_every_method_and_fraction_and_names_what_differs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = said(capsys, "--results", str(tmp_path))
    assert "trials: 9 cells and 3 controls without pretraining, 1 seed (0): 12" in lines
    assert "pretraining: 3 distinct, 90 epochs asked for, 30 to run (what trials have in common is done once)" in lines
    assert names(lines)[3:6] == [f"dino label_fraction={share} seed=0" for share in ("0.01", "0.1", "1")]
    assert names(lines)[-1] == "none label_fraction=1 seed=0"


def test_robustness_changes_one_setting_at_a_time(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines = said(capsys, "--results", str(tmp_path), study=ROBUSTNESS)
    assert "trials: 10 cells and 1 control without pretraining, 1 seed (0): 11" in lines
    of_cass = [name for name in names(lines) if name.startswith("cass")]
    assert sorted(of_cass) == sorted(
        f"cass epochs={epochs} batch_size={batch} seed=0"
        for epochs, batch in ((10, 8), (5, 16), (10, 16), (20, 16), (10, 32))
    )
    assert any("note: pretrainings of different lengths share nothing" in line for line in lines), "DINO's"


def test_dino_brings_its_papers_schedule_and_cass_keeps_its_own() -> None:
    dino = as_method(with_field(Trial(), "pretrain.method", "dino"), ())
    expected = {"schedule": "cosine_to_end", "warmup_epochs": 10, "optimiser": "adamw", "clip_norm": 3.0}
    assert {name: getattr(dino.pretrain, name) for name in expected} == expected
    assert dino.pretrain.learning_rate == pytest.approx(0.0005 * 16 / 256)
    assert (dino.pretrain.weight_decay, dino.pretrain.weight_decay_end) == (0.04, 0.4)
    assert as_method(Trial(), ()) == Trial()
    assert of_method(with_field(Trial(), "pretrain.method", "supervised")) == {}


def test_the_learning_rate_follows_the_batch_and_the_warm_up_a_short_run() -> None:
    short = with_field(with_field(Trial(), "pretrain.epochs", 4), "pretrain.batch_size", 32)
    dino = as_method(with_field(short, "pretrain.method", "dino"), ())
    assert dino.pretrain.learning_rate == pytest.approx(0.0005 * 32 / 256)
    assert dino.pretrain.warmup_epochs == 0


def test_what_the_user_gives_stays(tmp_path: Path) -> None:
    given = parse(
        ["--pretrain.learning-rate", "0.002"], prog="x", description="x", axes=COMPARISON.axes, folder=tmp_path
    )
    trial = with_field(with_field(Trial(), "pretrain.method", "dino"), "pretrain.learning_rate", 0.002)
    assert get_field(as_method(trial, given.fields), "pretrain.learning_rate") == 0.002


def test_what_does_not_go_with_a_method_is_one_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = COMPARISON.main(write_report, [*DRY, "--results", str(tmp_path), "--pretrain.schedule", "cosine"])
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--pretrain.warmup-epochs must be 0 with --pretrain.schedule cosine" in line


def test_a_small_comparison_runs_and_its_table_has_every_method(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    few = ("--data.label-fraction", "0.1", "--dino.outputs", "64", "--dino.local-crops", "2", "--local")
    assert small.run(*few, "--seeds", "0", "1", study=COMPARISON, results=tmp_path) == 0
    study = StudyFolder(tmp_path / "method_comparison" / "phantom-demo")
    assert write_report(study, COMPARISON.published)
    table = pd.read_csv(small.local(study.tables) / "DEMO_methods.csv")
    found = [(row["arm"], row["pretrain_method"], row["macro_f1_n"]) for row in table.to_dict("records")]
    assert found == [(arm, name, 2) for arm in ("cnn", "vit") for name in ("cass", "dino", "supervised", "none")]
    of_dino = table.loc[table["pretrain_method"] == "dino"]
    assert (of_dino["times_mean"] > 1).all() and (of_dino["difference_n"] == 2).all()
