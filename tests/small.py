"""The smallest real study: the phantom, tiny networks, few images, one epoch; seconds per trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from cass_tune.results import StudyFolder
from cass_tune.storage import AnyPath
from cass_tune.study import Study

DEFAULTS = {
    "--data.label-fraction": "0.05",
    "--data.pretrain-fraction": "0.1",
    "--pretrain.batch-size": "8",
    "--pretrain.epochs": "2",
    "--finetune.epochs": "2",
    "--seeds": "0",
    "--probe-seconds": "0",
    "--probes": "none",
}

STUDY = Study(name="small", title="A study for tests", axes={"pretrain.learning_rate": (1e-3, 1e-4)})


def report(study: StudyFolder, published: Mapping[str, object]) -> str:
    """Return the states of all wanted trials."""
    trials = study.plans()[-1]["trials"]
    return "\n".join(f"{trial['name']}: {study.results.trial(trial['digest']).status()}" for trial in trials)


def run(*arguments: str, study: Study = STUDY, results: Path | None = None) -> int:
    """Run the study's command line in this process and return its exit code."""
    place = ["--results", str(results)] if results else []
    defaults = [word for option, value in DEFAULTS.items() if option not in arguments for word in (option, value)]
    return study.main(report, [*defaults, *place, *arguments])


def wanted(results: Path, name: str = "small") -> dict[str, str]:
    """Return the digests of the last plan by the trials' names."""
    plan = StudyFolder(results / name / "phantom-demo").plans()[-1]
    return {trial["name"]: trial["digest"] for trial in plan["trials"]}


def local(path: AnyPath) -> Path:
    """Return a place that is known to be in the file system."""
    assert isinstance(path, Path)
    return path


def json_lines(path: Path) -> list[dict[str, object]]:
    """Read a file of one JSON object per line."""
    return [json.loads(line) for line in path.read_text().splitlines()]
