"""What ``--compile auto`` becomes: measured once, before anything runs, and kept with the results.

It is one choice for all trials of the same networks, image size, precision and kinds of device, so that a table is of
one kind, and stays what it was when a study grows or goes on, because it belongs to the trials' identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from cass_tune.compile_speed import CompileSpeed, measure_apart
from cass_tune.config import Trial, to_json
from cass_tune.console import duration
from cass_tune.errors import UsageError
from cass_tune.estimate import Sizes
from cass_tune.fitting import batch_size, main_phase
from cass_tune.identity import digest
from cass_tune.memory import shape
from cass_tune.options import Settings
from cass_tune.results import Results

LEAST_GAIN = 0.95
"""Of a step's time, what it may take with torch.compile at most: less of a gain may be noise."""


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


def judge(speed: CompileSpeed, steps: int) -> CompileChoice:
    """Return what a measurement says of a training.

    Args:
        speed: the measurement.
        steps: of the training, on which the first step's time is spread.
    """
    share = speed.compiled_s / speed.plain_s
    why = f"a training step takes {share:.2f} of its time ({speed.compiled_s:.3g} s for {speed.plain_s:.3g} s)"
    if share > LEAST_GAIN:
        return CompileChoice(is_on=False, why=f"{why}; at most {LEAST_GAIN:g} would be worth it")
    first = f"the first one {duration(speed.first_s)} more"
    if speed.saved_s(steps) <= 0:
        return CompileChoice(is_on=False, why=f"{why}, but {first}, which its {steps:,} steps do not make up for")
    needed = int(speed.first_s / (speed.plain_s - speed.compiled_s)) + 1
    return CompileChoice(is_on=True, why=f"{why}, and {first}, made up for after {needed:,} of {steps:,} steps")


def steps_of(trial: Trial, sizes: Sizes) -> int:
    """Return the steps of a trial's main phase (`main_phase`)."""
    phase = main_phase(trial)
    images, section = (sizes.pretrain, trial.pretrain) if phase == "pretrain" else (sizes.labelled, trial.finetune)
    return section.epochs * max(1, images // batch_size(trial, phase))


def choose(
    results: Results,
    trial: Trial,
    sizes: Callable[[Trial], Sizes],
    settings: Settings,
    *,
    device: str,
    kinds: tuple[str, ...],
    say: Callable[[str], object],
) -> CompileChoice:
    """Return what `auto` is for trials like this one: as it was chosen before, or by measuring now.

    Args:
        results: where it is kept.
        trial: one of them, with its precision.
        sizes: returns how many images its parts have.
        settings: of the run.
        device: ``cpu`` or ``cuda``.
        kinds: of GPU that trials may run on, the first of which measures.
        say: shows a line.

    Raises:
        UsageError: nothing was chosen before, and nothing can be measured now.
    """
    phase = main_phase(trial)
    key = digest({"devices": kinds or ["cpu"], "shape": list(shape(to_json(trial), phase))})
    known = results.compile_choice(key)
    if known is not None:
        return CompileChoice(is_on=known["is_on"], why=known["why"])
    if settings.address or settings.dry_run:
        what = "a cluster at --address is not" if settings.address else "in a dry run nothing is"
        raise UsageError(
            f"--compile auto: {what} measured, and nothing was chosen before. Give --compile on or off, or let a "
            "run on one such machine, with the same --results, choose."
        )
    say("compile: steps are measured without and with torch.compile, which may take some minutes")
    speed = measure_apart(trial, phase, device=device, threads=settings.threads, workers=settings.workers)
    chosen = judge(speed, steps_of(trial, sizes(trial)))
    results.keep_compile_choice(key, {**asdict(chosen), **asdict(speed), "devices": list(kinds or ["cpu"])})
    return chosen
