"""One study by every way to it: its folder, the results root, Ray's folder, Ray's ResultGrid."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.epochs import load_epochs
from analysis.predictions import load_predictions
from analysis.results import load
from analysis.sources import open_source, read_all
from cass_tune.config import to_json
from cass_tune.errors import UsageError
from cass_tune.results import Results
from cass_tune.training.rows import COLUMNS as ROW_COLUMNS
from tests import small
from tests.analysis.synthetic import RANDOM, SMALL, Root, cells, replace
from tests.objects import ObjectStore

REPOSITORY = Path(__file__).parents[2]
TRIALS = cells(SMALL, "pretrain.batch_size", [8, 16], (0, 1))
OF_THE_PLAN = ["recipe", "listed_train", "listed_validation", "listed_test", "plan", "order"]
"""Columns that only a plan knows."""


@dataclasses.dataclass
class Result:
    """What a ``ray.tune.Result`` says."""

    config: dict[str, Any] | None
    path: str


class Grid:
    """A ``ResultGrid`` of these results."""

    experiment_path = "/ray/experiment"

    def __init__(self, results: Iterable[Result]) -> None:
        self._results = list(results)

    def __len__(self) -> int:
        return len(self._results)

    def __getitem__(self, i: int) -> Result:
        return self._results[i]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A study with two trials done and one that failed."""
    root = Root(tmp_path / "results")
    root.plan(TRIALS)
    for trial, score in ((TRIALS[2], 0.7), (TRIALS[4], 0.8)):
        root.finish(trial, score, score / 2)
    root.fail(TRIALS[3])
    return root


def experiment(root: Root, folder: Path, *, with_inputs: bool = True) -> list[dict[str, Any]]:
    """Write what Ray keeps of the study's trials, and return their configurations."""
    configs = []
    for number, trial in enumerate(TRIALS):
        run = {"trial": to_json(trial), **({"inputs": vars(root.inputs)} if with_inputs else {})}
        configs.append({"run": run, "results": str(root.results.root)})
        place = folder / f"trainable_{len(TRIALS) - number}"  # not in the order of the names
        place.mkdir(parents=True)
        (place / "params.json").write_text(json.dumps(configs[-1]))
        (place / "params.pkl").write_bytes(b"never read")
        (place / "result.json").write_text(json.dumps({"trial_id": f"abcde_{number:05}", "phase": "pretrain"}) + "\n")
    return configs


def same(one: pd.DataFrame, other: pd.DataFrame, by: list[str]) -> None:
    """Check all cells but those that only a plan knows."""
    frames = [frame.drop(columns=OF_THE_PLAN, errors="ignore") for frame in (one, other)]
    first, second = (frame.sort_values(by).reset_index(drop=True) for frame in frames)
    pd.testing.assert_frame_equal(first, second, check_categorical=False)


def test_paths_of_one_study_are_all_the_same(root: Root) -> None:
    expected = load(root.study)
    folder = root.study.path
    for source in (folder, str(folder), folder.parent, root.results.root, str(root.results.root)):
        pd.testing.assert_frame_equal(load(source), expected)


def test_of_several_studies_all_are_named(root: Root) -> None:
    other = root.results.study("epoch_ablation", "brain_mri-paper")
    other.write_plan(root.study.plans()[0])
    with pytest.raises(UsageError, match="holds 2") as caught:
        load(root.results.root)
    assert str(other.path) in str(caught.value) and str(root.study.path) in str(caught.value)
    assert len(load(other.path.parent)) == 2 * len(TRIALS)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "There is no folder"),
        (lambda folder: folder.mkdir(), "No study has run in"),
        (lambda folder: (folder / "trials" / "abc").mkdir(parents=True), "No study has run in"),
    ],
)
def test_an_empty_or_missing_folder(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path / "root")
    for function in (load, load_epochs, load_predictions):
        with pytest.raises(UsageError, match=f"{words}.*root"):
            function(tmp_path / "root")


def test_trials_without_a_study_are_counted(root: Root) -> None:
    shutil.rmtree(str(root.study.path.parent))
    with pytest.raises(UsageError, match="holds 3 trials that no study asked for: give the folder of the Ray"):
        load(root.results.root)


def test_a_source_of_another_kind() -> None:
    with pytest.raises(UsageError, match="but got int"):
        load(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("with_inputs", [True, False])
def test_an_experiment_of_ray_is_read_from_its_json(root: Root, tmp_path: Path, with_inputs: bool) -> None:
    folder = tmp_path / "ray_results" / "mine"
    configs = experiment(root, folder, with_inputs=with_inputs)
    found, expected = load(folder), load(root.study)
    states = ("missing", "missing", "done", "failed", "done", "missing")
    assert found["status"].tolist() == [state for state in states for _ in "ab"]
    assert found["digest"].isna().tolist().count(True) == (0 if with_inputs else 6), (
        "without record and inputs there is no identity"
    )
    known = found.loc[found["digest"].notna()].drop(columns="name")  # a control's is written by hand in the plan
    there = expected.loc[expected["digest"].isin(known["digest"].tolist())].drop(columns="name")
    same(known, there, ["digest", "arm"])
    pd.testing.assert_frame_equal(load(Grid(Result(config, "") for config in configs)), found)


def test_a_trial_without_rows_is_found_by_its_folder(
    root: Root, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray's Result knows its configuration from its rows alone; a trial that never started has nothing."""
    experiment(root, tmp_path / "mine")
    results = [Result(None, str(path)) for path in sorted((tmp_path / "mine").iterdir())]
    with caplog.at_level(logging.WARNING):
        found = load(Grid([*results, Result(None, str(tmp_path / "none"))]))
    assert len(found) == 2 * len(TRIALS)
    assert "1 trials of /ray/experiment never started" in caplog.text


def test_a_results_root_that_was_moved_with_its_experiments(root: Root, tmp_path: Path) -> None:
    experiment(root, tmp_path / "results" / "ray" / "batch_ablation" / "1")
    (tmp_path / "results").rename(tmp_path / "moved")
    found = load(tmp_path / "moved" / "ray" / "batch_ablation" / "1")
    assert len(found["macro_f1"].dropna()) == 4


def test_an_experiment_whose_results_are_gone(root: Root, tmp_path: Path) -> None:
    experiment(root, tmp_path / "mine")
    shutil.rmtree(tmp_path / "results")
    with pytest.raises(UsageError, match=r"The results root .*results that .*mine names is not there"):
        load(tmp_path / "mine")


def test_an_experiment_with_another_trainable(tmp_path: Path) -> None:
    (tmp_path / "mine" / "t").mkdir(parents=True)
    (tmp_path / "mine" / "t" / "params.json").write_text('{"lr": 0.1}')
    with pytest.raises(UsageError, match=r"no experiment with cass_tune.runner.trainable: a configuration has lr"):
        load(tmp_path / "mine")


def test_two_trials_that_one_description_fits(root: Root, tmp_path: Path) -> None:
    """The same trial on other data: without inputs nobody knows which of them Ray ran."""
    experiment(root, tmp_path / "mine", with_inputs=False)
    folder = root.results.trial("f" * 64)
    folder.write_config({"trial": to_json(TRIALS[2]), "inputs": {"data": "1", **RANDOM}, "results_version": 1})
    with pytest.raises(UsageError, match="2 trials in the results root have the description of one"):
        load(tmp_path / "mine")


def test_a_damaged_description_in_the_root_is_passed_over(root: Root, tmp_path: Path) -> None:
    experiment(root, tmp_path / "mine")
    (tmp_path / "results" / "trials" / root.digest(TRIALS[2])[:12] / "config.json").write_text("{")
    other = tmp_path / "results" / "trials" / "0" / "config.json"
    other.parent.mkdir()
    other.write_text(json.dumps({"trial": {"pretrain": {"unknown": 1}, "seed": 0}, "inputs": {}, "digest": ""}))
    assert len(load(tmp_path / "mine")["macro_f1"].dropna()) == 4


@pytest.mark.parametrize("threads", [1, 3])
def test_reading_ahead_keeps_the_order_and_raises(root: Root, threads: int) -> None:
    opened = open_source(root.study)
    assert list(read_all(opened, lambda number: number * 2, range(100), threads)) == list(range(0, 200, 2))
    assert list(read_all(opened, str, [], threads)) == []
    with pytest.raises(ZeroDivisionError):
        list(read_all(opened, lambda number: 1 // (number - 50), range(100), threads))


def test_an_object_store_is_read_as_a_folder_is(object_store: ObjectStore) -> None:
    object_store.make_bucket("tables")
    store = Root("s3://tables/results")
    store.plan(TRIALS)
    store.finish(TRIALS[2], 0.7)
    store.compute(TRIALS[2], "finetune_cnn", [1.0, 2.0])
    frame = load(str(store.results.root))
    assert frame["status"].tolist() == ["missing"] * 4 + ["done"] * 2 + ["missing"] * 6
    assert load_epochs(str(store.study.path))["seconds"].tolist() == [1.0, 2.0]
    assert load_predictions(store.study).empty


def test_the_records_are_loaded_without_torch_and_ray() -> None:
    modules = ("results", "epochs", "predictions", "factors", "paired", "tables", "published", "statistics")
    imports = ", ".join(f"analysis.{name}" for name in modules)
    code = f"import sys, {imports}; print([name for name in ('torch', 'ray') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.ray
def test_root_ray_folder_and_result_grid_agree_cell_by_cell(one_cpu: None, tmp_path: Path) -> None:
    """One undisturbed run, as the study's command makes it; and a bare Tuner that reports its stored rows."""
    from ray import tune

    from cass_tune.runner import trainable

    root = tmp_path / "results"
    assert small.run("--pretrain.learning-rate", "0.001", results=root) == 0
    (folder,) = (root / "ray" / "small").iterdir()
    grid = tune.Tuner.restore(str(folder), trainable=trainable).get_results()

    runs = [{"trial": trial["config"]} for trial in load_plan(root)]
    space = {"run": tune.grid_search(runs), "results": str(root)}
    run_config = tune.RunConfig(storage_path=str(tmp_path / "bare"), name="bare", verbose=0)
    bare = tune.Tuner(tune.with_resources(trainable, {"cpu": 1}), param_space=space, run_config=run_config).fit()

    for function, keys in (
        (load, ["digest", "arm"]),
        (load_epochs, ["digest", "phase", "epoch"]),
        (load_predictions, ["digest", "arm", "split", "image"]),
    ):
        expected = function(root)
        assert len(expected) > 3
        for source in (folder, grid, bare, tmp_path / "bare" / "bare"):
            same(function(source), expected, keys)
    of_ray(folder, load_epochs(root))


def load_plan(root: Path) -> list[dict[str, Any]]:
    (study,) = Results(root).studies()
    return study.plans()[-1]["trials"]


def of_ray(folder: Path, epochs: pd.DataFrame) -> None:
    """Check that the rows are those that Ray has kept, number by number; who computed them is another matter."""
    rows = [row for path in folder.glob("*/result.json") for row in small.json_lines(path)]
    reported = pd.DataFrame(rows)
    names = [name for name in ROW_COLUMNS if name not in ("phase", "reused", "collapsed")]
    digests = reported["config"].map(lambda config: config["run"]["trial"]["pretrain"]["method"])
    assert len(reported) == len(epochs)
    for method, own in reported.groupby(digests):
        digest = next(t["digest"] for t in load_plan(folder.parents[2]) if t["config"]["pretrain"]["method"] == method)
        ours = epochs.loc[epochs["digest"] == digest]
        assert ours["phase"].tolist() == own["phase"].tolist()
        np.testing.assert_array_equal(ours[names].astype(float).to_numpy(), own[names].astype(float).to_numpy())


def test_a_plan_that_was_extended_later_has_all_its_trials(root: Root) -> None:
    longer = [replace(trial, pretrain_epochs=9) for trial in TRIALS[2:4]]
    root.plan(longer)
    root.finish(longer[0], 0.9)
    frame = load(root.study)
    assert len(frame) == 2 * (len(TRIALS) + 2)
    assert frame["plan"].tolist()[:4] == [0] * 4 and frame["plan"].tolist()[4:] == [1] * 2 * len(TRIALS)
    assert frame.loc[frame["macro_f1"] == 0.9, "pretrain_epochs"].tolist() == [9, 9]
