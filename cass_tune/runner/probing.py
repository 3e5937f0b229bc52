"""The probe, where trials run: a task of Ray with a trial's resources."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from cass_tune.config import Trial

if TYPE_CHECKING:
    from cass_tune.probe import Measured

START_S = 60.0
"""How long the task may wait for a place and import torch, beyond the time that it measures."""


def _task(wanted: Sequence[tuple[Trial, str]], options: Mapping[str, Any], until: float) -> Measured | None:
    """Measure, unless it is too late (by `time.time`) because nobody waits for it any more."""
    if not ray.get_runtime_context().get_accelerator_ids()["GPU"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # as for trials
    if time.time() > until:
        return None
    from cass_tune.probe import probe

    return probe(wanted, **options)


def probe_there(
    wanted: Sequence[tuple[Trial, str]], *, resources: Mapping[str, float], limit_s: float, **options: Any
) -> Measured:
    """Run `cass_tune.probe.probe` where a trial would run; a task that fails, or finds no place, is a problem.

    The task ends by itself. It is not cancelled: cancelling one that ends at that moment aborts the driver (Ray 2.60).

    Args:
        wanted: a trial and a phase for every kind of step.
        resources: ``cpu`` and ``gpu`` of one trial.
        limit_s: most seconds of all measurements.
        **options: of the probe.
    """
    from cass_tune.probe import Measured

    needs: Any = {"num_cpus": resources["cpu"], "num_gpus": resources["gpu"]}
    remote: Any = ray.remote(**needs, max_retries=0, max_calls=1)(_task)  # its process ends, and gives its memory back
    asked = remote.remote(list(wanted), {**options, "limit_s": limit_s}, time.time() + START_S)
    try:
        return ray.get(asked, timeout=limit_s + START_S) or Measured()
    except RayError as error:
        text = (str(error).strip().splitlines() or ["no answer"])[0][:200]
        return Measured(problems=[f"{type(error).__name__}: {text}"])
