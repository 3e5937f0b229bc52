"""Records: whole or not there, found again by identity, never with a NaN."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cass_tune import storage
from cass_tune.errors import UsageError
from cass_tune.leases import Holder, machine
from cass_tune.results import (
    Results,
    StageFolder,
    StudyFolder,
    TrialFolder,
    find_study,
    new_attempt,
    read_rows,
)
from cass_tune.storage import read_json, whole_file, write_json, write_text
from tests.small import local

DIGEST = "0123456789ab" + "c" * 52
COUSIN = "0123456789ab" + "d" * 52
"""Another identity with the same first twelve digits."""


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results")


@pytest.fixture
def trial(results: Results) -> TrialFolder:
    folder = results.trial(DIGEST)
    folder.write_config({"trial": {}})
    return folder


def test_a_file_is_written_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "old")
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == path.parent
    assert path.read_text() == "new"
    assert files(tmp_path) == ["new/file.txt"]


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(FileNotFoundError), whole_file(path):
        pass  # nothing was written
    assert path.read_text() == "old"
    assert files(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_json_holds_no_nan(tmp_path: Path, trial: TrialFolder, number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "record.json", {"loss": number})
    with pytest.raises(ValueError, match="not JSON compliant"):
        trial.finish({"macro_f1": number})
    with pytest.raises(ValueError, match="not JSON compliant"):
        trial.begin("1", "run")
        trial.ended("1", "failed", loss=number)
    assert not (tmp_path / "record.json").exists() and trial.result() is None
    assert trial.attempts()[0]["ended"] is None


def test_reading_json(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert read_json(path) is None
    assert read_json(Path(__file__) / "record.json") is None, "below a file there is nothing"
    write_json(path, {"a": None, "ä": [1, 2.5]})
    assert read_json(path) == {"a": None, "ä": [1, 2.5]}
    for damage in (b'{"half": ', b"\xff\xfe", b""):
        path.write_bytes(damage)
        with pytest.raises(UsageError) as caught:
            read_json(path)
        (text,) = caught.value.problems
        assert text.startswith(f"{path} is damaged: ") and "Delete it" in text


def row(phase: str, epoch: int, loss: float = 0.0) -> dict[str, Any]:
    return {"phase": phase, "epoch": epoch, "loss": loss}


def write_rows(trial: TrialFolder, attempt: str, *rows: dict[str, Any]) -> Path:
    """Append rows to an attempt's file and return it."""
    with trial.row_file(attempt) as lines:
        for item in rows:
            lines.append(json.dumps(item))
    return local(lines.path)


def test_rows_come_back_in_order(trial: TrialFolder) -> None:
    rows = [row("pretrain", 1), row("pretrain", 2), row("finetune_cnn", 1)]
    write_rows(trial, "1", *rows)
    assert trial.rows() == rows
    assert read_rows(trial.path / "nothing") == []


def test_of_a_repeated_epoch_the_last_attempt_counts(trial: TrialFolder) -> None:
    for attempt, epochs in (("20260102", (2, 3)), ("20260101", (1, 2))):  # written in the other order
        write_rows(trial, attempt, *(row("pretrain", epoch, float(attempt)) for epoch in epochs))
    assert [(r["epoch"], r["loss"]) for r in trial.rows()] == [(1, 20260101.0), (2, 20260102.0), (3, 20260102.0)]


def test_torn_lines_are_left_out(trial: TrialFolder) -> None:
    path = write_rows(trial, "1", row("pretrain", 1))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-9])
    path.with_name("2.jsonl").write_bytes(b'{"phase": "\xff')
    path.with_name("3.jsonl").write_bytes(b"")
    write_rows(trial, "4", row("pretrain", 2))
    assert trial.rows() == [row("pretrain", 1), row("pretrain", 2)]


def test_no_torn_place_can_break_the_reading(trial: TrialFolder) -> None:
    path = write_rows(trial, "1", row("pretrain", 1))
    whole = path.read_bytes()
    for length in range(len(whole) - 2):
        path.write_bytes(whole[:length])
        assert trial.rows() == []


def test_status_of_a_trial(trial: TrialFolder, results: Results) -> None:
    assert results.trial("f" * 64).status() == "missing"
    assert trial.status() == "missing"
    trial.fail("RuntimeError", "out of memory", "Traceback")
    assert trial.status() == "failed"
    trial.fail("Collapsed", "constant outputs", "Traceback")
    assert trial.status() == "collapsed"
    trial.finish({"digest": DIGEST})
    assert trial.status() == "done"
    assert trial.failure() is None, "an error before the result is over"


def test_attempts_that_failed_are_counted(trial: TrialFolder) -> None:
    for number, how in enumerate(("failed", "interrupted", "failed", None)):
        trial.begin(f"a{number}", "run")
        if how:
            trial.ended(f"a{number}", how)
    trial.fail("RuntimeError", "no luck", "Traceback", {"phase": "pretrain", "epoch": 1, "batch": 0})
    failure = trial.failure()
    assert failure is not None and len(failure.pop("id")) > 20
    assert failure == {
        "type": "RuntimeError",
        "message": "no luck",
        "traceback": "Traceback",
        "position": {"phase": "pretrain", "epoch": 1, "batch": 0},
        "attempts": 2,
        "may_pass": False,
        "log": str(trial.log),
    }


def test_a_failure_without_a_record_of_its_attempt_counts_once(trial: TrialFolder) -> None:
    trial.fail("DiesWithoutProgress", "its process died", "Traceback")
    failure = trial.failure()
    assert failure is not None and failure["attempts"] == 1


def test_a_failure_is_over_when_another_attempt_begins(trial: TrialFolder) -> None:
    trial.fail("RuntimeError", "no luck", "Traceback")
    trial.begin("a1", "run")
    assert trial.failure() is None and trial.status() == "missing"
    (moved,) = local(trial.path).glob("earlier/*/failure.json")
    assert json.loads(moved.read_text())["message"] == "no luck"


def test_an_earlier_result_is_set_aside_not_lost(trial: TrialFolder) -> None:
    for number in (1, 2):
        write_rows(trial, "1", row("pretrain", number))
        trial.finish({"number": number})
        trial.set_aside()
        assert trial.status() == "missing" and trial.rows() == []
    earlier = sorted((trial.path / "earlier").iterdir())
    assert [json.loads((place / "result.json").read_text())["number"] for place in earlier] == [1, 2]
    assert files(local(earlier[0])) == ["epochs/1.jsonl", "result.json"]
    assert (trial.path / "config.json").exists(), "the folder still says whose it is"


def test_nothing_to_set_aside_leaves_nothing(results: Results, trial: TrialFolder) -> None:
    trial.set_aside()
    results.trial("f" * 64).set_aside()
    assert files(local(results.root)) == ["trials/0123456789ab/config.json"]
    assert not (results.root / "trials" / "ffffffffffff").exists() and not (trial.path / "earlier").exists()


def test_the_config_stays_as_first_written(trial: TrialFolder) -> None:
    trial.write_config({"trial": "other"})
    assert read_json(trial.path / "config.json") == {"trial": {}, "digest": DIGEST}


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"{}"])
def test_a_damaged_config_is_written_again(results: Results, content: bytes) -> None:
    stage = results.stage(DIGEST)
    stage.write_config({"trial": {}})
    path = local(stage.path) / "config.json"
    path.write_bytes(content)
    again = Results(results.root).stage(DIGEST)
    assert again.path == stage.path
    again.write_config({"trial": {}})
    assert read_json(path) == {"trial": {}, "digest": DIGEST}


def test_an_end_counts_when_its_declaration_is_there(results: Results) -> None:
    stage = results.stage(DIGEST)
    assert stage.ends() == []
    for epoch in (100, 50):
        stage.end(epoch).mkdir(parents=True)
        (stage.end(epoch) / "cnn").write_text(str(epoch))
        assert not stage.has_end(epoch)
        stage.write_end(epoch, {"rows": [epoch]})
        assert stage.has_end(epoch)
    (stage.path / "epoch-0200").mkdir()
    assert stage.ends() == [50, 100]
    assert stage.end_record(50) == {"rows": [50]}
    stage.remove_end(100)
    assert stage.ends() == [50] and files(local(stage.path)) == ["epoch-0050/cnn", "epoch-0050/run.json"]


def test_attempts_are_recorded(trial: TrialFolder) -> None:
    trial.begin("a1", "run 1")
    trial.resumed("a1", {"phase": "pretrain", "epoch": 3, "batch": 1})
    trial.begin("a2", "run 1")
    trial.ended("a2", "failed", type="RuntimeError")
    died, failed = trial.attempts()
    assert died["resumed"]["epoch"] == 3 and died["ended"] is None and died["run"] == "run 1"
    assert (
        failed["resumed"] is None and failed["ended"]["how"] == "failed" and failed["ended"]["type"] == "RuntimeError"
    )


@pytest.mark.parametrize("kind", ["trial", "stage"])
def test_the_id_grows_when_two_identities_begin_alike(results: Results, kind: str) -> None:
    find = getattr(results, kind)
    first = find(DIGEST)
    assert first.id == DIGEST[:12]
    first.write_config({})
    second = find(COUSIN)
    assert second.id == COUSIN[:16]
    second.write_config({})
    assert (find(DIGEST).id, find(COUSIN).id) == (DIGEST[:12], COUSIN[:16])
    assert find(COUSIN[:16] + "e" * 48).id == COUSIN[:16] + "e" * 4


def test_folders_by_kind(results: Results) -> None:
    assert isinstance(results.stage(DIGEST), StageFolder)
    assert results.stage(DIGEST).path == results.root / "stages" / DIGEST[:12]
    assert results.trial(DIGEST).weights("vit") == results.root / "trials" / DIGEST[:12] / "vit.safetensors"
    assert results.ray("study") == results.root / "ray" / "study"


def test_attempts_sort_by_time() -> None:
    names = [new_attempt() for _ in range(5)]
    assert names == sorted(names) and len(set(names)) == 5


def test_equal_plans_are_kept_once(results: Results) -> None:
    study = results.study("batch", "phantom-demo")
    assert study.plans() == []
    for plan in ({"axes": ["a"]}, {"axes": ["b"]}, {"axes": ["b"]}):
        study.write_plan(plan)
    assert study.plans() == [{"axes": ["a"]}, {"axes": ["b"]}]
    assert study.results.root == results.root


def test_a_study_is_found_by_name_and_by_path(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = [results.study("batch", variant) for variant in ("brain_mri-paper", "phantom-demo")]
    for study in variants:
        study.write_plan({})
    results.study("epochs", "phantom-demo").write_plan({})

    def found(name: str) -> list[Path]:
        return [local(study.path) for study in find_study(name, results.root)]

    both = [local(study.path) for study in variants]
    assert found("batch") == both
    assert found(str(results.root / "batch")) == both
    assert found("batch/phantom-demo") == found(str(both[1])) == both[1:]
    monkeypatch.chdir(both[1])
    assert found(".") == both[1:]


def test_an_unknown_study_lists_those_that_there_are(results: Results) -> None:
    with pytest.raises(UsageError, match="No study has run there yet"):
        find_study("batch", results.root)
    for name in ("batch", "epochs"):
        results.study(name, "phantom-demo").write_plan({})
    results.trial(DIGEST).write_config({})
    with pytest.raises(UsageError) as caught:
        find_study("bach", results.root)
    (text,) = caught.value.problems
    assert "'bach'" in text and "There are: batch, epochs." in text and str(results.root) in text


def test_derived_files_have_their_places(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "batch" / "phantom-demo")
    names = [path.name for path in (study.tables, study.plots, study.parquet, study.index)]
    assert names == ["tables", "plots", "results.parquet", "index.csv"]


def test_a_writable_root_is_left_as_it_was(tmp_path: Path, results: Results) -> None:
    results.check_writable()
    assert list(tmp_path.iterdir()) == []
    results.trial(DIGEST).write_config({})
    results.check_writable()
    assert files(tmp_path) == ["results/trials/0123456789ab/config.json"]


def test_a_root_is_not_made_and_removed_under_another_process(
    tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(storage, "between_steps", lambda step, path: seen.append(local(results.root).exists()))
    results.check_writable()
    assert seen and not any(seen) and list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "results"):
        with pytest.raises(UsageError) as caught:
            Results(place).check_writable()
        (text,) = caught.value.problems
        assert str(place) in text and "--results DIR" in text
    assert files(tmp_path) == ["file"]


def test_what_a_process_killed_at_the_very_end_left_is_tidied_away(trial: TrialFolder) -> None:
    trial.finish({"digest": DIGEST})
    dead = Holder("a1", "here", "elsewhere/1/2", 4, None, datetime.now(UTC) - timedelta(days=1), 3)
    write_json(trial.path / "holder.json", dead.record())
    (local(trial.checkpoints)).mkdir()
    trial.tidy()
    assert files(local(trial.path)) == ["config.json", "holder.json", "result.json"], "it may live: seen just now"
    write_json(trial.path / "holder.json", {**dead.record(), "machine": machine(), "pid": 2**22 + 1})
    trial.tidy()
    assert files(local(trial.path)) == ["config.json", "result.json"] and not trial.checkpoints.exists()
