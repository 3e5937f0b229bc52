"""Self-supervised pretraining of both arms, one row per epoch."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from cass_tune.config import ARMS, Trial
from cass_tune.data.loader import Batches, normalise
from cass_tune.errors import Collapsed
from cass_tune.methods import METHODS, Method
from cass_tune.training.collapse import Health, HealthMonitor
from cass_tune.training.loop import MeanLoss, Stepper, adam
from cass_tune.training.rows import epoch_row, peak_memory_gib

logger = logging.getLogger(__name__)


class Pretraining:
    """Trains both arms in place.

    Args:
        trial: its `pretrain` part and seed are used.
        arms: the networks, on their device.
        batches: loader with the stream ``pretrain``.
        positions: images to train on.
        stop_on_collapse: raise `Collapsed` instead of warning.
    """

    def __init__(
        self, trial: Trial, arms: nn.ModuleDict, batches: Batches, positions: Sequence[int], *, stop_on_collapse: bool
    ) -> None:
        config = trial.pretrain
        self._config = config
        self._arms = arms
        self._batches = batches
        self._positions = positions
        self._stop_on_collapse = stop_on_collapse
        self._device = next(arms.parameters()).device
        self._method: Method = METHODS[config.method]
        self._step = 0
        self._stepper = Stepper(
            [adam(arms[arm].parameters()) for arm in ARMS],
            seed=trial.seed,
            stream="pretrain",
            schedule=(config.learning_rate, config.min_learning_rate, config.schedule_t_max_steps),
        )

    def run(self) -> Iterator[dict[str, Any]]:
        """Yield one row after each epoch.

        Raises:
            Collapsed: outputs became constant and `stop_on_collapse` is set.
            DivergedError: the loss is not finite.
        """
        for epoch in range(1, self._config.epochs + 1):
            started = time.perf_counter()
            loss, health = self._train(epoch)
            seconds = time.perf_counter() - started
            yield epoch_row(
                phase="pretrain",
                epoch=epoch,
                epochs=self._config.epochs,
                loss=loss.mean(),
                learning_rate=self._stepper.learning_rate,
                images_per_second=loss.images / seconds,
                seconds=seconds,
                peak_memory_gib=peak_memory_gib(self._device),
                collapsed=health.collapsed,
                reused=False,
                **health.row(),
            )
            self._judge(health, epoch)

    def _train(self, epoch: int) -> tuple[MeanLoss, Health]:
        loss, monitor = MeanLoss(), HealthMonitor()
        self._arms.train()
        for batch in self._batches.training(self._positions, self._config.batch_size, epoch, drop_last=True):
            self._stepper.begin(self._step)
            value, outputs = self._method.loss(self._arms, normalise(batch.images, self._device))
            self._stepper.end(value)
            self._step += 1
            loss.add(value, len(batch.images))
            monitor.add(outputs)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        loss.mean()  # outputs that are not finite cannot be measured
        return loss, monitor.measure()

    def _judge(self, health: Health, epoch: int) -> None:
        if not health.collapsed:
            return
        stds = ", ".join(f"{arm} {value:.3f}" for arm, value in health.feature_std.items())
        text = f"outputs are nearly constant after epoch {epoch} (feature std {stds}; about 1 is healthy): collapse"
        if self._stop_on_collapse:
            raise Collapsed(text)
        logger.warning(text)
