"""The probe, where trials run: an actor of Ray with a trial's resources."""

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

START_SHARE = 0.5
"""Part of the time in which the actor must have found a place and imported torch."""
END_SHARE = 0.1
"""Part of the remaining time that is left for a step that has begun."""


class _Prober:
    """Measures in a process of its own, which ends, and gives its memory back."""

    def begin(self) -> None:
        """Bring what the probe needs."""
        if not ray.get_runtime_context().get_accelerator_ids()["GPU"]:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # as for trials
        import cass_tune.probe  # noqa: F401

    def measure(self, wanted: Sequence[tuple[Trial, str]], options: Mapping[str, Any]) -> Measured:
        from cass_tune.probe import probe

        return probe(wanted, **options)


def probe_there(
    wanted: Sequence[tuple[Trial, str]], *, resources: Mapping[str, float], limit_s: float, **options: Any
) -> Measured:
    """Run `cass_tune.probe.probe` where a trial would run; what fails, or finds no place in time, is a problem.

    Args:
        wanted: a trial and a phase for every kind of step.
        resources: ``cpu`` and ``gpu`` of one trial.
        limit_s: most seconds of everything: finding a place, starting and measuring.
        **options: of the probe.
    """
    from cass_tune.probe import Measured

    deadline = time.monotonic() + limit_s
    needs: Any = {"num_cpus": resources["cpu"], "num_gpus": resources["gpu"], "max_restarts": 0}
    prober: Any = ray.remote(**needs)(_Prober).remote()
    try:
        ray.get(prober.begin.remote(), timeout=limit_s * START_SHARE)
        left_s = deadline - time.monotonic()
        asked = prober.measure.remote(list(wanted), {**options, "limit_s": left_s * (1 - END_SHARE)})
        return ray.get(asked, timeout=left_s)
    except RayError as error:
        text = (str(error).strip().splitlines() or ["no answer"])[0][:200]
        return Measured(problems=[f"{type(error).__name__}: {text}"])
    finally:
        ray.kill(prober)
