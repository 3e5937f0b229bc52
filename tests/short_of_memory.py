"""Methods whose training runs out of a GPU's memory, without a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ray
import torch
from torch import Tensor

from cass_tune.methods import Progress, View
from cass_tune.methods.cass import Cass

MESSAGE = "CUDA out of memory. Tried to allocate 20.00 MiB."


class _Short(Cass):
    """Runs out of memory in its second step."""

    def is_short(self) -> bool:
        """Return whether there is not enough memory."""
        return True

    def loss(self, views: Sequence[View], labels: Tensor, progress: Progress) -> tuple[Tensor, Mapping[str, Tensor]]:
        if progress.step >= 1 and self.is_short():
            raise torch.OutOfMemoryError(MESSAGE)
        return super().loss(views, labels, progress)


class Always(_Short):
    """Whatever it has."""


class NeedsACard(_Short):
    """On a part of a card."""

    def is_short(self) -> bool:
        return ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0) < 1


class NeedsCheckpointing(_Short):
    """While it keeps its activations."""

    def is_short(self) -> bool:
        return not self.arms["cnn"].grad_checkpointing
