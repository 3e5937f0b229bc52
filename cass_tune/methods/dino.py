"""DINO: self-distillation with no labels (Caron et al. 2021, https://arxiv.org/abs/2104.14294), for any two networks.

Each arm is a student with a teacher of its own, a moving average of it. All views of an image go through the student,
the two large ones through the teacher as well, whose outputs are centred and sharpened. As in the authors' code the
teacher is what is evaluated, so it is what is finetuned. Views, projection head and loss are lightly's.

Different from the authors' code: images are resized before they are cropped, gradients are clipped by the norm of the
whole network, and there is no drop path unless the network brings it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cass_tune.config import ARMS, Dino, Trial
from cass_tune.data.loader import Views
from cass_tune.data.randomised import seeded
from cass_tune.errors import UsageError
from cass_tune.extras import needs
from cass_tune.methods.base import Method, Progress, View
from cass_tune.training.models import feature_width, features
from cass_tune.training.precision import in_float32
from cass_tune.training.schedules import cosine

if TYPE_CHECKING:
    from numpy.random import Generator

LARGE = 2
"""Large crops of each image, which the teacher sees."""
PATCH_PX = 16


def local_crop_px(trial: Trial) -> int:
    """Return the height and width of the small crops, in pixels."""
    if trial.dino.local_crop_px is not None:
        return trial.dino.local_crop_px
    return max(1, round(trial.data.image_size_px * 96 / 224 / PATCH_PX)) * PATCH_PX


class _MultiCrop:
    """Two large and some small crops of an image, augmented as in the paper (appendix C).

    Args:
        size_px: height and width of the large ones.
        small_px: the same of the small ones.
        small: how many.
    """

    def __init__(self, size_px: int, small_px: int, small: int) -> None:
        from lightly.transforms.dino_transform import DINOTransform

        self._transform: Any = DINOTransform(
            global_crop_size=size_px, local_crop_size=small_px, n_local_views=small, normalize=None
        )

    def __call__(self, image: np.ndarray, rng: Generator) -> Sequence[np.ndarray]:
        with seeded(rng):
            crops = self._transform(Image.fromarray(image))
        return [(crop * 255).round().to(torch.uint8).permute(1, 2, 0).numpy() for crop in crops]


class DinoMethod(Method):
    """Both arms by DINO, each alone; the loss is the sum of both."""

    needs_sizes = True

    def __init__(self, trial: Trial, arms: nn.ModuleDict, classes: Sequence[str]) -> None:
        super().__init__(trial, arms, classes)
        self._config: Dino = trial.dino
        self.students = copy.deepcopy(arms)
        self.heads = nn.ModuleDict({arm: self._head(arm) for arm in ARMS})
        self.teacher_heads = nn.ModuleDict({arm: self._head(arm) for arm in ARMS})
        self.teacher_heads.load_state_dict(self.heads.state_dict())
        self.losses = nn.ModuleDict({arm: self._loss() for arm in ARMS})

    def _head(self, arm: str) -> Any:
        from lightly.models.modules.heads import DINOProjectionHead

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # lightly's way to normalise weights
            return DINOProjectionHead(feature_width(self.arms[arm]), output_dim=self._config.outputs)

    def _loss(self) -> Any:
        from lightly.loss.dino_loss import DINOLoss

        config = self._config
        return DINOLoss(
            config.outputs,
            warmup_teacher_temp=config.teacher_temperature_start,
            teacher_temp=config.teacher_temperature,
            warmup_teacher_temp_epochs=config.teacher_warmup_epochs,
            student_temp=config.student_temperature,
            center_momentum=config.centre_momentum,
        )

    @classmethod
    def check(cls, trial: Trial, arm: str, model: nn.Module | None) -> None:
        needs("lightly", "baselines", "--pretrain.method dino")
        if model is None or not trial.dino.local_crops:
            return
        size = local_crop_px(trial)
        model.eval()
        try:
            with torch.no_grad():
                features(model, torch.zeros(1, 3, size, size))
        except Exception as error:  # torch and timm raise many kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise UsageError(
                f"--pretrain.method dino trains on small crops of {size} px beside the images, which --pretrain.{arm} "
                f"{getattr(trial.pretrain, arm)} does not take: {reason} Give --dino.local-crop-px a size that it "
                "takes, --dino.local-crops 0, or another network."
            ) from error
        finally:
            model.train()

    @classmethod
    def views(cls, trial: Trial) -> Views:
        return _MultiCrop(trial.data.image_size_px, local_crop_px(trial), trial.dino.local_crops)

    def trained(self, arm: str) -> nn.Module:
        return nn.ModuleList([self.students[arm], self.heads[arm]])

    def loss(self, views: Sequence[View], labels: Tensor, progress: Progress) -> tuple[Tensor, Mapping[str, Tensor]]:
        total, outputs = torch.zeros((), device=labels.device), {}
        for arm in ARMS:
            crops = [view[arm] for view in views]
            value, outputs[arm] = self._arm_loss(arm, crops, progress)
            total = total + value
        return total, outputs

    def _arm_loss(self, arm: str, crops: Sequence[Tensor], progress: Progress) -> tuple[Tensor, Tensor]:
        """Return the loss of an arm and its student's projections of the first large crop, which its outputs follow."""
        head: Any = self.heads[arm]
        head.last_layer.weight_v.requires_grad_(progress.epoch >= self._config.frozen_epochs)
        with torch.no_grad():
            large = torch.cat(list(crops[:LARGE]))
            teacher = self.teacher_heads[arm](features(self.arms[arm], large)).chunk(LARGE)
        projections = F.normalize(head.layers(features(self.students[arm], large)), dim=-1)
        student = list(head.last_layer(projections).chunk(LARGE))
        if len(crops) > LARGE:
            small = features(self.students[arm], torch.cat(list(crops[LARGE:])))
            student += head(small).chunk(len(crops) - LARGE)
        value = in_float32(self.losses[arm])(list(teacher), student, epoch=progress.epoch)
        return value, projections.chunk(LARGE)[0]

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        average = get_ema_multi_avg_fn(self._momentum(progress))  # few kernels; exactly itself where both are equal
        for student, teacher in ((self.students, self.arms), (self.heads, self.teacher_heads)):
            average(list(teacher.parameters()), list(student.parameters()), 0)

    def _momentum(self, progress: Progress) -> float:
        start, end = self._config.momentum, self._config.momentum_end
        if start == end:
            return start
        assert progress.steps is not None
        return cosine(progress.step, start, end, progress.steps)
