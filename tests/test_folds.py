"""Folds through a whole study: the command line, the trials' identities, and what lies on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from cass_tune.data.phantom import phantom_listing
from cass_tune.results import Results, StudyFolder
from cass_tune.storage import read_json
from cass_tune.study import Study
from studies.batch_ablation import STUDY as BATCHES
from tests import small

FOLDS = 3
LISTING = phantom_listing()
TRAINING, TEST = ({LISTING.items[i].path for i in LISTING.of_split(part)} for part in ("train", "test"))
STUDY = Study(name="folds", title="Every fold.", axes={"data.fold": tuple(range(1, FOLDS + 1))})

Plan = Callable[[str], list[str]]


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Plan:
    """Return the lines of a dry run of the batch-size ablation, without that of the disk, whose free room changes."""

    def run(line: str) -> list[str]:
        words = [*line.split(), "--dry-run", "--seeds", "0", "--results", str(tmp_path / "results")]
        assert BATCHES.main(small.report, words) == 0
        return [line for line in capsys.readouterr().out.splitlines() if not line.startswith("disk: ")]

    return run


def split_of(lines: list[str]) -> str:
    (line,) = (line for line in lines if line.startswith("split: "))
    return line.removeprefix("split: ")


def ids(lines: list[str]) -> set[str]:
    return {line.split()[0] for line in lines if "  missing  " in line}


def test_every_fold_has_other_trials_and_another_split(plan: Plan) -> None:
    lines = [plan(""), *(plan(f"--data.folds {FOLDS} --data.fold {fold}") for fold in range(1, FOLDS + 1))]
    lines.append(plan(f"--data.folds {FOLDS + 1}"))
    assert len({split_of(each) for each in lines}) == len(lines)
    assert [len(ids(each)) for each in lines] == [4] * len(lines)
    assert len(set().union(*map(ids, lines))) == 4 * len(lines)
    first = f"--data.folds {FOLDS}"
    assert plan(first) == plan(f"{first} --data.fold 1") == lines[1], "the first is the default"
    assert split_of(plan(f"{first} --data.label-fraction 0.1")) == split_of(lines[1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results root in which a study of every fold is finished."""
    root = tmp_path_factory.mktemp("folds") / "results"
    options = ("--local", "--device", "cpu", "--data.folds", str(FOLDS), "--probes", "none", "--pretrain.epochs", "1")
    assert small.run(*options, "--finetune.epochs", "1", study=STUDY, results=root) == 0
    return root


def by_fold(root: Path, *, control: bool) -> dict[int, str]:
    """Return the digests of the trials with, or without, pretraining."""
    trials = StudyFolder(root / "folds" / "phantom-demo").plans()[-1]["trials"]
    chosen = [t for t in trials if (t["config"]["pretrain"]["method"] == "none") == control]
    return {trial["config"]["data"].get("fold", 1): trial["digest"] for trial in chosen}


@pytest.mark.parametrize("control", [False, True], ids=["pretrained", "control"])
def test_the_results_hold_the_split_of_their_fold(finished: Path, control: bool) -> None:
    results, held = Results(finished), list[set[str]]()
    for fold, digest in by_fold(finished, control=control).items():
        record: Any = results.trial(digest).result()
        split: Any = read_json(results.split(record["split"]))
        assert (split["options"]["folds"], split["options"]["fold"]) == (FOLDS, fold)
        parts = {name: set(paths) for name, paths in split["parts"].items()}
        assert parts["training"] == TRAINING - parts["validation"] and parts["test"] == TEST
        predicted = pyarrow.parquet.read_table(results.trial(digest).predictions).to_pandas()
        for part in ("validation", "test"):
            assert set(predicted[predicted["split"] == part]["image"]) == parts[part]
        held.append(parts["validation"])
    assert len(held) == FOLDS and set().union(*held) == TRAINING
    assert sum(map(len, held)) == len(TRAINING), "disjoint"


def test_folds_share_no_pretraining_and_one_split_is_stored_once(finished: Path) -> None:
    results = Results(finished)
    cells, controls = by_fold(finished, control=False), by_fold(finished, control=True)
    records: dict[str, Any] = {d: results.trial(d).result() for d in (*cells.values(), *controls.values())}
    assert len(records) == 2 * FOLDS
    assert len({records[digest]["stage"]["digest"] for digest in cells.values()}) == FOLDS
    assert all(records[cells[fold]]["split"] == records[controls[fold]]["split"] for fold in cells)
    assert len(list((finished / "splits").iterdir())) == FOLDS


def test_the_plan_names_the_splits_as_they_are_stored(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.run("--dry-run", "--data.folds", str(FOLDS), study=STUDY, results=finished)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("splits: "))
    results = Results(finished)
    stored: dict[int, Any] = {f: results.trial(d).result() for f, d in by_fold(finished, control=False).items()}
    names = [f"{results.split(record['split']).stem} (fold {fold})" for fold, record in stored.items()]
    assert line == f"splits: {FOLDS}: {', '.join(names)}"


def test_of_many_splits_the_plan_names_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = Study(name="folds", title="Every fold.", axes={"data.fold": tuple(range(1, 7))})
    assert small.run("--dry-run", "--data.folds", "6", study=study, results=tmp_path / "results") == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("splits: "))
    assert line.startswith("splits: 6: ") and line.endswith(" (fold 3), and 3 more")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--data.folds 1", ["--data.folds", "0 (none) or at least 2", "got 1"]),
        ("--data.folds -2", ["--data.folds", "at least 0", "got -2"]),
        ("--data.folds 2.5", ["--data.folds", "INT", "'2.5'"]),
        ("--data.folds 5 --data.fold 6", ["--data.fold must be one of the 5 of --data.folds", "got 6"]),
        ("--data.folds 5 --data.fold 0", ["--data.fold", "at least 1", "got 0"]),
        ("--data.fold 2", ["--data.fold 2 needs --data.folds"]),
        ("--data.folds 401 --data.fold 401", ["--data.folds 401 --data.fold 401", "has no image", "fewer folds"]),
    ],
)
@pytest.mark.parametrize("dry", ["--dry-run", "--local"])
def test_wrong_folds_are_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, words: list[str], dry: str
) -> None:
    code = BATCHES.main(small.report, [*line.split(), dry, "--device", "cpu", "--results", str(tmp_path / "results")])
    errors = capsys.readouterr().err.splitlines()
    assert code == 2 and len(errors) == 1, errors
    assert errors[0].startswith("error: ") and all(word in errors[0] for word in words), errors
    assert list(tmp_path.iterdir()) == []
