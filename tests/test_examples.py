"""The examples of docs/extending.md run, and are as short as the page says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from cass_tune.config import Data
from cass_tune.data.catalog import list_images
from cass_tune.errors import UsageError
from cass_tune.randomness import generator
from tests import small

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
MOST_LINES = 30


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module(request.param)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short_and_named_by_a_page(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(lines) <= MOST_LINES
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert f"(examples/{path.name})" in pages


@pytest.mark.parametrize("example", ["rates"], indirect=True)
def test_a_study_of_ones_own(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.run("--local", study=example.STUDY, results=tmp_path) == 0
    assert "trials: 3 cells and 1 control without pretraining" in capsys.readouterr().out
    wanted = small.wanted(tmp_path, "rates")
    rates = [json.loads((tmp_path / "trials" / d[:12] / "config.json").read_text())["trial"] for d in wanted.values()]
    pairs = {(r["pretrain"]["learning_rate"], r["pretrain"]["vit_learning_rate"]) for r in rates}
    assert pairs >= {(1e-3, 1e-3), (1e-3, 1e-4), (1e-4, 1e-4)} and (1e-4, 1e-3) not in pairs


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Twelve patients of two hospitals, with two images each."""
    for patient in [*(f"A{number}" for number in range(8)), *(f"B{number}" for number in range(4))]:
        for label in ("benign", "malignant"):
            path = tmp_path / "clinic" / patient / f"{label}_01.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = generator(0, f"{patient}/{label}")
            Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(path)
    return tmp_path / "clinic"


@pytest.mark.parametrize("example", ["ultrasound"], indirect=True)
@pytest.mark.usefixtures("example")
def test_data_of_ones_own(exported: Path, tmp_path: Path) -> None:
    listing = list_images(Data(name="ultrasound:ultrasound", root=str(exported)))
    assert listing.name == "ultrasound"
    assert listing.counts() == {"train": {"benign": 8, "malignant": 8}, "test": {"benign": 4, "malignant": 4}}
    assert {item.group for item in listing.items if item.split == "test"} == {f"group:B{number}" for number in range(4)}
    words = ("--data.name", "ultrasound:ultrasound", "--data.root", str(exported), "--preset", "demo", "--local")
    few = ("--data.label-fraction", "1.0", "--data.pretrain-fraction", "1.0", "--pretrain.batch-size", "4")
    assert small.run(*words, *few, results=tmp_path / "results") == 0
    assert (tmp_path / "results" / "small" / "ultrasound-demo" / "plans").is_dir()
    assert small.run("--status", "--data.name", "ultrasound:ultrasound", results=tmp_path / "results") == 0


@pytest.mark.parametrize(
    ("name", "word"),
    [("no_such_module:f", "No module named"), ("json:nothing", "nothing"), ("json:__doc__", "function")],
)
def test_what_is_no_data_set_is_one_error(name: str, word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        list_images(Data(name=name))
    assert len(caught.value.problems) == 1 and f"--data.name {name}" in str(caught.value)
