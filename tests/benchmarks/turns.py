"""Two processes that train the same epochs in turns: never both at once, and never far apart in time.

The speed of a machine that others share changes by more than what is to be measured here. Each process says when it is
ready for its next epoch and waits for the other one's; a turn is from there until it is ready again, so all that it
does after an epoch and before the next one belongs to it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cass_tune.config import ARMS, Data, Pretrain, Trial, with_fields
from cass_tune.data.loader import Batches
from cass_tune.data.phantom import phantom_listing
from cass_tune.data.pixels import load_pixels
from cass_tune.data.splits import split
from cass_tune.methods import Progress, View, method_class
from cass_tune.methods.cass import Cass
from cass_tune.training.determinism import prepare_torch
from cass_tune.training.models import build_arm
from cass_tune.training.pretrain import Pretraining

METHOD = "tests.benchmarks.turns:InTurns"
FOLDER, WHO = "CASS_TUNE_BENCHMARK_TURNS", "CASS_TUNE_BENCHMARK_TURN_OF"
"""Variables of the environment: where the processes meet, and which one of `BOTH` a process is."""
BOTH = ("ray", "bare")
"""In the order of their turns."""
POLL_S = 0.002
MOST_WAITING_S = 600


class Turns:
    """Where a process waits for its turns.

    Args:
        folder: where both meet.
        who: of `BOTH`.
        last: number of the last epoch, which is no turn: nothing follows from which its end could be seen.
    """

    def __init__(self, folder: Path, who: str, last: int) -> None:
        self._folder = folder
        self._who = who
        self._last = last

    def wait(self, epoch: int) -> None:
        """Say that the process is ready for an epoch, counted from 0, and return when it is its turn."""
        self._note(epoch, "ready")
        if epoch < self._last:
            other = self._path("bare", epoch, "ready") if self._who == "ray" else self._path("ray", epoch + 1, "ready")
            until = time.monotonic() + MOST_WAITING_S
            while not other.exists():
                if time.monotonic() > until:
                    raise TimeoutError(f"no {other.name} within {MOST_WAITING_S} s")
                time.sleep(POLL_S)
            self._note(epoch, "begun")

    def seconds(self) -> list[float]:
        """Return how long each turn took."""
        return [self._when(epoch + 1, "ready") - self._when(epoch, "begun") for epoch in range(self._last)]

    def _path(self, who: str, epoch: int, what: str) -> Path:
        return self._folder / f"{who}-{epoch}-{what}"

    def _note(self, epoch: int, what: str) -> None:
        path = self._path(self._who, epoch, what)
        written = path.with_suffix(".part")
        written.write_text(repr(time.monotonic()))
        written.rename(path)

    def _when(self, epoch: int, what: str) -> float:
        return float(self._path(self._who, epoch, what).read_text())


class InTurns(Cass):
    """CASS that waits before each epoch."""

    def __init__(self, trial: Trial, arms: nn.ModuleDict, classes: Sequence[str]) -> None:
        super().__init__(trial, arms, classes)
        self._turns = Turns(Path(os.environ[FOLDER]), os.environ[WHO], trial.pretrain.epochs - 1)
        self._next = 0

    def loss(self, views: Sequence[View], labels: Tensor, progress: Progress) -> tuple[Tensor, Mapping[str, Tensor]]:
        if progress.epoch == self._next:
            self._turns.wait(progress.epoch)
            self._next += 1
        return super().loss(views, labels, progress)


def bare_rows(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Train a trial's pretraining by nothing but the loop, and return the rows of its epochs.

    Args:
        fields: of the trial, by name.
    """
    data, pretrain = Data(label_fraction=0.05), Pretrain(cnn="test_resnet", vit="test_vit", weights="random")
    trial = with_fields(Trial(data=data, pretrain=pretrain), fields)
    prepare_torch(torch.device("cpu"), 1)
    pixels = load_pixels(phantom_listing(), trial.data.image_size_px)
    method = trial.pretrain.method
    batches = Batches(pixels, seed=0, stream="pretrain", views=method_class(method).views(trial))
    positions = split(pixels.listing, trial.data, 0).pretrain
    arms = nn.ModuleDict({arm: build_arm(trial, arm) for arm in ARMS})
    return list(Pretraining(trial, arms, batches, positions).run())


def bare(folder: Path, fields: Mapping[str, Any]) -> None:
    """Train in this process, which has been started for it, in turns with Ray's."""
    os.environ |= {FOLDER: str(folder), WHO: "bare"}
    bare_rows({**fields, "pretrain.method": METHOD})
