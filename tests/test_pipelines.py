"""The route of the augmentation is a choice of the trial: another one is another trial, with results of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.results import load
from cass_tune import extras
from cass_tune.results import Results
from cass_tune.study import Study
from tests import small

PIPELINES = ("torchvision-1", "opencv-1", "device-1")
STUDY = Study(name="pipelines", title="Routes", axes={"data.pipeline": PIPELINES})


def test_all_routes_train_and_are_told_apart(tmp_path: Path) -> None:
    assert small.run("--local", study=STUDY, results=tmp_path) == 0
    (folder,) = Results(tmp_path).studies()
    frame = load(folder)
    assert set(frame["status"]) == {"done"} and set(frame["data_pipeline"]) == set(PIPELINES)
    assert len(set(frame["digest"])) == 6, "each with its control"
    assert len(list(tmp_path.glob("stages/*"))) == 3


def test_opencv_is_asked_for_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda package: None)
    assert small.run("--local", study=STUDY, results=tmp_path) == 2
    expected = 'opencv-1 needs the package cv2, which is not installed: pip install "cass-tune[opencv]".'
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.glob("trials/*"))
