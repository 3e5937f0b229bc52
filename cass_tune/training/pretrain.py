"""Self-supervised pretraining of both arms, one row per epoch; it can stop and go on between any two steps."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cass_tune.config import ARMS, Trial
from cass_tune.data.loader import Batches, batch_bounds, normalise_by_arm
from cass_tune.errors import Collapsed
from cass_tune.identity import why_apart
from cass_tune.methods import Progress, method_class
from cass_tune.randomness import torch_seed
from cass_tune.training.activation_checkpointing import set_checkpointing
from cass_tune.training.collapse import HealthMonitor
from cass_tune.training.compiling import as_written, set_compiling
from cass_tune.training.determinism import seed_torch
from cass_tune.training.loop import MeanLoss, Stepper
from cass_tune.training.machine import Utilisation, peak_memory_gib
from cass_tune.training.models import normalisation
from cass_tune.training.precision import Precision
from cass_tune.training.rows import epoch_row
from cass_tune.training.state import State, below

logger = logging.getLogger(__name__)

Monitor = Callable[[int, nn.ModuleDict], Mapping[str, float]]
"""Returns further columns of an epoch's row, of the epoch's number and the arms, which it leaves as they are."""


MOMENTS_BYTES = 8
"""Per parameter that is trained: Adam's two moments, float32."""


def state_bytes(trial: Trial, arms: Mapping[str, nn.Module] | nn.ModuleDict) -> int:
    """Return about how many bytes `Pretraining.state` has between two epochs, without anything being computed.

    Args:
        trial: its `pretrain` part and the method's own are used.
        arms: the networks, whose tensors may be without content (device ``meta``).
    """
    with torch.device("meta"):
        copies = nn.ModuleDict({arm: copy.deepcopy(arms[arm]).to("meta") for arm in ARMS})
        method = method_class(trial.pretrain.method)(trial, copies, ("one", "other"))
    kept = sum(value.numel() * value.element_size() for value in method.state_dict().values())
    trained = {p: p.numel() for arm in ARMS for p in method.trained(arm).parameters() if p.requires_grad}
    return kept + MOMENTS_BYTES * sum(trained.values())


class Pretraining:
    """Trains both arms in place.

    Args:
        trial: its `pretrain` part and seed are used.
        arms: the networks, on their device.
        batches: loader with the stream ``pretrain``.
        positions: images to train on.
        stop_on_collapse: raise `Collapsed` instead of warning.
        after_step: called between two steps, when `state` may be asked for; what it raises ends the run.
        monitor: called at the end of every epoch, when `state` may still be asked for.
        checkpointing: compute activations again in the backward pass: the same numbers with less memory.
    """

    def __init__(
        self,
        trial: Trial,
        arms: nn.ModuleDict,
        batches: Batches,
        positions: Sequence[int],
        *,
        stop_on_collapse: bool = False,
        after_step: Callable[[], None] = lambda: None,
        monitor: Monitor | None = None,
        checkpointing: bool = False,
    ) -> None:
        config = trial.pretrain
        self.rows: list[dict[str, Any]] = []
        self._config = config
        self.arms = arms
        self._batches = batches
        self._positions = positions
        self._stop_on_collapse = stop_on_collapse
        self._after_step = after_step
        self._monitor = monitor
        self._device = next(arms.parameters()).device
        self._utilisation = Utilisation(self._device)
        self._precision = Precision(name=config.precision, device=self._device)
        for arm in ARMS:
            self._precision.arrange(arm, arms[arm])
            set_checkpointing(arms[arm], enabled=checkpointing)  # before a method copies them
        seed_torch(torch_seed(trial.seed, "method"), self._device)
        self.method = method_class(config.method)(trial, arms, batches.classes).to(self._device)
        for arm in ARMS:
            set_compiling(self.method.trained(arm), enabled=config.compile)  # copies of a compiled network are not
        self._normalisation = {arm: normalisation(arms[arm]) for arm in ARMS}
        epoch_steps = len(batch_bounds(len(positions), config.batch_size, drop_last=True))
        self._steps = None if why_apart(trial) is None else epoch_steps * config.epochs
        self._stepper = Stepper(
            {arm: self.method.trained(arm) for arm in ARMS},
            config,
            epoch_steps=epoch_steps,
            seed=trial.seed,
            stream="pretrain",
            checkpointing=checkpointing,
        )
        self._step = 0
        self._judged = 0
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._batch = 0
        self._loss = MeanLoss()
        self._health = HealthMonitor()
        self._seconds = 0.0
        self._started = time.perf_counter()

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.rows)

    @property
    def position(self) -> dict[str, Any]:
        """Where training is: phase, finished epochs, and finished batches of the next one."""
        return {"phase": "pretrain", "epoch": self.epoch, "batch": self._batch}

    def run(self, until: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield one row after each epoch that is not finished yet; call it again to train further.

        Args:
            until: last epoch, at most the trial's `epochs`, which is the default. Epochs of several calls are the same
                as those of one.

        Raises:
            Collapsed: outputs became constant and `stop_on_collapse` is set.
            DivergedError: the loss is not finite.
        """
        last = self._config.epochs if until is None else until
        self._judge()
        while self.epoch < last:
            self._started = time.perf_counter()
            self._utilisation.begin()
            row = self._train()
            self.rows.append(row)
            self._begin_epoch()
            yield row
            self._judge()

    def state(self) -> State:
        """Return everything that `load` needs to go on from here; the tensors are those in use."""
        arms = below(**{arm: self.arms[arm].state_dict() for arm in ARMS})
        tensors = below(
            arms=arms,
            method=self._beside_arms(),
            optimisers=self._stepper.tensors(),
            health=self._health.tensors(),
            epoch={"loss": self._loss.total},
        )
        values = {
            "rows": list(self.rows),
            "step": self._step,
            "batch": self._batch,
            "images": self._loss.images,
            "seconds": self._seconds + time.perf_counter() - self._started if self._batch else 0.0,
            "scale": self._stepper.scale(),
        }
        return State(tensors=tensors, values=values)

    def _beside_arms(self) -> dict[str, Tensor]:
        """Return what the method keeps beside the arms, by name."""
        return {name: value for name, value in self.method.state_dict().items() if not name.startswith("arms.")}

    def load(self, state: State) -> None:
        """Go on from a state, of this trial or of one with another number of epochs."""
        arms = {f"arms.{name.replace('/', '.', 1)}": value for name, value in state.part("arms").items()}
        self.method.load_state_dict({**arms, **state.part("method")})
        values = state.values
        self._stepper.load(state.part("optimisers"), values["step"], values.get("scale", {}))
        self._health = HealthMonitor.of(state.part("health"), self._device)
        self._loss = MeanLoss(state.tensors["epoch/loss"].to(self._device), values["images"])
        self.rows = [{**row, "epochs": self._config.epochs} for row in values["rows"]]
        self._step, self._batch, self._seconds = values["step"], values["batch"], values["seconds"]
        self._judged = 0

    def _train(self) -> dict[str, Any]:
        """Train to the end of the epoch and return its row."""
        self.method.train()
        batches = self._batches.training(
            self._positions, self._config.batch_size, self.epoch + 1, drop_last=True, start=self._batch
        )
        for batch in batches:
            with self._precision.kernels():
                self._stepper.begin(self._step)
                views = [normalise_by_arm(view, self._device, self._normalisation) for view in batch.on(self._device)]
                progress = Progress(step=self._step, epoch=self.epoch, steps=self._steps)
                with self._precision.forward():
                    labels = batch.labels.to(self._device, non_blocking=True)
                    value, outputs = self.method.loss(views, labels, progress)
                self._stepper.end(value)
                self.method.after_step(progress)
            self._loss.add(value, len(batch.images))
            self._health.add(outputs)
            self._step += 1
            self._batch += 1
            self._utilisation.look()
            self._after_step()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = self._seconds + time.perf_counter() - self._started
        loss = self._loss.mean()  # outputs that are not finite cannot be measured
        # the outputs that are measured next belong to the state until then
        with as_written(self.arms):
            monitored = self._monitor(self.epoch + 1, self.arms) if self._monitor else {}
        method = self.method
        health = self._health.measure(is_common=method.has_common_outputs, healthy_std=method.healthy_std)
        return epoch_row(
            phase="pretrain",
            epoch=self.epoch + 1,
            epochs=self._config.epochs,
            loss=loss,
            learning_rate=self._stepper.learning_rate,
            images_per_second=self._loss.images / seconds,
            seconds=seconds,
            peak_memory_gib=peak_memory_gib(self._device),
            utilisation=self._utilisation.mean(),
            collapsed=health.collapsed,
            reused=False,
            **health.row(),
            **monitored,
        )

    def _judge(self) -> None:
        """Stop, or warn once, when the outputs of the last epoch have collapsed."""
        if self._judged == self.epoch or not self.rows[-1]["collapsed"]:
            return
        row = self.rows[-1]
        stds = ", ".join(f"{arm} {row[f'{arm}_feature_std']:.3f}" for arm in ARMS)
        healthy = f"about {self.method.healthy_std:g} is healthy"
        text = f"outputs are nearly constant after epoch {row['epoch']} (feature std {stds}; {healthy})"
        if self._stop_on_collapse:
            raise Collapsed(f"{text}: collapse")
        logger.warning("%s: collapse", text)
        self._judged = self.epoch
