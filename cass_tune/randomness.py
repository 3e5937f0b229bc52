"""Randomness without state: every draw is a function of (seed, stream, counters).

No generator is carried along, so neither the number of workers, nor an interruption, nor what ran before in the same
process can change a number. NumPy's Philox is counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"): a key chooses the sequence and a counter the place in it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@lru_cache(maxsize=256)
def _key(seed: int, stream: str) -> tuple[int, int]:
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def generator(seed: int, stream: str, epoch: int = 0, item: int = 0) -> np.random.Generator:
    """Return the generator of one stream at one place.

    Args:
        seed: the trial's seed, at least 0.
        stream: what is drawn, for example ``"pretrain/augmentation"``.
        epoch: first counter, at least 0.
        item: second counter, at least 0 (an image's position in the listing, a step).
    """
    from numpy.random import Generator

    from cass_tune.philox import philox

    return Generator(philox(_key(seed, stream), (0, 0, item, epoch)))


def torch_seed(seed: int, stream: str, step: int = 0) -> int:
    """Return a 60-bit seed for a generator of torch."""
    low, high = _key(seed, stream)
    return int(hashlib.sha256(f"{low}/{high}/{step}".encode()).hexdigest()[:15], 16)
