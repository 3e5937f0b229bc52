"""What ``--compile auto`` becomes: measured once, before anything runs, and kept with the results.

It is one choice for all trials of a study, so that a table is of one kind, by one of its trials: it is kept for that
one's method, networks, image size and precision, and for the kinds of device. Because it belongs to the trials'
identity, it stays when a study grows or goes on, and depends on neither batch sizes nor epochs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from cass_tune.compile_speed import CompileSpeed, measure_apart
from cass_tune.config import Trial, to_json
from cass_tune.console import duration
from cass_tune.errors import UsageError
from cass_tune.identity import digest
from cass_tune.memory import shape
from cass_tune.options import Settings
from cass_tune.results import Results

MOST_OF_A_STEP = 0.95
"""Of a step's time, what it may take with torch.compile: less of a gain may be noise."""
MOST_STEPS = 1000
"""After as many steps, which a small study has, the first one must be made up for."""


@dataclass(frozen=True, kw_only=True)
class CompileChoice:
    """Whether networks are compiled, and why.

    Args:
        is_on: whether they are.
        why: for people.
    """

    is_on: bool
    why: str

    def __str__(self) -> str:
        return f"compile: {'on' if self.is_on else 'off'}, because {self.why}"


def judge(speed: CompileSpeed) -> CompileChoice:
    """Return what a measurement says."""
    share = speed.compiled_s / speed.plain_s
    why = f"a training step takes {share:.2f} of its time ({speed.compiled_s:.3g} s for {speed.plain_s:.3g} s)"
    if share > MOST_OF_A_STEP:
        return CompileChoice(is_on=False, why=f"{why}; at most {MOST_OF_A_STEP:g} would be worth it")
    first = f"the first one {duration(speed.first_s)} more, made up for after {int(speed.steps_to_pay) + 1:,} steps"
    if speed.steps_to_pay > MOST_STEPS:
        return CompileChoice(is_on=False, why=f"{why}, but {first}; at most {MOST_STEPS:,} would be worth it")
    return CompileChoice(is_on=True, why=f"{why}, and {first}")


def typical(trials: Sequence[Trial], phase: Callable[[Trial], str]) -> Trial:
    """Return the trial by which is chosen, whatever their order: one with a pretraining, if there is any.

    Args:
        trials: of the study.
        phase: returns the phase of a trial that is measured.
    """

    def rank(trial: Trial) -> tuple[bool, str, int]:
        return phase(trial) != "pretrain", json.dumps(shape(to_json(trial), phase(trial))), trial.pretrain.batch_size

    return min(trials, key=rank)


def choose(
    results: Results,
    trial: Trial,
    phase: str,
    settings: Settings,
    *,
    device: str,
    kinds: Sequence[str],
    say: Callable[[str], object],
) -> CompileChoice:
    """Return what `auto` is: as it was chosen before, or by measuring now.

    Args:
        results: where it is kept.
        trial: by which is chosen (`typical`), with its precision.
        phase: which is measured.
        settings: of the run.
        device: ``cpu`` or ``cuda``.
        kinds: of GPU that trials may run on, the first of which measures.
        say: shows a line.

    Raises:
        UsageError: nothing was chosen before, and nothing can be measured now.
    """
    key = digest({"devices": list(kinds) or ["cpu"], "shape": list(shape(to_json(trial), phase))})
    known = results.compile_choice(key)
    if known is not None:
        return CompileChoice(is_on=known["is_on"], why=known["why"])
    if settings.address or settings.dry_run:
        what = "a cluster at --address is not" if settings.address else "in a dry run nothing is"
        raise UsageError(
            f"--compile auto: {what} measured, and nothing was chosen before. Give --compile on or off, or let a "
            "run on one such machine, with the same --results, choose."
        )
    results.check_writable()
    say("compile: steps are measured without and with torch.compile, which may take some minutes")
    try:
        speed = measure_apart(trial, phase, device=device, threads=settings.threads, workers=settings.workers)
    except UsageError as error:
        return CompileChoice(is_on=False, why=" ".join(error.problems))
    record = {**asdict(judge(speed)), **asdict(speed), "devices": list(kinds) or ["cpu"]}
    kept = results.keep_compile_choice(key, record)
    return CompileChoice(is_on=kept["is_on"], why=kept["why"])
