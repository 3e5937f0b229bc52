"""How a trial runs: told by a driver, which needs no torch for it, and heeded by every attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cass_tune.config import PROBES


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a trial runs, as opposed to what it is: none of it changes what the trial means.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of one operation; recorded, because it changes last digits. A trial that goes on from a
            checkpoint keeps the number that it had.
        workers: loader processes; 0 loads in the trial's own process.
        on_collapse: warn, or stop the trial, when the pretraining's outputs become constant.
        keep_weights: whether the finetuned arms are kept.
        redo: run a finished trial again and keep its earlier result beside the new one.
        commit: of the code, as the driver knows it; recorded.
        run: name of the command's run; failures are counted, and redone trials told apart, within one.
        checkpoint_every_minutes: longest time between two checkpoints.
        max_failures: how often an exception of the trial's own code may be followed by another attempt.
        preemption_command: shell command whose exit status 0 means that this machine will be taken away.
        probes: which probes of the frozen features are made before finetuning.
        probe_every: epochs of pretraining between two kNN probes on the validation images; 0: never.
        stop_file: the trial saves its state and leaves when there is such a file.
        test: whether the finetuned arms are tested; without it the trial ends untested, and a later attempt that is to
            test it goes on from there.
        generation_epochs: in the generations of a population, epochs of finetuning of each: the trial goes on from the
            end of the same one with so many fewer, if that is kept, and its own end is kept; otherwise 0.
        activation_checkpointing: whether activations are computed again in the backward pass instead of being kept.
    """

    device: str = "cpu"
    threads: int = 1
    workers: int = 0
    on_collapse: Literal["warn", "stop"] = "warn"
    keep_weights: Literal["all", "none"] = "all"
    redo: bool = False
    commit: str | None = None
    run: str = ""
    checkpoint_every_minutes: float = 5.0
    max_failures: int = 2
    preemption_command: str | None = None
    probes: Sequence[str] = PROBES
    probe_every: int = 0
    stop_file: str | None = None
    test: bool = True
    generation_epochs: int = 0
    activation_checkpointing: bool = False
