"""The smallest real searches: the phantom, tiny networks, one pretraining for all trials, seconds per trial.

`python -m tests.toy_search` runs the toy search with the options given, in a process of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cass_tune.results import Record, SearchFolder, StudyFolder
from cass_tune.search import Search
from cass_tune.study import Study
from tests.small import report

if TYPE_CHECKING:
    import optuna

REPOSITORY = Path(__file__).parents[1]

RATES = (1e-7, 3e-7, 1e-6, 3e-6, 1e-4, 3e-4, 1e-3, 3e-3)
"""Learning rates of the toy space; those of its better half learn within few epochs, the others hardly at all."""
BETTER = RATES[4:]
BATCHES = (8, 16)

DEFAULTS = {
    "--data.label-fraction": "0.2",
    "--data.pretrain-fraction": "0.1",
    "--pretrain.batch-size": "8",
    "--pretrain.epochs": "1",
    "--finetune.epochs": "6",
    "--finetune.min-learning-rate": "1e-8",
    "--probe-seconds": "0",
    "--device": "cpu",
}


def space(trial: optuna.Trial) -> Mapping[str, Any]:
    """Return one of 16 cells."""
    return {
        "finetune.learning_rate": trial.suggest_categorical("rate", RATES),
        "finetune.batch_size": trial.suggest_categorical("batch", BATCHES),
    }


def continuous_space(trial: optuna.Trial) -> Mapping[str, Any]:
    """Return a learning rate that a population can change, and a batch size that it cannot."""
    return {
        "finetune.learning_rate": trial.suggest_float("rate", 1e-6, 1e-3, log=True),
        "finetune.batch_size": trial.suggest_categorical("batch", BATCHES),
    }


POPULATION = Search(name="toy", title="A population for tests", space=continuous_space)
"""Run with ``--algorithm pbt``."""
TOY = Search(name="toy", title="A search for tests", space=space)


def run(*arguments: str, search: Search = TOY, results: Path | None = None) -> int:
    """Run the search's command line in this process and return its exit code."""
    place = ["--results", str(results)] if results else []
    own = {option: value for option, value in DEFAULTS.items() if option not in arguments}
    if search is POPULATION:
        own.pop("--finetune.epochs", None)
    return search.main(report, [*(word for pair in own.items() for word in pair), *place, *arguments])


def run_study(study: Study, *arguments: str, results: Path) -> int:
    """Run the command line of a study with the same options."""
    defaults = [word for option, value in DEFAULTS.items() if option not in arguments for word in (option, value)]
    return study.main(report, [*defaults, "--results", str(results), *arguments])


def history_open(results: Path, name: str = "toy") -> list[Record]:
    """Return the suggestions of which nothing has become yet."""
    found = records(results, name)
    return [record for record in found.suggestions() if record["number"] not in found.outcomes()]


def folder(results: Path, name: str = "toy") -> StudyFolder:
    """Return the folder of the study."""
    return StudyFolder(results / name / "phantom-demo")


def records(results: Path, name: str = "toy") -> SearchFolder:
    """Return the records of the only search."""
    (path,) = (results / name / "phantom-demo" / "search").iterdir()
    return SearchFolder(path)


def history(results: Path, name: str = "toy") -> list[Record]:
    """Return what was suggested and what became of it, without times."""
    found = records(results, name)
    outcomes = found.outcomes()
    kept = ("number", "params", "fields", "pruning")
    return [
        {
            **{key: record[key] for key in kept},
            "digest": record["trial"]["digest"],
            **{key: outcomes[record["number"]][key] for key in ("state", "why", "values", "curve")},
        }
        for record in found.suggestions()
    ]


def kill_and_resume(folder: Path, options: Sequence[str], *, after: int, of: int) -> None:
    """Run a search in a process that is killed, and then in Ray to its end.

    Args:
        folder: with ``results``, where it writes.
        options: of the search.
        after: outcomes after which it is killed.
        of: outcomes that the whole search has.
    """
    command = [sys.executable, "-m", "tests.toy_search", *options, "--results", str(folder / "results")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen([*command, "--local"], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while len(list(folder.glob("results/toy/*/search/*/outcomes/*.json"))) < after:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(records(folder / "results").outcomes()) < of
    again = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:], search=POPULATION if "pbt" in sys.argv else TOY))
