"""Passing a batch of an evaluation through a network in pieces, where a GPU's memory is not enough for all of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from cass_tune.training.card_memory import is_out_of_memory

logger = logging.getLogger(__name__)


class Pieces:
    """Passes images through a network at once; when memory was not enough, from then on in halves, quarters, ...

    Smaller pieces may change last digits, and they are for what could not be evaluated otherwise.

    Args:
        on_shortage: called after memory was not enough.
    """

    def __init__(self, on_shortage: Callable[[], None] = lambda: None) -> None:
        self._most: int | None = None
        self._on_shortage = on_shortage

    def __call__(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Return what the network makes of the images.

        Args:
            forward: the network, without gradients.
            images: at least one; along their first axis they can be divided.

        Raises:
            Exception: the network's own; also that memory is not enough for a single image.
        """
        while True:
            most = min(self._most or len(images), len(images))
            try:
                found = [forward(piece) for piece in images.split(most)]
                return found[0] if len(found) == 1 else torch.cat(found)
            except Exception as error:
                if most == 1 or not is_out_of_memory(error):
                    raise
            self._most = (most + 1) // 2  # outside the handler, which keeps what the network has made so far
            logger.warning("the GPU's memory is not enough to evaluate %d images at once: %d", most, self._most)
            torch.cuda.empty_cache()
            self._on_shortage()
