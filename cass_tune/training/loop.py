"""What both training phases share: optimiser, one step, the epoch's mean loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Adam

from cass_tune.randomness import torch_seed
from cass_tune.training.schedules import cosine
from cass_tune.training.state import load_optimiser, optimiser_tensors


class DivergedError(RuntimeError):
    """The loss is not a finite number."""


def adam(parameters: Iterable[nn.Parameter]) -> Adam:
    """Return Adam without weight decay (the published optimiser: SWA was never switched on, D11)."""
    return Adam(parameters, fused=True)


class Stepper:
    """Takes optimiser steps; the learning rate and all randomness are functions of the step's number.

    Args:
        optimisers: one per arm.
        seed: the trial's seed.
        stream: names the draws of dropout and drop path.
        schedule: highest and lowest learning rate, and t_max in steps.
    """

    def __init__(
        self, optimisers: Iterable[Adam], *, seed: int, stream: str, schedule: tuple[float, float, int]
    ) -> None:
        self._optimisers = list(optimisers)
        self._seed = seed
        self._stream = f"{stream}/step"
        self._schedule = schedule
        self.learning_rate = schedule[0]

    def begin(self, step: int) -> None:
        """Reseed torch, set the learning rate and clear the gradients before a step's forward pass."""
        torch.manual_seed(torch_seed(self._seed, self._stream, step))
        self.learning_rate = cosine(step, *self._schedule)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.learning_rate
            optimiser.zero_grad(set_to_none=True)

    def end(self, loss: Tensor) -> None:
        """Back-propagate and step every optimiser."""
        loss.backward()
        for optimiser in self._optimisers:
            optimiser.step()

    def tensors(self) -> dict[str, Tensor]:
        """Return the state of every optimiser, by its number."""
        return {
            f"{number}/{name}": tensor
            for number, optimiser in enumerate(self._optimisers)
            for name, tensor in optimiser_tensors(optimiser).items()
        }

    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Give every optimiser the state that `tensors` returned after so many steps."""
        if step:
            self.learning_rate = cosine(step - 1, *self._schedule)
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
