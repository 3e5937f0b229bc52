"""Learning rates as functions of the step, so that nothing has to be carried along or restored."""

from __future__ import annotations

import math


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
