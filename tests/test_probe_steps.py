"""Probes within a trial and a study: stored once, the same whatever happened, and no number of the training changed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from analysis.results import load
from cass_tune import finetune_steps, pretrain_steps, probe_steps
from cass_tune.config import ARMS, PROBES, control
from cass_tune.errors import Interrupted
from cass_tune.notices import Stop
from cass_tune.pretrain_steps import extract
from cass_tune.results import Record, Results, StudyFolder
from cass_tune.trial import RunOptions, run_trial
from tests import runs, small, tiny
from tests.runs import Run

TRIAL = tiny.trial()
run = partial(runs.run, probes=PROBES)
MONITORED = [f"{arm}_knn_macro_f1" for arm in ARMS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trial with both probes, whose pretraining was probed as well."""
    return run(TRIAL, tmp_path_factory.mktemp("finished"), probe_every=1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same trial without any probe."""
    return run(TRIAL, tmp_path_factory.mktemp("plain"), probes=())


@pytest.fixture
def unprobed(plain: Run, tmp_path: Path) -> Run:
    """A copy of the trial without any probe, to do with as a test likes."""
    return replace(plain, root=Path(shutil.copytree(plain.root, tmp_path / "unprobed")))


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr(pretrain_steps, "Pretraining", fail)
    monkeypatch.setattr(finetune_steps, "Finetuning", fail)


def probes(done: Run) -> Record:
    """Return the probes of a trial without the times they took."""
    record = done.folder.probes()
    assert record is not None
    untimed = {
        arm: {name: {k: v for k, v in values.items() if k != "seconds"} for name, values in of_arm.items()}
        for arm, of_arm in record["arms"].items()
    }
    return {**record, "arms": untimed}


def without_probes(done: Run) -> Record:
    numbers = done.numbers()
    rows = [{name: value for name, value in row.items() if name not in MONITORED} for row in numbers["rows"]]
    return {**numbers, "rows": rows}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_record(finished: Run) -> None:
    record = finished.folder.probes()
    assert record is not None
    assert (record["version"], record["digest"], record["threads"]) == (1, finished.folder.digest, 1)
    assert record["labelled"] == finished.result["images"]["labelled"] == 32
    for arm, dimensions in (("cnn", 96), ("vit", 64)):
        found = record["arms"][arm]
        assert found["features"]["dimensions"] == dimensions
        assert found["knn"]["k"] == 20 and found["linear"]["converged"] is True
        for probe in PROBES:
            assert found[probe]["seconds"] > 0
            assert found[probe]["validation"]["n"] == finished.result["images"]["validation"]
            assert found[probe]["test"]["n"] == finished.result["images"]["test"]
            assert 0.25 < found[probe]["test"]["macro_f1"] < 1


def test_no_number_of_the_training_changes(finished: Run, plain: Run) -> None:
    assert plain.folder.probes() is None
    assert without_probes(finished) == without_probes(plain)


def test_rows_of_the_pretraining(finished: Run, plain: Run) -> None:
    found = [[row[name] for name in MONITORED] for row in finished.rows]
    assert all(0.25 < score < 1 for scores in found[:2] for score in scores)
    assert found[2:] == [[None, None]] * 4
    assert [[row[name] for name in MONITORED] for row in plain.rows] == [[None, None]] * 6


def test_every_second_epoch(tmp_path: Path) -> None:
    found = run(tiny.trial({"pretrain.epochs": 3, "finetune.epochs": 1}), tmp_path, probe_every=2, probes=())
    assert [row["cnn_knn_macro_f1"] is not None for row in found.rows] == [False, True, False, False, False]


def test_the_neighbours_do_not_depend_on_the_label_fraction(finished: Run, tmp_path: Path) -> None:
    other = tiny.trial({"data.label_fraction": 0.05, "finetune.epochs": 1})
    rows = run(other, tmp_path, probe_every=1, probes=()).rows
    assert [[row[name] for name in MONITORED] for row in rows[:2]] == [
        [row[name] for name in MONITORED] for row in finished.rows[:2]
    ]


def test_the_control_is_probed_as_well(tmp_path: Path, no_training: None) -> None:
    with pytest.raises(AssertionError, match="it trains"):
        run(control(TRIAL), tmp_path, max_failures=0)
    done = Run(trial=control(TRIAL), root=tmp_path, rows=[])
    assert done.folder.missing_probes(PROBES) == [] and not done.folder.is_finished()


class TestInterrupted:
    def interrupted_after(self, calls: int, root: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Run:
        """Run the trial, stop it so many batches of features after its start, and run it again."""
        stop, seen = Stop(), []

        def counting(model: Any, batches: Any, between: Any) -> Any:
            def each() -> None:
                seen.append(1)
                if len(seen) == calls:
                    stop.request("the test stops it")
                between()

            return extract(model, batches, each)

        with monkeypatch.context() as patch:
            patch.setattr(pretrain_steps, "extract", counting)
            patch.setattr(probe_steps, "extract", counting)
            with pytest.raises(Interrupted):
                list(run_trial(TRIAL, Results(root), RunOptions(**options), stop=stop))
        return run(TRIAL, root, **options)

    @pytest.mark.parametrize("calls", [4, 9])
    def test_in_the_probe_of_an_epoch(
        self, calls: int, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        again = self.interrupted_after(calls, tmp_path, monkeypatch, probe_every=1)
        attempts = again.folder.attempts()
        assert [attempt["ended"]["how"] for attempt in attempts] == ["interrupted", "finished"]
        assert again.numbers() == finished.numbers() and probes(again) == probes(finished)
        assert attempts[1]["resumed"]["phase"] == "pretrain" and attempts[1]["resumed"]["batch"] == 4

    def test_in_the_probes(self, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        again = self.interrupted_after(7, tmp_path, monkeypatch)
        assert without_probes(again) == without_probes(finished) and probes(again) == probes(finished)

    def test_what_is_there_is_not_measured_again(
        self, unprobed: Run, finished: Run, monkeypatch: pytest.MonkeyPatch, no_training: None
    ) -> None:
        run(TRIAL, unprobed.root, probes=("knn",))
        monkeypatch.setattr(probe_steps, "knn_probe", None)
        run(TRIAL, unprobed.root)
        assert probes(unprobed) == probes(finished)
        monkeypatch.setattr(probe_steps, "extract", None)
        before = contents(unprobed.root)
        run(TRIAL, unprobed.root)
        assert contents(unprobed.root) == before


class TestLate:
    def test_only_probes_are_computed(self, unprobed: Run, finished: Run, no_training: None) -> None:
        before = contents(unprobed.root)
        again = run(TRIAL, unprobed.root)
        assert probes(unprobed) == probes(finished)
        assert [row["reused"] for row in again.rows] == [True] * 6
        after = contents(unprobed.root)
        changed = {name.rpartition("/")[2] for name in after if after[name] != before.get(name)}
        assert changed <= {"probes.json", "log.txt"} and before.keys() <= after.keys()

    def test_workers_change_nothing_and_the_trials_own_threads_stay(
        self, unprobed: Run, finished: Run, no_training: None
    ) -> None:
        run(TRIAL, unprobed.root, workers=1, threads=2)
        assert probes(unprobed) == probes(finished)

    def test_without_the_end_of_the_pretraining_they_stay_missing(self, unprobed: Run, no_training: None) -> None:
        unprobed.stage().remove_end(2)
        before = contents(unprobed.root)
        run(TRIAL, unprobed.root)
        assert contents(unprobed.root) == before

    def test_a_damaged_end_is_said(self, unprobed: Run, no_training: None) -> None:
        (small.local(unprobed.stage().end(2)) / "cnn.safetensors").write_bytes(b"torn")
        run(TRIAL, unprobed.root)
        assert unprobed.folder.probes() is None and unprobed.folder.is_finished()
        assert "the end of the pretraining is not stored any more" in small.local(unprobed.folder.log).read_text()

    def test_an_error_is_said_and_fails_no_trial(
        self, unprobed: Run, monkeypatch: pytest.MonkeyPatch, no_training: None
    ) -> None:
        monkeypatch.setattr(probe_steps, "knn_probe", None)
        run(TRIAL, unprobed.root)
        assert unprobed.folder.status() == "done" and unprobed.folder.probes() is None
        assert "the probes of trial" in small.local(unprobed.folder.log).read_text()
        assert unprobed.folder.failure() is None and not unprobed.folder.is_held()


def test_features_that_are_not_finite(unprobed: Run, monkeypatch: pytest.MonkeyPatch, no_training: None) -> None:
    def broken(*args: Any) -> Any:
        found = extract(*args)
        found.values[0, 0] = float("nan")
        return found

    monkeypatch.setattr(probe_steps, "extract", broken)
    run(TRIAL, unprobed.root)
    assert probes(unprobed)["arms"]["cnn"]["linear"] == {"problem": "the features are not finite"}
    assert unprobed.folder.missing_probes(PROBES) == []


def test_linear_algebra_has_the_trials_threads(
    unprobed: Run, monkeypatch: pytest.MonkeyPatch, no_training: None
) -> None:
    threads: list[int] = []
    fit = LogisticRegression.fit

    def watched(self: Any, *args: Any) -> Any:
        threads.extend(pool["num_threads"] for pool in threadpool_info())
        return fit(self, *args)

    monkeypatch.setattr(LogisticRegression, "fit", watched)
    with threadpool_limits(2, user_api="blas"):
        run(TRIAL, unprobed.root)
    assert set(threads) == {1}


def test_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--local", "--pretrain.epochs", "1", "--finetune.epochs", "1", "--data.label-fraction", "0.01")

    def result(*more: str) -> tuple[str, pd.DataFrame]:
        assert small.run(*arguments, *more, results=tmp_path / "results") == 0
        return capsys.readouterr().out, load(StudyFolder(tmp_path / "results" / "small" / "phantom-demo"))

    _, before = result("--probes", "none")
    assert [before[f"{probe}_macro_f1"].notna().sum() for probe in PROBES] == [0, 0]
    shutil.rmtree(next(tmp_path.glob("results/stages/*/epoch-0001")))
    both = ("--probes", *PROBES)
    text, _ = result(*both, "--dry-run")
    assert "probes: finished trials that get the ones they lack, without training: 2" in text
    text, after = result(*both)
    assert "finished: 3 done; to run: 0" in text and "3 of 3 done" in text
    names = ["linear_macro_f1", "knn_macro_f1", "linear_auroc", "knn_balanced_accuracy", "linear_validation_macro_f1"]
    for name in names:
        assert after.groupby("pretrain_method")[name].count().to_dict() == {"cass": 2, "none": 2}  # of both arms
    same = [name for name in before if not name.startswith((*PROBES, "log"))]
    pd.testing.assert_frame_equal(before.filter(same), after.filter(same))
    text, _ = result(*both)
    assert "probes:" not in text
