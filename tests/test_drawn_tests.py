"""Repeated random splits through a whole study: of a set without a test part, each trial has the one drawn for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cass_tune.config import Data
from cass_tune.data.catalog import list_images
from cass_tune.data.listing import Listing
from cass_tune.data.listings import Listings
from cass_tune.results import Results, SearchFolder, StudyFolder
from cass_tune.search import Search
from cass_tune.storage import read_json
from cass_tune.study import Study
from tests import small, toy_search

SEEDS, FRACTIONS = (0, 1, 2), (0.2, 0.5)
CLASSES, OF_EACH = "ab", 20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images per class, without parts."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label in CLASSES:
        (folder / label).mkdir()
        for number in range(OF_EACH):
            pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


OPTIONS = {
    "--preset": "demo",
    "--data.image-size-px": "32",
    "--data.label-fraction": "1",
    "--data.pretrain-fraction": "1",
    "--pretrain.epochs": "1",
    "--finetune.epochs": "1",
}


def words(root: Path) -> list[str]:
    given = {"--data.name": "dermofit", "--data.root": str(root), **OPTIONS}
    return [word for pair in given.items() for word in pair]


def run(root: Path, results: Path, axis: str, values: Sequence[object], *more: str) -> int:
    study = Study(name="drawn", title="Every test part.", axes={axis: tuple(values)})
    return small.run(*words(root), *more, "--probes", "none", study=study, results=results)


def listing_of(root: Path, seed: int) -> Listing:
    return list_images(Data(name="dermofit", root=str(root), split_seed=seed))


def assert_own_test_part(root: Path, results: Results, digest: str, seed: int) -> frozenset[str]:
    """Compare what a finished trial has used with the listing of its seed; return the images of its test part."""
    record, config = results.trial(digest).result(), read_json(results.trial(digest).path / "config.json")
    assert record is not None and config is not None
    split: Any = read_json(results.split(record["split"]))
    own = listing_of(root, seed)
    assert config["inputs"]["data"] == split["fingerprint"] == own.fingerprint
    assert split["parts"]["test"] == [own.items[i].path for i in own.of_split("test")]
    return frozenset(split["parts"]["test"])


def test_every_trial_has_the_test_part_of_its_own_seed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, tmp_path, "data.split_seed", SEEDS, "--local", "--device", "cpu") == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("splits: "))
    results, tests = Results(tmp_path), set[frozenset[str]]()
    trials = StudyFolder(tmp_path / "drawn" / "dermofit-demo").plans()[-1]["trials"]
    assert len(trials) == 2 * len(SEEDS), "each with its control"
    for trial in trials:
        seed, record = trial["config"]["data"]["split_seed"], results.trial(trial["digest"]).result()
        tests.add(assert_own_test_part(root, results, trial["digest"], seed))
        assert record and f"{results.split(record['split']).stem} (split seed {seed})" in line
    assert len(tests) == len(SEEDS)


def test_the_plan_has_the_parts_of_every_trial(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, tmp_path, "data.test_fraction", FRACTIONS, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "data: dermofit, 32 train, 8 test or 20 train, 20 test images, classes a, b" in lines
    for fraction in FRACTIONS:
        assert any(f"A test part was drawn (--data.test-fraction {fraction}" in line for line in lines)
    assert any(line.startswith("splits: 2: ") for line in lines)


def test_a_batch_is_refused_that_is_too_large_for_one_of_the_parts(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("--dry-run", "--pretrain.batch-size", "20")
    assert run(root, tmp_path, "data.test_fraction", (0.2,), *line) == 0
    assert run(root, tmp_path, "data.test_fraction", FRACTIONS, *line) == 2
    assert "is larger than the 16 pretraining images" in capsys.readouterr().err


def test_what_trials_have_in_common_is_listed_once(root: Path) -> None:
    read = list[Data]()

    def listed(data: Data) -> Listing:
        read.append(data)
        return list_images(data)

    base = Data(name="dermofit", root=str(root))
    same = [base, replace(base, label_fraction=0.1), replace(base, folds=3, fold=2), replace(base, image_size_px=8)]
    other = [replace(base, split_seed=1), replace(base, test_fraction=0.5), replace(base, split_column="second")]
    listings = Listings(same, listed)
    assert read == [base] and listings.known == (listings.first,)
    assert [listings(data) is listings.first for data in (*same, *other)] == [True] * 4 + [False] * 3
    assert read == [base, *other]


def test_a_search_over_the_seed_of_the_parts(root: Path, tmp_path: Path) -> None:
    search = Search(
        name="drawn",
        title="The test part that is easiest to guess.",
        space=lambda trial: {"data.split_seed": trial.suggest_categorical("seed", SEEDS)},
    )
    options = ("--trials", "3", "--algorithm", "random", "--local", "--pruner", "none")
    assert toy_search.run(*words(root), *options, search=search, results=tmp_path) == 0
    (history,) = (tmp_path / "drawn" / "dermofit-demo" / "search").iterdir()
    trials = [record["trial"] for record in SearchFolder(history).suggestions()]
    seen = {
        trial["config"]["data"]["split_seed"]: read_json(Results(tmp_path).trial(trial["digest"]).path / "config.json")
        for trial in trials
    }
    assert len(seen) > 1, "or this tests nothing"
    for seed, config in seen.items():
        assert config and config["inputs"]["data"] == listing_of(root, seed).fingerprint
