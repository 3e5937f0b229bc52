"""CASS: cross-architectural self-supervision (https://arxiv.org/abs/2206.04170, section 3).

A CNN and a vision transformer see the same augmented image; the loss pulls their outputs together. No negatives,
no stop-gradient, no predictor: a constant output is a global optimum, which is why collapse is measured every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from cass_tune.config import ARMS


def cass_loss(cnn: Tensor, vit: Tensor) -> Tensor:
    """Return the mean over the batch of 2 - 2 cos(cnn, vit), between 0 and 4.

    Args:
        cnn: outputs of the CNN, shape (batch, embedding_dim).
        vit: outputs of the transformer for the same images, shape (batch, embedding_dim).
    """
    cosine = (F.normalize(cnn, dim=-1) * F.normalize(vit, dim=-1)).sum(dim=-1)
    return (2 - 2 * cosine).mean()


class Cass:
    """Both arms see one and the same view of each image and are trained together."""

    def loss(self, arms: nn.ModuleDict, images: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the CASS loss and the outputs, see `cass_tune.methods.Method.loss`."""
        outputs = {arm: arms[arm](images[arm]) for arm in ARMS}
        return cass_loss(outputs["cnn"], outputs["vit"]), outputs
