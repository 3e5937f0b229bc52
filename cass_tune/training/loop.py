"""What both training phases share: optimiser, one step, the epoch's mean loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam, AdamW, Optimizer

from cass_tune.config import Finetune, Pretrain
from cass_tune.randomness import torch_seed
from cass_tune.training.activation_checkpointing import buffers_kept
from cass_tune.training.determinism import seed_torch
from cass_tune.training.precision import Precision
from cass_tune.training.schedules import schedule_of, weight_decay_of
from cass_tune.training.state import load_optimiser, optimiser_tensors


class DivergedError(RuntimeError):
    """The loss is not a finite number."""


def make_optimiser(model: nn.Module, config: Pretrain | Finetune) -> Optimizer:
    """Return the optimiser of an arm.

    Adam has no weight decay (the published optimiser: SWA was never switched on, D11). As in timm's own training, AdamW
    decays neither biases and norms nor what the model itself leaves out (position embeddings, class token).

    Args:
        model: the arm.
        config: of the phase.
    """
    if config.optimiser == "adam":
        return Adam(model.parameters(), fused=True)
    return AdamW(
        param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=_undecayed(model)), fused=True
    )


def _undecayed(model: nn.Module) -> list[str]:
    """Return the parameters that a timm model leaves out; of a list of modules, those that each of them does."""
    parts: Mapping[str, Any] = {f"{name}.": part for name, part in model.named_children()}
    if not isinstance(model, nn.ModuleList):
        parts = {"": model}
    return [
        prefix + name
        for prefix, part in parts.items()
        if hasattr(part, "no_weight_decay")
        for name in part.no_weight_decay()
    ]


class Stepper:
    """Takes optimiser steps; the learning rate and all randomness are functions of the step's number.

    Args:
        arms: the networks trained, by name.
        config: of the phase: optimiser, learning rates, clipping.
        epoch_steps: steps of an epoch.
        seed: the trial's seed.
        stream: names the draws of dropout and drop path.
        checkpointing: whether the networks compute activations again in the backward pass.
    """

    def __init__(
        self,
        arms: Mapping[str, nn.Module],
        config: Pretrain | Finetune,
        *,
        epoch_steps: int,
        seed: int,
        stream: str,
        checkpointing: bool = False,
    ) -> None:
        self._recomputed = list(arms.values()) if checkpointing else []
        self._optimisers = [make_optimiser(model, config) for model in arms.values()]
        self._schedules = [schedule_of(config, arm, epoch_steps) for arm in arms]
        self._weight_decay = weight_decay_of(config, epoch_steps)
        self._clip_norm = config.clip_norm
        self._seed = seed
        self._stream = f"{stream}/step"
        self._device = next(parameter.device for model in arms.values() for parameter in model.parameters())
        self._scaler = Precision(name=config.precision, device=self._device).scaler()
        self.learning_rate = self._schedules[0](0)
        """That of the first arm, in the last step."""

    def begin(self, step: int) -> None:
        """Reseed torch, set the learning rate and clear the gradients before a step's forward pass."""
        seed_torch(torch_seed(self._seed, self._stream, step), self._device)
        self.learning_rate = self._schedules[0](step)
        for optimiser, schedule in zip(self._optimisers, self._schedules, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = schedule(step)
                if self._weight_decay and group["weight_decay"]:
                    group["weight_decay"] = self._weight_decay(step)
            optimiser.zero_grad(set_to_none=True)

    def end(self, loss: Tensor) -> None:
        """Back-propagate, clip each arm's gradient where that is asked for, and step every optimiser.

        With fp16, an optimiser leaves a step out whose gradients are not finite, and the loss is scaled less from then
        on. Fused optimisers do so on the device, without waiting for it.
        """
        with buffers_kept(self._recomputed) if self._recomputed else nullcontext():
            self._scaler.scale(loss).backward()
        for optimiser in self._optimisers:
            if self._clip_norm:
                self._scaler.unscale_(optimiser)
                clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], self._clip_norm)
            self._scaler.step(optimiser)
        self._scaler.update()

    def tensors(self) -> dict[str, Tensor]:
        """Return the state of every optimiser, by its number."""
        return {
            f"{number}/{name}": tensor
            for number, optimiser in enumerate(self._optimisers)
            for name, tensor in optimiser_tensors(optimiser).items()
        }

    def scale(self) -> dict[str, Any]:
        """Return the state of the loss's scaling, as JSON can hold it; empty without fp16."""
        return self._scaler.state_dict()

    def load(self, tensors: Mapping[str, Tensor], step: int, scale: Mapping[str, Any]) -> None:
        """Give every optimiser the state that `tensors`, and the scaling that `scale` returned after so many steps."""
        if scale:
            self._scaler.load_state_dict(dict(scale))
        if step:
            self.learning_rate = self._schedules[0](step - 1)
        for number, optimiser in enumerate(self._optimisers):
            start = f"{number}/"
            own = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
            load_optimiser(optimiser, own)


class MeanLoss:
    """Mean of an epoch's losses, each weighted by its number of images; read from the device once per epoch.

    Args:
        total: sum of the losses so far, float64 on the losses' device.
        images: images so far.
    """

    def __init__(self, total: Tensor | None = None, images: int = 0) -> None:
        self.total = torch.zeros((), dtype=torch.float64) if total is None else total
        self.images = images

    def add(self, loss: Tensor, images: int) -> None:
        """Add a batch's mean loss."""
        self.total = self.total.to(loss.device) + loss.detach().double() * images
        self.images += images

    def mean(self) -> float:
        """Return the mean so far.

        Raises:
            DivergedError: it is not finite.
        """
        value = float(self.total) / self.images
        if not math.isfinite(value):
            raise DivergedError(f"the loss is {value}: training diverged; try a lower learning rate")
        return value
