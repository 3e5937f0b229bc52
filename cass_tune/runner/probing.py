"""The probe, where trials run: a task of Ray with a trial's resources."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from cass_tune.config import Trial

if TYPE_CHECKING:
    from cass_tune.probe import Measured

START_S = 60.0
"""How long the task may wait for a place and import torch, beyond the time that it measures."""


def _task(wanted: Sequence[tuple[Trial, str]], options: Mapping[str, Any]) -> Measured:
    if not ray.get_runtime_context().get_accelerator_ids()["GPU"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # as for trials
    from cass_tune.probe import probe

    return probe(wanted, **options)


def probe_there(
    wanted: Sequence[tuple[Trial, str]], *, resources: Mapping[str, float], limit_s: float, **options: Any
) -> Measured:
    """Run `cass_tune.probe.probe` where a trial would run; a task that fails, or finds no place, is a problem.

    Args:
        wanted: a trial and a phase for every kind of step.
        resources: ``cpu`` and ``gpu`` of one trial.
        limit_s: most seconds of all measurements.
        **options: of the probe.
    """
    from cass_tune.probe import Measured

    remote: Any = ray.remote(num_cpus=resources["cpu"], num_gpus=resources["gpu"], max_retries=0)(_task)
    asked = remote.remote(list(wanted), {**options, "limit_s": limit_s})
    try:
        return ray.get(asked, timeout=limit_s + START_S)
    except RayError as error:
        text = (str(error).strip().splitlines() or ["no answer"])[0][:200]
        return Measured(problems=[f"{type(error).__name__}: {text}"])
    finally:
        ray.cancel(asked, force=True)  # no task may go on beside the trials
