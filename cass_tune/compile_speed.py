"""What torch.compile brings to the training steps of a trial, on this machine: ``python -m cass_tune.compile_speed``.

A process of its own, because compilers leave memory, threads and a part of a GPU taken. The request comes as JSON on
stdin; the answer goes to stdout as its last line.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from cass_tune.config import ARMS, Trial, from_json, to_json
from cass_tune.errors import UsageError

SECONDS = 10.0
LIMIT_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class CompileSpeed:
    """What was measured.

    Args:
        plain_s: seconds of a step without torch.compile, median.
        compiled_s: the same with it.
        first_s: by how many seconds the first step took longer with it, where nothing had been compiled before.
    """

    plain_s: float
    compiled_s: float
    first_s: float

    @property
    def steps_to_pay(self) -> float:
        """After how many steps the first one is made up for; infinitely many where a step is not faster."""
        gain = self.plain_s - self.compiled_s
        return self.first_s / gain if gain > 0 else math.inf


def measure_apart(
    trial: Trial, phase: str, *, device: str, threads: int, workers: int, seconds: float = SECONDS
) -> CompileSpeed:
    """Measure in another process.

    Args:
        trial: of the steps.
        phase: ``pretrain``, or ``finetune_`` and the arm.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of one operation.
        workers: processes that load images.
        seconds: how long steps are taken each way, at least two.

    Raises:
        UsageError: torch cannot compile here, or the steps fail.
    """
    request = {"phase": phase, "device": device, "threads": threads, "workers": workers, "seconds": seconds}
    return CompileSpeed(**_asked({"trial": to_json(trial), **request}))


def check_apart(device: str) -> None:
    """Raise a UsageError when torch cannot compile a function for a device; another process tries it.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    _asked({"device": device})


def _asked(request: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, timeout=LIMIT_S)
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        raise UsageError(
            f"torch.compile could not be tried ({type(error).__name__}). Give --compile off, or try again."
        ) from error
    if "problem" in answer:
        raise UsageError(answer["problem"])
    return answer


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from cass_tune.training.compiling import FOLDER_ENV, check_compiler

    if "trial" not in request:
        check_compiler(request["device"])
        return {}
    trial = from_json(json.dumps(request.pop("trial")))
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER_ENV] = folder  # nothing has been compiled before
        check_compiler(request["device"])
        _check_networks(trial, request["phase"])
        return asdict(_measured(trial, **request))


def _check_networks(trial: Trial, phase: str) -> None:
    from cass_tune.training.compiling import check_compiling
    from cass_tune.training.models import build_blank_arm

    for arm in ARMS if phase == "pretrain" else [phase.removeprefix("finetune_")]:
        check_compiling(build_blank_arm(trial, arm), f"--pretrain.{arm} {getattr(trial.pretrain, arm)}")


def _measured(trial: Trial, phase: str, **how: Any) -> CompileSpeed:
    from cass_tune.probe import step_ends

    firsts: list[float] = []
    steps: list[float] = []
    step_ends(trial, phase, **{**how, "seconds": 0.0}, checkpointing=False)  # imports, kernels that are loaded
    for compiled in (False, True):
        begun = time.time()
        ends = step_ends(trial, phase, **how, checkpointing=False, compiled=compiled)
        firsts.append(ends[0] - begun)
        steps.append(median(later - earlier for earlier, later in pairwise(ends)))
    return CompileSpeed(plain_s=steps[0], compiled_s=steps[1], first_s=max(0.0, firsts[1] - firsts[0]))


def main() -> None:
    """Answer the request."""
    try:
        answer = _answer(json.load(sys.stdin))
    except UsageError as error:
        answer = {"problem": " ".join(error.problems)}
    except Exception as error:  # torch, its compilers and networks raise many kinds
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        answer = {"problem": f"steps with torch.compile fail: {type(error).__name__}: {reason} Give --compile off."}
    sys.stdout.write(f"{json.dumps(answer)}\n")


if __name__ == "__main__":
    main()
