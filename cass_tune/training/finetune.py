"""Supervised finetuning of one arm: the same function for the CNN and the transformer (cass_protocol, D5)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cass_tune.config import Trial
from cass_tune.data.listing import Listing
from cass_tune.data.loader import Batches, normalise
from cass_tune.data.splits import Parts
from cass_tune.randomness import torch_seed
from cass_tune.training.loop import MeanLoss, Stepper, adam
from cass_tune.training.losses import class_weights, focal_loss
from cass_tune.training.metrics import classification_metrics
from cass_tune.training.models import replace_head
from cass_tune.training.rows import COLUMNS, epoch_row, peak_memory_gib


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An arm's outputs on one part of the data.

    Args:
        positions: in the listing's items.
        outputs: float32 on the CPU, shape (images, classes): logits.
        metrics: see `classification_metrics`, and the mean loss.
    """

    positions: Sequence[int]
    outputs: Tensor
    metrics: dict[str, Any]


@dataclass
class Best:
    """The best epoch by validation so far, and its weights on the CPU."""

    epoch: int = 0
    score: float = -1.0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, epoch: int, score: float, model: nn.Module) -> None:
        """Keep a copy of the weights when the score is higher than any before; of equal epochs the first stays."""
        if score > self.score:
            self.epoch, self.score = epoch, score
            self.weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


class Finetuning:
    """Trains one arm in place, with a new head, and ends with the weights of its best epoch.

    Args:
        trial: its `finetune` part and seed are used.
        arm: ``cnn`` or ``vit``, names the streams of randomness.
        model: a timm model on its device.
        listing: the data set.
        parts: labelled, validation and test images.
        batches: loader with the stream ``finetune/<arm>``.
    """

    def __init__(
        self, trial: Trial, arm: str, model: nn.Module, listing: Listing, parts: Parts, batches: Batches
    ) -> None:
        config = trial.finetune
        self._config = config
        self.arm = arm
        self.model = model
        self._parts = parts
        self._batches = batches
        self._device = next(model.parameters()).device
        labels = [listing.items[i].label for i in parts.labelled]
        self.class_weights = class_weights(labels, listing.classes, config.class_weights)
        weights = [self.class_weights[name] for name in listing.classes]
        self._class_weights = torch.tensor(weights, dtype=torch.float32, device=self._device)
        replace_head(model, len(listing.classes), torch_seed(trial.seed, f"finetune head/{arm}"))
        self.best = Best()
        self._step = 0
        self._stepper = Stepper(
            [adam(model.parameters())],
            seed=trial.seed,
            stream=f"finetune/{arm}",
            schedule=(config.learning_rate, config.min_learning_rate, config.schedule_t_max_steps),
        )

    def run(self) -> Iterator[dict[str, Any]]:
        """Yield one row after each epoch, validation included; then put the best epoch's weights into the model."""
        for epoch in range(1, self._config.epochs + 1):
            started = time.perf_counter()
            loss = self._train(epoch)
            trained = time.perf_counter()
            validation = self.evaluate(self._parts.validation)
            self.best.offer(epoch, validation.metrics[self._config.select_by], self.model)
            yield epoch_row(
                phase=f"finetune_{self.arm}",
                epoch=epoch,
                epochs=self._config.epochs,
                loss=loss.mean(),
                learning_rate=self._stepper.learning_rate,
                images_per_second=loss.images / (trained - started),
                seconds=time.perf_counter() - started,
                peak_memory_gib=peak_memory_gib(self._device),
                validation_loss=validation.metrics["loss"],
                reused=False,
                **{name: value for name, value in validation.metrics.items() if name in COLUMNS and name != "loss"},
            )
        self.model.load_state_dict(self.best.weights)

    def _train(self, epoch: int) -> MeanLoss:
        loss = MeanLoss()
        self.model.train()
        for batch in self._batches.training(self._parts.labelled, self._config.batch_size, epoch, drop_last=False):
            self._stepper.begin(self._step)
            value = self._loss(self.model(normalise(batch.images, self._device)), batch.labels.to(self._device))
            self._stepper.end(value)
            self._step += 1
            loss.add(value, len(batch.images))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return loss

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return focal_loss(logits.float(), labels, self._class_weights, self._config.focal_gamma)

    @torch.inference_mode()
    def evaluate(self, positions: Sequence[int]) -> Evaluation:
        """Return outputs and metrics on all the images given, without augmentation, every image once."""
        self.model.eval()
        loss = MeanLoss()
        outputs, labels = [], []
        for batch in self._batches.evaluation(positions):
            logits = self.model(normalise(batch.images, self._device)).float()
            loss.add(self._loss(logits, batch.labels.to(self._device)), len(batch.images))
            outputs.append(logits.cpu())
            labels.append(batch.labels)
        logits = torch.cat(outputs)
        metrics = {**classification_metrics(logits, torch.cat(labels)), "loss": loss.mean()}
        return Evaluation(positions=positions, outputs=logits, metrics=metrics)
