"""Ends of finetunings that longer ones go on from: a longer one passes through the states of a shorter one.

What a trial goes on from follows from its description alone: the same trial with fewer epochs of finetuning, and the
changes that begin before its end. So whether the end is there, gone or damaged changes what is computed, but no result.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from cass_tune.attempt import Attempt
from cass_tune.checkpoints import Checkpoints
from cass_tune.config import Trial
from cass_tune.identity import trial_digest
from cass_tune.training.finetune import Finetuning
from cass_tune.training.state import State

logger = logging.getLogger(__name__)


def keep_end(attempt: Attempt, training: Finetuning) -> None:
    """Store the state of an arm at its last epoch, in the generations of a population alone, unless it is there.

    Raises:
        HoldLost: another process has taken the trial over.
        Interrupted: it was asked to stop while it could not be stored.
        StorageError: it could not be stored.
    """
    if not attempt.options.generation_epochs or training.epoch < attempt.trial.finetune.epochs:
        return
    ends = Checkpoints(attempt.folder.end(training.arm))
    if not ends.names():
        found = training.state().on_cpu()
        state = State(tensors=found.tensors, values={**found.values, **attempt.machine(attempt.devices)})

        def write() -> None:
            ends.write(state, attempt.lease.check)

        attempt.store(write)


def inherited(attempt: Attempt, arm: str) -> State | None:
    """Return the state from which an arm goes on, its rows marked as reused; None: it is finetuned from its start.

    Args:
        attempt: at a trial of a population's generation; the number of threads that the state was made with is kept.
        arm: ``cnn`` or ``vit``.

    Raises:
        StorageError: it cannot be read, which does not mean that it is not there.
    """
    shorter = shorter_by(attempt.trial, attempt.options.generation_epochs)
    if shorter is None:
        return None
    folder = attempt.results.trial(trial_digest(shorter, attempt.inputs))
    found = Checkpoints(folder.end(arm)).newest()
    if found is None:
        logger.info("the %s is finetuned from its start: no end of it is kept in %s", arm, folder.path)
        return None
    logger.info("the %s goes on from the end of its finetuning in %s", arm, folder.path)
    attempt.devices = list(dict.fromkeys([*attempt.take_over(found.values), *attempt.devices]))
    epochs = attempt.trial.finetune.epochs
    rows = [{**row, "epochs": epochs, "reused": True} for row in found.values["rows"]]
    return State(tensors=found.tensors, values={**found.values, "rows": rows})


def shorter_by(trial: Trial, epochs: int) -> Trial | None:
    """Return the trial with so many epochs of finetuning fewer, or None: it has no such beginning."""
    left = trial.finetune.epochs - epochs
    if not epochs or left < 1 or not trial.finetune.passes_shorter:
        return None
    return replace(trial, finetune=trial.finetune.shorter(left))
