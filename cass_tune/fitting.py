"""Which part of a GPU a trial takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cass_tune.plan import Wanted


@dataclass(frozen=True)
class Fit:
    """How a trial is placed on a kind of card.

    Args:
        share: part of one card that it takes: 1/k where k trials share a card, 1, or a whole number of cards above;
            0 on the CPU.
        cap: part of the card's memory that its process may take, above 0 and at most 1.
        checkpointing: whether activations are computed again in the backward pass instead of being kept.
    """

    share: float = 1.0
    cap: float = 1.0
    checkpointing: bool = False


Fitting = Callable[[Wanted, str], Fit]
"""Returns the fit of a trial on a kind of device, by torch's name of it (``NVIDIA H200``), or ``cpu``."""


def given(share: float, *, checkpointing: bool = False) -> Fitting:
    """Return a fitting that gives every trial the same.

    Args:
        share: as the user gave it.
        checkpointing: of every trial.
    """
    cap = share if 0 < share < 1 else 1.0
    return lambda wanted, device_kind: Fit(share, cap, checkpointing)
