"""CASS: cross-architectural self-supervision (https://arxiv.org/abs/2206.04170, section 3), and variants of it.

A CNN and a vision transformer see the same augmented image; the loss pulls their outputs together. No negatives,
no stop-gradient, no predictor: a constant output is a global optimum, which is why collapse is measured every epoch.
The variants are two ways out of it, taken from other methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from cass_tune.config import ARMS, Trial
from cass_tune.extras import needs
from cass_tune.methods.base import Method, Progress, View
from cass_tune.training.precision import in_float32


@in_float32
def cass_loss(cnn: Tensor, vit: Tensor) -> Tensor:
    """Return the mean over the batch of 2 - 2 cos(cnn, vit), between 0 and 4.

    Args:
        cnn: outputs of the CNN, shape (batch, embedding_dim).
        vit: outputs of the transformer for the same images, shape (batch, embedding_dim).
    """
    cosine = (F.normalize(cnn, dim=-1) * F.normalize(vit, dim=-1)).sum(dim=-1)
    return (2 - 2 * cosine).mean()


@in_float32
def variance_term(outputs: Tensor) -> Tensor:
    """Return how far the outputs' std falls short of 1, mean over dimensions, between 0 and 1.

    The variance term of VICReg (Bardes et al. 2022, equation 1, with its epsilon of 1e-4), of outputs on the sphere of
    radius sqrt(dimensions): the cosine does not see their length, and spread evenly they have a std of 1.

    Args:
        outputs: shape (batch, embedding_dim), at least two images.
    """
    from lightly.loss.vicreg_loss import variance_loss

    return variance_loss(F.normalize(outputs, dim=-1) * outputs.shape[-1] ** 0.5)


class Cass(Method):
    """Both arms see one and the same view of each image and are trained together.

    With `variance_weight`, that many times the mean `variance_term` of both arms is added. With `predictor`, each
    arm's output goes through a predictor and is compared with the other arm's output, which is not trained by it: the
    mean of both ways (Chen and He 2021, SimSiam, algorithm 1; hidden width a quarter of the outputs').
    """

    has_common_outputs = True

    def __init__(self, trial: Trial, arms: nn.ModuleDict, classes: Sequence[str]) -> None:
        super().__init__(trial, arms, classes)
        if trial.pretrain.predictor:
            from lightly.models.modules.heads import SimSiamPredictionHead

            width = trial.pretrain.embedding_dim
            heads = {arm: SimSiamPredictionHead(width, max(2, width // 4), width) for arm in ARMS}
            self.heads = nn.ModuleDict(heads)

    @classmethod
    def check(cls, trial: Trial, arm: str, model: nn.Module | None) -> None:
        if trial.pretrain.predictor:
            needs("lightly", "baselines", "--pretrain.predictor")
        if trial.pretrain.variance_weight:
            needs("lightly", "baselines", "--pretrain.variance-weight")

    def loss(self, views: Sequence[View], labels: Tensor, progress: Progress) -> tuple[Tensor, Mapping[str, Tensor]]:
        outputs = {arm: self.arms[arm](views[0][arm]) for arm in ARMS}
        value = self._distance(outputs)
        weight = self.trial.pretrain.variance_weight
        if weight:
            value = value + weight * (variance_term(outputs["cnn"]) + variance_term(outputs["vit"])) / 2
        return value, outputs

    def _distance(self, outputs: Mapping[str, Tensor]) -> Tensor:
        cnn, vit = outputs["cnn"], outputs["vit"]
        if not self.trial.pretrain.predictor:
            return cass_loss(cnn, vit)
        from_cnn, from_vit = self.heads["cnn"](cnn), self.heads["vit"](vit)
        return (cass_loss(from_cnn, vit.detach()) + cass_loss(cnn.detach(), from_vit)) / 2
