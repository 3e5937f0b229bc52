"""Transforms of other libraries draw from the process's global generators: here they are seeded, and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.random import Generator


@contextmanager
def seeded(rng: Generator) -> Iterator[None]:
    """Let the block's draws from the generators of torch, numpy and random follow from a given one.

    Args:
        rng: one number is drawn from it.
    """
    seed = int(rng.integers(2**32))
    of_torch, of_numpy, of_random = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(of_torch)
        np.random.set_state(of_numpy)
        random.setstate(of_random)
