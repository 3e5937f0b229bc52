"""What a pretraining method is: networks, views of the images, and the loss of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn

from cass_tune.config import Trial
from cass_tune.data.loader import Views, views_of
from cass_tune.training.healthy import HEALTHY_STD

View: TypeAlias = Mapping[str, Tensor]
"""By arm, one view of every image of a batch, normalised for that arm: float32, shape (batch, 3, height, width)."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where the pretraining is.

    Args:
        step: steps before this one.
        epoch: epochs before this one.
        steps: all steps of the pretraining; None for a method that does not say `knows_epochs`, whose shorter
            pretrainings are then the beginning of longer ones.
    """

    step: int
    epoch: int
    steps: int | None = None

    @property
    def share(self) -> float:
        """Share of the pretraining before this step, at least 0 and below 1."""
        if self.steps is None:
            raise ValueError("a method that asks how far the pretraining is must say `knows_epochs = True`")
        return self.step / self.steps


class Method(nn.Module):
    """Base of all methods. Everything that training changes lies in parameters and buffers, so resuming is exact.

    Args:
        trial: its `pretrain` part and seed may be used.
        arms: the networks before pretraining, by ``cnn`` and ``vit``. As `arms` they are what is finetuned afterwards.
        classes: names of the classes.
    """

    knows_epochs: bool = False
    """Whether a step depends on the number of epochs; then pretrainings of different lengths share nothing."""
    has_common_outputs: bool = False
    """Whether the outputs of both arms lie in one space, so that their agreement is a number worth keeping."""
    healthy_std: float = HEALTHY_STD
    """`cass_tune.training.collapse.feature_std` of outputs that are well; a tenth of it counts as collapsed."""
    needs_sizes: bool = False
    """Whether the networks must take images of several sizes."""

    def __init__(self, trial: Trial, arms: nn.ModuleDict, classes: Sequence[str]) -> None:
        super().__init__()
        self.trial = trial
        self.arms = arms
        self.classes = tuple(classes)

    @classmethod
    def check(cls, trial: Trial, arm: str, model: nn.Module | None) -> None:
        """Raise a UsageError when a network cannot be trained so; called before anything is run.

        Args:
            trial: that asks for it.
            arm: which network.
            model: the network; None while its weights are unknown: then only what is installed is looked at.
        """

    @classmethod
    def views(cls, trial: Trial) -> Views:
        """Return what makes the views of an image; by default one view, by the published augmentation."""
        return views_of(trial.data)

    def trained(self, arm: str) -> nn.Module:
        """Return what an arm's optimiser steps: by default the arm and its part of `heads`, where there is one."""
        heads = getattr(self, "heads", {})
        return nn.ModuleList([self.arms[arm], heads[arm]]) if arm in heads else self.arms[arm]

    def loss(self, views: Sequence[View], labels: Tensor, progress: Progress) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss to minimise, and outputs of each arm by which collapse is judged, shape (batch, any).

        In bf16 and fp16 it runs under torch's autocast: what is computed of the networks' outputs goes through
        `cass_tune.training.precision.in_float32`.

        Args:
            views: as `views` made them.
            labels: int64, shape (batch,): positions in `classes`; in a multi-label set shape (batch, classes), 1 for
                every label that an image has.
            progress: where the pretraining is.
        """
        raise NotImplementedError

    def after_step(self, progress: Progress) -> None:
        """Do what follows the optimisers' step, for example move a teacher."""
