"""Trials that are run in this process, and everything about them that must not depend on chance."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from cass_tune.config import ARMS, Trial
from cass_tune.data.phantom import phantom_listing
from cass_tune.identity import Segment, segments, trial_digest
from cass_tune.results import Record, Results, StageFolder, TrialFolder
from cass_tune.trial import RunOptions, read_inputs, run_trial
from tests.small import local

LISTING = phantom_listing()
UNTIMED = {"seconds", "images_per_second", "peak_memory_gib", "utilisation", "reused"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished trial."""

    trial: Trial
    root: Path
    rows: list[Record]

    @property
    def folder(self) -> TrialFolder:
        return Results(self.root).trial(trial_digest(self.trial, read_inputs(self.trial, LISTING)))

    @property
    def result(self) -> Record:
        result = self.folder.result()
        assert result is not None
        return result

    @property
    def segments(self) -> tuple[Segment, ...]:
        return segments(self.trial, read_inputs(self.trial, LISTING))

    def stage(self, number: int = -1) -> StageFolder:
        """Return the folder of one of its segments, the last by default."""
        return Results(self.root).stage(self.segments[number].stage)

    def numbers(self) -> dict[str, Any]:
        """Everything that must be the same for the same trial, whatever happened before or beside it."""
        return {
            "rows": [{name: value for name, value in row.items() if name not in UNTIMED} for row in self.rows],
            "arms": self.result["arms"],
            "weights": {arm: tensors_digest(local(self.folder.weights(arm))) for arm in ARMS},
            "predictions": hashlib.sha256(self.folder.predictions.read_bytes()).hexdigest(),
        }


def tensors_digest(path: Path) -> str:
    """Return the SHA-256 over names and tensors (the order of a safetensors file's metadata is not fixed)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def run(trial: Trial, root: Path, **options: Any) -> Run:
    """Run a trial; probes, which are a third of its time and change no number (`test_probe_steps`), when asked."""
    chosen = RunOptions(**{"probes": (), **options})
    return Run(trial=trial, root=root, rows=list(run_trial(trial, Results(root), chosen)))
