"""Learning rates as functions of the step, so that nothing has to be carried along or restored."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from cass_tune.config import Finetune, Pretrain

Schedule: TypeAlias = Callable[[int], float]
"""Learning rate of a step, given by the number of steps before it."""


def schedule_of(config: Pretrain | Finetune, arm: str, epoch_steps: int) -> Schedule:
    """Return the schedule of an arm.

    Args:
        config: of the phase.
        arm: ``cnn`` or ``vit``.
        epoch_steps: steps of an epoch, at least 1.
    """
    highest = highest_rate(config, arm)
    lowest = config.min_learning_rate if highest else 0.0  # without any learning, there is none at the lowest, either
    if config.schedule == "cosine":
        return partial(cosine, highest=highest, lowest=lowest, t_max=config.schedule_t_max_steps)
    warmup, total = config.warmup_epochs * epoch_steps, config.epochs * epoch_steps
    if isinstance(config, Pretrain) and config.schedule == "wsd":
        trunk = config.trunk_epochs * epoch_steps
        return partial(wsd, highest=highest, lowest=lowest, warmup=warmup, trunk=trunk, total=total)
    return partial(cosine_to_end, highest=highest, lowest=lowest, warmup=warmup, total=total)


def weight_decay_of(config: Pretrain | Finetune, epoch_steps: int) -> Schedule | None:
    """Return the weight decay as a function of the step, or None where it stays the same; arguments as above."""
    if not isinstance(config, Pretrain) or config.weight_decay_end is None:
        return None
    return partial(
        cosine, highest=config.weight_decay, lowest=config.weight_decay_end, t_max=config.epochs * epoch_steps
    )


def highest_rate(config: Pretrain | Finetune, arm: str) -> float:
    """Return the highest learning rate of an arm."""
    own = config.vit_learning_rate if arm == "vit" else None
    return config.learning_rate if own is None else own


def cosine(step: int, highest: float, lowest: float, t_max: int) -> float:
    """Return the learning rate of `torch.optim.lr_scheduler.CosineAnnealingLR` stepped every batch.

    It falls for ``t_max`` steps, rises for as many, and so on for ever: the published schedule, whose period is 2 t_max
    batches and which does not know the number of epochs (cass_protocol, D12).

    Args:
        step: steps taken before, at least 0.
        highest: learning rate at step 0.
        lowest: learning rate at step t_max.
        t_max: steps from the highest to the lowest, at least 1.
    """
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * step / t_max)) / 2


def warmed_up(step: int, highest: float, warmup: int) -> float:
    """Return the learning rate of a linear warm-up, and a constant one from its last step on.

    Args:
        step: steps taken before, at least 0.
        highest: learning rate from step warmup - 1 on; step 0 has highest / warmup.
        warmup: steps, at least 0.
    """
    return highest * min(1.0, (step + 1) / warmup) if warmup else highest


def wsd(step: int, highest: float, lowest: float, warmup: int, trunk: int, total: int) -> float:
    """Return the learning rate of warm-up, stable, decay (Haegele et al. 2024, arXiv 2405.18392, "1-sqrt" cooldown).

    Before the decay it is a function of step, highest and warmup alone, so that runs with any trunk and total share
    those steps. The decay begins at the rate that would have come next, also where the warm-up is not over.

    Args:
        step: steps taken before, at least 0.
        highest: learning rate after the warm-up.
        lowest: learning rate that step total, the first after the run, would have.
        warmup: steps of the warm-up, at least 0.
        trunk: steps before the decay, at least 0.
        total: all steps, more than trunk.
    """
    if step < trunk:
        return warmed_up(step, highest, warmup)
    share = min(1.0, (step - trunk) / (total - trunk))
    return lowest + (warmed_up(trunk, highest, warmup) - lowest) * (1 - math.sqrt(share))


def cosine_to_end(step: int, highest: float, lowest: float, warmup: int, total: int) -> float:
    """Return the learning rate of a linear warm-up and one cosine over the steps that remain.

    Args:
        step: steps taken before, at least 0.
        highest: learning rate at step warmup.
        lowest: learning rate that step total, the first after the run, would have.
        warmup: steps of the warm-up, at least 0.
        total: all steps, more than warmup.
    """
    if step < warmup:
        return warmed_up(step, highest, warmup)
    return cosine(min(step, total) - warmup, highest, lowest, total - warmup)
