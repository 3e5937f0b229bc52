"""SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709) as a method of your own: each arm alone, two views."""

from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from torch import nn

from cass_tune.config import ARMS
from cass_tune.data.augmentation import augment
from cass_tune.methods import Method, in_float32
from cass_tune.training.models import feature_width, features


def two_views(image, rng):
    return [augment(image, rng), augment(image, rng)]


class SimCLR(Method):
    def __init__(self, trial, arms, classes):
        super().__init__(trial, arms, classes)
        widths = {arm: feature_width(arms[arm]) for arm in ARMS}
        self.heads = nn.ModuleDict({arm: SimCLRProjectionHead(width, width, 128) for arm, width in widths.items()})
        self.nt_xent = NTXentLoss(temperature=0.5)

    @classmethod
    def views(cls, trial):
        return two_views

    def loss(self, views, labels, progress):
        outputs = {arm: [self.heads[arm](features(self.arms[arm], view[arm])) for view in views] for arm in ARMS}
        return sum(in_float32(self.nt_xent)(*outputs[arm]) for arm in ARMS), {arm: outputs[arm][0] for arm in ARMS}
