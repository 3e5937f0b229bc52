"""The plan of a study, line by line."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from cass_tune.study import Study
from studies.batch_ablation import STUDY as BATCHES
from studies.epoch_ablation import STUDY as EPOCHS
from studies.paper_grid import STUDY as GRID
from tests import small

Plan = Callable[..., list[str]]


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Plan:
    """Return the lines of a dry run before those of the trials."""

    def run(line: str, study: Study = GRID) -> list[str]:
        code = study.main(small.report, [*line.split(), "--dry-run", "--results", str(tmp_path / "results")])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return [text for text in out.splitlines() if not re.match(r"  [0-9a-f?]{12} ", text)][:-1]

    return run


PAPER = "--preset paper --data.name phantom"


def test_the_papers_grid(plan: Plan) -> None:
    lines = plan(f"{PAPER} --price 3")
    disk = lines.pop()
    assert lines == [
        "PAPER paper_grid: preset paper, as asked for, on phantom.",
        "data: phantom, 400 train, 200 test images, classes glioma, meningioma, notumor, pituitary",
        "split: a1b56330190e84f5",
        "trials: 27 cells and 3 controls without pretraining, 1 seed (0): 30",
        "finished: none; to run: 30",
        "pretraining: 3 distinct, 3150 epochs asked for, 600 to run (what trials have in common is done once)",
        "  batch_size=8 seed=0: 200 epochs, also the ends of 50 and 100; 9 trials",
        "  batch_size=16 seed=0: 200 epochs, also the ends of 50 and 100; 9 trials",
        "  batch_size=32 seed=0: 200 epochs, also the ends of 50 and 100; 9 trials",
        "samples: 740,000 to train on, 2.372 M without sharing (3.21 times as many)",
        "hours: at published rates (nothing was measured here) about 4.8 GPU-hours on a V100 (24 images/s), "
        "about 16 GPU-hours on a T4 (7.15 images/s)",
        "cost: about 14.32 on a V100, 48.07 on a T4, at 3 per GPU-hour",
    ]
    assert disk.startswith(
        "disk: at most 12.1 GB for 9 ends of pretrainings, 13.5 GB for finetuned networks, "
        "4.05 GB of checkpoints per running trial; "
    )


def test_five_seeds_of_the_papers_grid(plan: Plan) -> None:
    lines = plan(f"{PAPER} --seeds 0 1 2 3 4")
    assert lines[3] == "trials: 27 cells and 3 controls without pretraining, 5 seeds (0 1 2 3 4): 150"
    assert lines[5].startswith("pretraining: 15 distinct, 15750 epochs asked for, 3000 to run")
    assert lines[9] == "  and 12 more that are shared"
    assert len([line for line in lines if not line.startswith("warning: this does not fit")]) == 13


def test_the_trunk_of_a_schedule_that_decays(plan: Plan) -> None:
    lines = plan(f"{PAPER} --pretrain.schedule wsd")
    assert "690 to run" in lines[5]
    assert lines[6] == (
        "  batch_size=8 seed=0: a trunk of 160 epochs, from which decays of 10, 20 and 40 lead to 50, 100 and 200; "
        "9 trials"
    )


def test_patience_makes_samples_and_hours_the_most_that_can_be(plan: Plan) -> None:
    lines = plan(f"{PAPER} --recipe corrected")
    assert lines[9].startswith("samples: at most ")
    assert lines[10].endswith("; less where --finetune.patience ends a finetuning before")


def test_why_lengths_share_nothing(plan: Plan) -> None:
    lines = plan(f"{PAPER} --pretrain.schedule cosine_to_end", EPOCHS)
    assert "3 distinct, 350 epochs asked for, 350 to run" in lines[5]
    assert lines[6].startswith("  note: pretrainings of different lengths share nothing: the learning rate of ")
    assert lines[7].endswith(" without sharing")


def test_why_batch_sizes_share_nothing(plan: Plan) -> None:
    lines = plan("--seeds 0", BATCHES)
    assert lines[6] == "  note: no two trials have a pretraining in common: they differ in batch_size"
    lines = plan("--seeds 0 1", BATCHES)
    assert lines[6] == "  note: no two trials have a pretraining in common: they differ in batch_size and seed"


def test_one_trial_is_not_said_to_share_nothing(plan: Plan) -> None:
    assert not any("  note: " in line for line in plan("--seeds 0 --pretrain.batch-size 8", BATCHES))


def test_nothing_known_of_other_networks(plan: Plan) -> None:
    lines = plan(f"{PAPER} --pretrain.weights random --pretrain.cnn resnet18.a1_in1k --price 3")
    assert lines[-2:] == [
        "hours: not known before a trial of this kind has run here, or a probe at the start of a run",
        "disk: not known before the networks are built, at the start of a run",
    ]


def test_a_finished_study_has_no_hours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.run("--local", "--pretrain.learning-rate", "0.001", results=tmp_path) == 0
    first = capsys.readouterr().out.splitlines()
    assert first[6].startswith("samples: ") and first[7].startswith("hours: not known before")
    assert first[8].startswith("disk: at most 10.1 MB for 1 end of pretrainings, 6.73 MB for finetuned networks")
    assert small.run("--local", "--pretrain.learning-rate", "0.001", results=tmp_path) == 0
    again = capsys.readouterr().out.splitlines()
    assert "finished: 2 done; to run: 0" in again[4] and again[5].startswith("pretraining: 1 distinct")
    assert not any(line.startswith(("samples:", "hours:", "disk:")) for line in again)

    small.run("--dry-run", "--price", "2", "--pretrain.learning-rate", "0.001", "--seeds", "0", "1", results=tmp_path)
    longer = capsys.readouterr().out.splitlines()
    assert longer[6] == "  note: no two trials have a pretraining in common: they differ in seed"
    assert longer[8] == "hours: less than 0.01 machine-hours, by earlier trials of the same kind"
    assert longer[9] == "cost: about 0.00, at 2 per machine-hour"

    small.run("--dry-run", "--pretrain.learning-rate", "0.001", "--seeds", "7", results=tmp_path)
    assert ", by earlier trials of the same kind\n" in capsys.readouterr().out, "though none of these has run"


@pytest.mark.parametrize("leaks", ["keep", "drop"])
def test_leaks_that_are_left_out(plan: Plan, tmp_path: Path, leaks: str) -> None:
    for number, (part, label) in enumerate(product(("train", "test"), "ab")):
        (tmp_path / "images" / part / label).mkdir(parents=True)
        for copy in range(9):
            level = 0 if (copy, label) == (0, "a") else 20 * copy + number + 1
            Image.new("L", (4, 4), level).save(tmp_path / "images" / part / label / f"{copy}.png")
    options = "--preset demo --data.name folder --pretrain.batch-size 4 --data.pretrain-fraction 1"
    lines = plan(f"{options} --data.root {tmp_path / 'images'} --data.leaks {leaks}", BATCHES)
    assert any("1 set of identical files in more than one part" in line for line in lines)
    (place,) = (place for place, line in enumerate(lines) if line.startswith("split: "))
    note = "  note: --data.leaks drop leaves out 1 training image whose group"
    assert lines[place + 1].startswith(note) == (leaks == "drop")
