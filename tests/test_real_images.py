"""A whole study on real brain MRI, in small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis import write_report
from cass_tune.results import Results, StudyFolder
from studies.batch_ablation import STUDY

SMALL = [
    *("--preset", "demo", "--seeds", "0", "--pretrain.batch-size", "16", "--pretrain.epochs", "1"),
    *("--finetune.epochs", "2", "--data.pretrain-fraction", "0.05", "--data.label-fraction", "0.1"),
]


@pytest.mark.real_data
@pytest.mark.ray
def test_the_batch_ablation_on_brain_mri(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--data.name", "brain_mri", "--data.root", str(real_data / "brain_mri"), "--results", str(tmp_path)]
    assert STUDY.main(write_report, [*SMALL, *place]) == 0
    out = capsys.readouterr().out
    assert "data: brain_mri, 1600 train, 400 test images, classes glioma, meningioma, notumor, pituitary" in out
    assert "identical" in out  # 20 groups of identical files, 3 across the parts
    assert "training images: 1600 here against 5712 published" in out
    folder = StudyFolder(tmp_path / "batch_ablation" / "brain_mri-demo")
    trials = folder.plans()[-1]["trials"]
    results = [Results(tmp_path).trial(trial["digest"]).result() for trial in trials]
    assert [result is not None and result["images"]["test"] for result in results] == [400, 400]
    assert (folder.tables / "DEMO_f1.csv").is_file()
    assert (folder.plots / "DEMO_f1.png").is_file() or list(folder.plots.glob("DEMO_*.png"))

    assert STUDY.main(write_report, [*SMALL, *place]) == 0
    assert "finished: 2 done; to run: 0" in capsys.readouterr().out


@pytest.mark.real_data
def test_a_truncated_image_is_named_and_can_be_skipped(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "images"
    for part in ("Training", "Testing"):
        for source in sorted((real_data / "brain_mri" / part).iterdir()):
            (root / part / source.name).mkdir(parents=True)
            for image in sorted(source.iterdir())[:12]:
                (root / part / source.name / image.name).write_bytes(image.read_bytes())
    damaged = sorted((root / "Training" / "glioma").iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:2000])
    place = ["--data.name", "brain_mri", "--data.root", str(root), "--results", str(tmp_path / "results"), "--local"]
    small = [word if word not in ("0.05", "0.1") else "1.0" for word in SMALL]
    assert STUDY.main(write_report, [*small, *place]) == 2
    error = capsys.readouterr().err
    assert f"Training/glioma/{damaged.name}" in error
    assert "--data.on-bad-image skip" in error
    assert not (tmp_path / "results").exists()

    assert STUDY.main(write_report, [*small, *place, "--data.on-bad-image", "skip"]) == 0
    for path in (tmp_path / "results" / "trials").glob("*/result.json"):
        assert list(json.loads(path.read_text())["bad_images"]) == [f"Training/glioma/{damaged.name}"]
