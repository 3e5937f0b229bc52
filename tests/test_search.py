"""The command line of a search: plan, run, kill, resume, test the winner, say what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cass_tune.leases import Lease
from cass_tune.results import Results, new_attempt
from cass_tune.search import Search
from cass_tune.study import Study
from tests import small, toy_search

if TYPE_CHECKING:
    import optuna

REPOSITORY = Path(__file__).parents[1]
OPTIONS = [
    *("--trials", "8", "--parallel", "2", "--startup-trials", "4"),
    *("--finetune.epochs", "4", "--objective-arms", "cnn"),
]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every machine look like one without a GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture(scope="module")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "results"
    assert toy_search.run(*OPTIONS, "--local", results=root) == 0
    return root


@pytest.fixture
def finished(_finished: Path, tmp_path: Path) -> Path:
    """A results root in which the toy search is finished."""
    return Path(shutil.copytree(_finished, tmp_path / "results"))


def computed(root: Path) -> int:
    """Return how many epochs of finetuning were computed."""
    return sum(len(Results(root).trial(_digest(path)).rows()) for path in (root / "trials").iterdir())


def _digest(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text())["digest"]


def states(root: Path) -> dict[str, str]:
    """Return the states of all suggested trials by identity."""
    results = Results(root)
    digests = [record["trial"]["digest"] for record in toy_search.records(root).suggestions()]
    return {digest: results.trial(digest).status() for digest in digests}


def test_the_toy_space_is_searched_and_the_winner_alone_is_tested(_finished: Path) -> None:
    history = toy_search.history(_finished)
    assert len(history) == 8 and {found["state"] for found in history} == {"complete", "pruned"}
    complete = [found for found in history if found["state"] == "complete"]
    winner = max(complete, key=lambda found: found["values"][0])
    assert winner["params"]["rate"] in toy_search.BETTER
    cells, epochs = len(toy_search.RATES) * len(toy_search.BATCHES), 2 * 4
    assert computed(_finished) <= cells * epochs / 2
    tested = {digest for digest, state in states(_finished).items() if state == "done"}
    assert tested == {winner["digest"]}
    result = Results(_finished).trial(winner["digest"]).result()
    assert result is not None and set(result["arms"]["cnn"]) >= {"validation", "test"}
    assert winner["values"] == [result["arms"]["cnn"]["validation"]["macro_f1"]]


@pytest.mark.ray
@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_trials(_finished: Path, tmp_path: Path) -> None:
    """The search that nothing disturbed ran in one process, one trial after the other; this one goes on in Ray."""
    toy_search.kill_and_resume(tmp_path, OPTIONS, after=3, of=8)
    assert toy_search.history(tmp_path / "results") == toy_search.history(_finished)
    assert states(tmp_path / "results") == states(_finished)


def test_a_second_run_does_nothing(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = computed(finished), toy_search.history(finished)
    assert toy_search.run(*OPTIONS, "--local", results=finished) == 0
    out = capsys.readouterr().out
    assert "trials: 8 suggested, 8 of them ended\n" in out and "; to run: 0" in out and "started" not in out
    assert (computed(finished), toy_search.history(finished)) == before


def test_more_trials_go_on(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = toy_search.history(finished)
    options = ["9" if word == "8" else word for word in OPTIONS]
    assert toy_search.run(*options, "--local", results=finished) == 0
    assert "8 suggested, 8 of them ended; 1 to be suggested" in capsys.readouterr().out
    after = toy_search.history(finished)
    assert after[:8] == before and len(after) == 9


@pytest.mark.parametrize("state", ["untested", "pruned"])
def test_a_study_completes_what_a_search_left(finished: Path, state: str) -> None:
    found = [r for r in toy_search.records(finished).suggestions() if states(finished)[r["trial"]["digest"]] == state]
    fields, digest = found[0]["fields"], found[0]["trial"]["digest"]
    study = Study(name="one", title="One", axes={path: (value,) for path, value in fields.items()})
    before = Results(finished).trial(digest).attempts()
    assert toy_search.run_study(study, "--finetune.epochs", "4", "--local", "--seeds", "0", results=finished) == 0
    folder = Results(finished).trial(digest)
    assert folder.status() == "done" and len(folder.attempts()) == len(before) + 1
    assert [row["phase"] for row in folder.rows()] == ["finetune_cnn"] * 4 + ["finetune_vit"] * 4


def test_a_dry_run_says_what_is_left_and_writes_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["30" if word == "8" else word for word in OPTIONS]
    before = sorted(finished.rglob("*"))
    assert toy_search.run(*options, "--dry-run", "--price", "2", results=finished) == 0
    out = capsys.readouterr().out
    assert "search " in out and "30 trials by tpe, for validation macro_f1 of the cnn; pruned by ASHA" in out
    assert "trials: 8 suggested, 8 of them ended; 22 to be suggested, here drawn at random" in out
    assert "hours: " in out and "cost: about" in out and "  pruned     #" in out
    assert sorted(finished.rglob("*")) == before
    assert toy_search.run(*options, "--dry-run", results=tmp_path / "new") == 0
    assert "finished: none; to run: 1" in capsys.readouterr().out and not (tmp_path / "new").exists()


def test_status_shows_pruned_and_untested_trials(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy_search.run("--status", results=finished) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert " pruned, " in first and " untested" in first and "1 done" in first
    assert any(" untested " in line and "validation macro-F1 cnn" in line for line in lines)
    assert any(" pruned " in line and "of 4 epochs of finetuning" in line for line in lines)


def test_without_hours_left_nothing_starts(tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["12" if word == "8" else word for word in OPTIONS]
    assert toy_search.run(*options, "--local", "--budget-hours", "1e-7", results=finished) == 1
    assert "would not finish within --budget-hours" in capsys.readouterr().out
    assert len(toy_search.history_open(finished)) >= 1


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("--trials 0", ["--trials must be at least 1, but got 0."]),
        ("--parallel 0 --search-seed -1", ["--parallel must be at least 1", "--search-seed must be at least 0"]),
        ("--objectives gpu_hours", ["--objectives takes one metric, and gpu_hours behind it"]),
        ("--objectives macro_f1 accuracy", ["--objectives takes one metric"]),
        ("--objectives loss", ["--objectives takes"]),
        ("--objectives macro_f1 gpu_hours --pruner asha", ["--pruner asha compares one number"]),
        ("--objective-arms cnn cnn", ["--objective-arms takes cnn, vit or both"]),
        ("--seeds 0 1", ["a search trains every suggestion with one seed, but got 2"]),
        ("--redo all", ["--redo all: a search keeps what it has found"]),
        ("--only a=b", ["--only chooses cells of a grid"]),
        ("--finetune.learning-rate 0.1", ["--finetune.learning-rate is set by the space"]),
        ("--trails 3", ["Unknown option --trails. Did you mean '--trials'"]),
        ("--pretrain.batch-size 100000", ["--pretrain.batch-size"]),
    ],
)
def test_wrong_options(line: str, texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy_search.run(*line.split(), "--local", results=tmp_path / "results") == 2
    err = capsys.readouterr().err
    assert all(text in err for text in texts), err
    assert not (tmp_path / "results").exists()


def _other(trial: optuna.Trial) -> Mapping[str, Any]:
    return {**toy_search.space(trial), "finetune.focal_gamma": 1.0}


def _wider(trial: optuna.Trial) -> Mapping[str, Any]:
    return {
        "finetune.learning_rate": trial.suggest_categorical("rate", (*toy_search.RATES, 1.0)),
        "finetune.batch_size": trial.suggest_categorical("batch", toy_search.BATCHES),
    }


def test_a_space_that_has_changed(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = Search(name="toy", title="Changed", space=_other)
    assert toy_search.run(*OPTIONS, "--local", search=changed, results=finished) == 2
    err = capsys.readouterr().err
    assert "The space of toy has changed since its suggestion 0" in err and "--search-seed" in err
    wider = Search(name="toy", title="Wider", space=_wider)
    assert toy_search.run(*OPTIONS, "--dry-run", search=wider, results=finished) == 2
    assert "The space of toy has changed" in capsys.readouterr().err


def _rare(trial: optuna.Trial) -> Mapping[str, Any]:
    rate = trial.suggest_float("rate", 1e-4, 1e-3)
    return {"finetune.learning_rate": rate, "finetune.weight_decay": 0.1 if rate > 2e-4 else 0.0}


def test_a_contradiction_is_found_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = Search(name="toy", title="Contradictory", space=_rare)
    assert toy_search.run("--local", search=search, results=tmp_path / "results") == 2
    err = capsys.readouterr().err
    assert "The space contradicts a rule: --finetune.weight-decay must be 0" in err and "it suggested rate=" in err
    assert not (tmp_path / "results").exists()


def test_one_process_at_a_time(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["12" if word == "8" else word for word in OPTIONS]
    with Lease.acquire(toy_search.records(finished).path, new_attempt()):
        assert toy_search.run(*options, "--local", results=finished) == 2
    assert "one process at a time suggests the trials of a search" in capsys.readouterr().err


def test_the_page_looks_without_anything_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from studies.hyperparameter_search import STUDY\n"
        f"end = STUDY.main(None, ['--dry-run', '--trials', '40', '--results', {str(tmp_path / 'results')!r}])\n"
        "print(end, sorted({'torch', 'ray', 'timm', 'pandas', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []" and done.stderr == ""
    assert small.STUDY.settings is not Search.settings
