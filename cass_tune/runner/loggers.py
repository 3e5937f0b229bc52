"""Experiment trackers that people already use, by Ray Tune's own callbacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from ray.tune import Callback


def loggers(names: Iterable[str], study: str) -> list[Callback]:
    """Return the callbacks that log the trials of a study.

    Args:
        names: of the trackers.
        study: names the experiment (MLflow), and the project where WANDB_PROJECT does not (W&B).
    """
    made: Mapping[str, Callable[[str], Callback]] = {"mlflow": _mlflow, "wandb": _wandb}
    return [made[name](study) for name in names]


def _mlflow(study: str) -> Callback:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return MLflowLoggerCallback(experiment_name=study)


def _wandb(study: str) -> Callback:
    from ray.air.integrations.wandb import WandbLoggerCallback

    return WandbLoggerCallback(project=os.environ.get("WANDB_PROJECT", study))
