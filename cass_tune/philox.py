"""NumPy's Philox at a place of a sequence, made without the system's entropy.

Given a key alone, NumPy asks the system for entropy all the same, which takes four times as long as all else (2.4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


class _Key(ISeedSequence):
    """A key in the place of the seeds from which NumPy makes one.

    Args:
        key: two numbers below 2**64.
    """

    def __init__(self, key: tuple[int, int]) -> None:
        self._words = np.array(key, dtype=np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray[Any, Any]:
        if (n_words, dtype) != (2, np.uint64):
            raise ValueError(f"a key of Philox has two words of 64 bits, not {n_words} of {np.dtype(dtype)}")
        return self._words


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> np.random.Philox:
    """Return the sequence of a key, at a place.

    Args:
        key: two numbers below 2**64.
        counter: four numbers below 2**64, the first one counts fastest.
    """
    at = np.array(counter, dtype=np.uint64)
    return np.random.Philox(_Key(key), counter=at)  # type: ignore[arg-type]  # its annotation knows one kind alone
