"""Supervised finetuning of one arm: the same function for the CNN and the transformer (cass_protocol, D5)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cass_tune.config import Trial
from cass_tune.data.listing import Listing
from cass_tune.data.loader import Batches, batch_bounds, normalise
from cass_tune.data.splits import Parts
from cass_tune.randomness import torch_seed
from cass_tune.training.activation_checkpointing import set_checkpointing
from cass_tune.training.compiling import as_written, set_compiling
from cass_tune.training.loop import MeanLoss, Stepper
from cass_tune.training.losses import class_weights, focal_loss
from cass_tune.training.machine import Utilisation, peak_memory_gib
from cass_tune.training.metrics import classification_metrics
from cass_tune.training.models import normalisation, replace_head
from cass_tune.training.pieces import Pieces
from cass_tune.training.precision import Precision
from cass_tune.training.rows import COLUMNS, epoch_row
from cass_tune.training.state import State, below

logger = logging.getLogger(__name__)


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
        after_step: called between two steps and between two batches of an evaluation, when `state` may be asked for;
            what it raises ends the run.
        checkpointing: compute activations again in the backward pass: the same numbers with less memory.
    """

    def __init__(
        self,
        trial: Trial,
        arm: str,
        model: nn.Module,
        listing: Listing,
        parts: Parts,
        batches: Batches,
        after_step: Callable[[], None] = lambda: None,
        *,
        checkpointing: bool = False,
    ) -> None:
        config = trial.finetune
        self.rows: list[dict[str, Any]] = []
        self._config = config
        self.arm = arm
        self.model = model
        self._parts = parts
        self._batches = batches
        self._after_step = after_step
        self._device = next(model.parameters()).device
        self._utilisation = Utilisation(self._device)
        self._precision = Precision(name=config.precision, device=self._device)
        self._precision.arrange(arm, model)
        labels = [listing.items[i].label for i in parts.labelled]
        self.class_weights = class_weights(labels, listing.classes, config.class_weights)
        weights = [self.class_weights[name] for name in listing.classes]
        self._class_weights = torch.tensor(weights, dtype=torch.float32, device=self._device)
        replace_head(model, len(listing.classes), torch_seed(trial.seed, f"finetune head/{arm}"))
        set_checkpointing(model, enabled=checkpointing)
        set_compiling(model, enabled=config.compile)
        self._checkpointing = checkpointing
        self._normalisation = normalisation(model)
        self.best = Best()
        self._in_pieces = Pieces()
        self._seed = trial.seed
        self._stepper = self._new_stepper()
        self._step = 0
        self._begin_epoch()

    def _new_stepper(self) -> Stepper:
        """Return what takes steps with the values that are in force now."""
        return Stepper(
            {self.arm: self.model},
            self._config.in_force(self.epoch),
            epoch_steps=len(batch_bounds(len(self._parts.labelled), self._config.batch_size, drop_last=False)),
            seed=self._seed,
            stream=f"finetune/{self.arm}",
            checkpointing=self._checkpointing,
        )

    def _change(self) -> None:
        """Take the values of a change that comes into force now; the optimiser's moments stay."""
        if any(change.epoch == self.epoch for change in self._config.changes):
            moments, scale = self._stepper.tensors(), self._stepper.scale()
            self._stepper = self._new_stepper()
            self._stepper.load(moments, self._step, scale)

    def _begin_epoch(self) -> None:
        self._change()
        self._batch = 0
        self._train_loss = MeanLoss()
        self._seconds = 0.0
        self._training_seconds = 0.0
        self._started = time.perf_counter()

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.rows)

    @property
    def position(self) -> dict[str, Any]:
        """Where training is: phase, finished epochs, and finished batches of the next one."""
        return {"phase": f"finetune_{self.arm}", "epoch": self.epoch, "batch": self._batch}

    def run(self) -> Iterator[dict[str, Any]]:
        """Yield one row after each epoch that is not finished yet, validation included; end with the best weights.

        It ends before the last epoch when the metric has not become better for `patience` epochs.
        """
        while self.epoch < self._config.epochs and not self._is_stale:
            self._started = time.perf_counter()
            self._utilisation.begin()
            self._train()
            row = self._validated()
            self.rows.append(row)
            self._begin_epoch()
            yield row
        if self.epoch < self._config.epochs:
            logger.info("%s: stopped after epoch %d; the best is epoch %d", self.arm, self.epoch, self.best.epoch)
        self.model.load_state_dict(self.best.weights)

    @property
    def _is_stale(self) -> bool:
        """Whether the best epoch is `patience` epochs ago; nothing has to be kept for it, so it can be resumed."""
        return 0 < self._config.patience <= self.epoch - self.best.epoch

    def state(self) -> State:
        """Return everything that `load` needs to go on from here; the tensors are those in use."""
        tensors = below(
            model=self.model.state_dict(),
            optimisers=self._stepper.tensors(),
            best=self.best.weights,
            epoch={"loss": self._train_loss.total},
        )
        values = {
            "rows": list(self.rows),
            "step": self._step,
            "batch": self._batch,
            "images": self._train_loss.images,
            "seconds": self._seconds + time.perf_counter() - self._started if self._batch else 0.0,
            "training_seconds": self._training_seconds,
            "best": {"epoch": self.best.epoch, "score": self.best.score},
            "scale": self._stepper.scale(),
        }
        return State(tensors=tensors, values=values)

    def load(self, state: State) -> None:
        """Go on from a state of this arm."""
        values = state.values
        self.model.load_state_dict(state.part("model"))
        self.rows = list(values["rows"])
        self._stepper = self._new_stepper()
        self._stepper.load(state.part("optimisers"), values["step"], values.get("scale", {}))
        self.best = Best(**values["best"], weights=state.part("best"))
        self._train_loss = MeanLoss(state.tensors["epoch/loss"].to(self._device), values["images"])
        self._step, self._batch = values["step"], values["batch"]
        self._seconds, self._training_seconds = values["seconds"], values["training_seconds"]

    def _train(self) -> None:
        """Train to the end of the epoch."""
        self.model.train()
        batches = self._batches.training(
            self._parts.labelled, self._config.batch_size, self.epoch + 1, drop_last=False, start=self._batch
        )
        for batch in batches:
            with self._precision.kernels(), self._kernels_of(len(batch.labels)):
                self._stepper.begin(self._step)
                labels = batch.labels.to(self._device, non_blocking=True)
                value = self._loss(self._logits(batch.on(self._device)[0]), labels)
                self._stepper.end(value)
            self._train_loss.add(value, len(batch.images))
            self._step += 1
            self._batch += 1
            self._utilisation.look()
            self._after_step()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _kernels_of(self, images: int) -> AbstractContextManager[object]:
        """Return a block for a batch: compiled kernels are made for whole ones alone."""
        is_whole = images == min(self._config.batch_size, len(self._parts.labelled))
        return nullcontext() if is_whole else as_written(self.model)

    def _validated(self) -> dict[str, Any]:
        """Validate and return the epoch's row."""
        self._training_seconds = self._training_seconds or self._seconds + time.perf_counter() - self._started
        validation = self.evaluate(self._parts.validation)
        self.best.offer(self.epoch + 1, validation.metrics[self._config.select_by], self.model)
        return epoch_row(
            phase=f"finetune_{self.arm}",
            epoch=self.epoch + 1,
            epochs=self._config.epochs,
            loss=self._train_loss.mean(),
            learning_rate=self._stepper.learning_rate,
            images_per_second=self._train_loss.images / self._training_seconds,
            seconds=self._seconds + time.perf_counter() - self._started,
            peak_memory_gib=peak_memory_gib(self._device),
            utilisation=self._utilisation.mean(),
            validation_loss=validation.metrics["loss"],
            reused=False,
            **{name: value for name, value in validation.metrics.items() if name in COLUMNS and name != "loss"},
        )

    def _logits(self, images: Tensor) -> Tensor:
        """Return the model's outputs as float32."""
        normalised = normalise(images, self._device, self._normalisation)
        with self._precision.forward():
            logits = self.model(normalised)
        return logits.float()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return focal_loss(logits, labels, self._class_weights, self._config.focal_gamma)

    @torch.inference_mode()
    def evaluate(self, positions: Sequence[int]) -> Evaluation:
        """Return outputs and metrics on all the images given, without augmentation, every image once."""
        self.model.eval()
        loss = MeanLoss()
        outputs, labels = [], []
        for batch in self._batches.evaluation(positions, self._config.evaluation_batch_size):
            with self._precision.kernels(), as_written(self.model):
                logits = self._in_pieces(self._logits, batch.images)
            loss.add(self._loss(logits, batch.labels.to(self._device, non_blocking=True)), len(batch.images))
            outputs.append(logits.cpu())
            labels.append(batch.labels)
            self._utilisation.look()
            self._after_step()
        logits = torch.cat(outputs)
        metrics = {**classification_metrics(logits, torch.cat(labels)), "loss": loss.mean()}
        return Evaluation(positions=positions, outputs=logits, metrics=metrics)
