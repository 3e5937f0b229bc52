"""A trial that computes nothing and imports no torch: its rows and its records go where any trial's go."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from cass_tune.config import ARMS, Trial, to_json
from cass_tune.identity import Inputs, trial_digest
from cass_tune.leases import Lease
from cass_tune.results import Results
from cass_tune.results.records import new_attempt
from cass_tune.run_options import RunOptions
from cass_tune.runner.trainable import trainable
from cass_tune.training.rows import PHASES, epoch_row


def run_trial(
    trial: Trial, results: Results, options: RunOptions, expected: Inputs, **_: Any
) -> Iterator[dict[str, Any]]:
    """Yield one row per phase and finish the trial, with all records that the driver looks at."""
    folder, attempt = results.trial(trial_digest(trial, expected)), new_attempt()
    with Lease.take_over(folder.path, attempt):
        folder.write_config({"trial": to_json(trial), "inputs": vars(expected)})
        folder.begin(attempt, options.run)
        for phase in PHASES:
            yield epoch_row(phase=phase, epoch=0, epochs=1, loss=0.0, seconds=0.0)
        folder.finish({"arms": {arm: {"test": {"macro_f1": 0.0}} for arm in ARMS}})
        folder.ended(attempt, "finished")


def trivial(config: Mapping[str, Any]) -> None:
    """Run it in the place of `cass_tune.trial.run_trial` inside the project's own trainable."""
    stand_in: Any = ModuleType("cass_tune.trial")
    stand_in.run_trial, stand_in.ANY_FAILURE = run_trial, "any"
    sys.modules[stand_in.__name__] = stand_in
    trainable(config)
    if "torch" in sys.modules:
        raise RuntimeError("a trivial trial has imported torch")


trivial.__mixins__ = trainable.__mixins__  # type: ignore[attr-defined]
