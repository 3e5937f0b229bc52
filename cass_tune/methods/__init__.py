"""Pretraining methods, by the name that ``pretrain.method`` gives; ``none`` has no steps and is not here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from cass_tune.methods.cass import Cass


class Method(Protocol):
    """What a training step of a method computes; all state that it keeps lies in buffers of the arms."""

    def loss(self, arms: nn.ModuleDict, images: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss to minimise and each arm's outputs, shape (batch, embedding_dim), of one batch.

        Args:
            arms: the two networks, by name.
            images: by arm, the same view of each image, normalised for that arm: float32, shape (batch, 3, height,
                width).
        """
        ...


METHODS: dict[str, Method] = {"cass": Cass()}
