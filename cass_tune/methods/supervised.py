"""Supervised pretraining: what labels would do in the place of self-supervision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from cass_tune.config import ARMS, Trial
from cass_tune.methods.base import Method, Progress, View
from cass_tune.training.healthy import SUPERVISED_STD
from cass_tune.training.models import feature_width, features
from cass_tune.training.precision import in_float32


class Supervised(Method):
    """Each arm alone learns the class of each image, from the labels of all images that pretraining sees.

    A reference, not a competitor: the label fraction limits the finetuning alone. The loss is the sum of both arms'
    cross-entropies with a linear layer behind the features; in a multi-label set it is the binary one of each label.
    """

    healthy_std = SUPERVISED_STD

    def __init__(self, trial: Trial, arms: nn.ModuleDict, classes: Sequence[str]) -> None:
        super().__init__(trial, arms, classes)
        self.heads = nn.ModuleDict({arm: nn.Linear(feature_width(arms[arm]), len(classes)) for arm in ARMS})

    def loss(self, views: Sequence[View], labels: Tensor, progress: Progress) -> tuple[Tensor, Mapping[str, Tensor]]:
        outputs = {arm: features(self.arms[arm], views[0][arm]) for arm in ARMS}
        losses = [in_float32(_loss)(self.heads[arm](outputs[arm]), labels) for arm in ARMS]
        return losses[0] + losses[1], outputs


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of classes, or the mean of the labels' binary ones."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
