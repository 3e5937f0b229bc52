"""How long training steps take on this device: a few of each kind, on random images, before the first trial runs.

The steps are those of a trial, augmentation included; nothing is read from the data, nothing is written, and no random
number of a trial depends on it (`cass_tune.randomness`).
"""

from __future__ import annotations

import gc
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from cass_tune.config import ARMS, Trial, to_json, with_field
from cass_tune.data.listing import Item, Listing
from cass_tune.data.loader import Batches, one_view
from cass_tune.data.pixels import Pixels
from cass_tune.data.splits import Parts
from cass_tune.methods import method_class
from cass_tune.pace import Kind, kind
from cass_tune.training.determinism import prepare_torch
from cass_tune.training.finetune import Finetuning
from cass_tune.training.models import build_arm
from cass_tune.training.pretrain import Pretraining

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

STEPS = 5
"""Measured steps of one kind, after one more that warms up."""
SMALL_BATCH = 2
"""Images of the first steps, which tell whether there is time for whole batches."""
IMAGES = 32
"""Different random images."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a probe has found.

    Args:
        per_image: seconds per image that passes forward and backward through one network, by kind.
        took_s: seconds of the whole probe.
        problems: what could not be measured, one text each.
    """

    per_image: Mapping[Kind, float] = field(default_factory=dict)
    took_s: float = 0.0
    problems: Sequence[str] = ()


class _Enough(Exception):
    """Ends a training after the steps that were wanted."""


def probe(wanted: Sequence[tuple[Trial, str]], *, device: str, threads: int, workers: int, limit_s: float) -> Measured:
    """Measure steps; what fails or finds no time is left out.

    Args:
        wanted: a trial and a phase for every kind of step.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of one operation.
        workers: processes that load images.
        limit_s: most seconds of all together; a step that has begun is finished.
    """
    begun = time.monotonic()
    wanted = sorted(wanted, key=lambda item: item[1] != "pretrain")  # finetuning replaces the networks' heads
    per_image: dict[Kind, float] = {}
    problems: list[str] = []
    threads_before = torch.get_num_threads()
    gpus = [torch.cuda.current_device()] if device == "cuda" else []
    with warnings.catch_warnings(), torch.random.fork_rng(gpus):
        warnings.simplefilter("ignore")  # of kernels that have no deterministic form: trials record them
        prepare_torch(torch.device(device), threads)
        arms = _Arms(torch.device(device))
        for number, (trial, phase) in enumerate(wanted):
            left_s = limit_s - (time.monotonic() - begun)
            if left_s <= 0:
                problems.append(f"no time was left for {len(wanted) - number} of {len(wanted)} kinds of step")
                break
            deadline = time.monotonic() + left_s / (len(wanted) - number)
            try:
                found = _Steps(trial, phase, arms, workers, deadline).per_image()
            except Exception as error:  # whatever it is, trials can run without it
                logger.debug("a probe failed", exc_info=True)
                problems.append(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}")
                arms.clear()
            else:
                per_image[kind(to_json(trial), phase)] = found
        arms.clear()
    torch.set_num_threads(threads_before)
    return Measured(per_image=per_image, took_s=time.monotonic() - begun, problems=list(dict.fromkeys(problems)))


class _Arms:
    """Networks with random weights; the last two are kept for further kinds of step.

    Args:
        device: where they are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._built: dict[object, nn.Module] = {}

    def __call__(self, trial: Trial, arm: str) -> nn.Module:
        pretrain, data = trial.pretrain, trial.data
        laid_out = (pretrain.precision, trial.finetune.precision)  # it may change how their tensors lie in memory
        key = (arm, getattr(pretrain, arm), data.image_size_px, pretrain.embedding_dim, data.normalisation, *laid_out)
        if key not in self._built:
            for oldest in list(self._built)[: -len(ARMS) + 1]:
                del self._built[oldest]
            for name, value in (("weights", "random"), ("cnn_weights", None), ("vit_weights", None)):
                trial = with_field(trial, f"pretrain.{name}", value)  # nothing is fetched
            self._built[key] = build_arm(trial, arm).to(self.device)
        return self._built[key]

    def clear(self) -> None:
        """Give their memory back."""
        self._built.clear()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class _Steps:
    """Steps of one kind.

    Args:
        trial: of that kind.
        phase: ``pretrain``, or ``finetune_`` and the arm.
        arms: where the networks come from.
        workers: processes that load images.
        deadline: when to stop, by `time.monotonic`.
    """

    def __init__(self, trial: Trial, phase: str, arms: _Arms, workers: int, deadline: float) -> None:
        self._trial = trial
        self._phase = phase
        self._section = "pretrain" if phase == "pretrain" else "finetune"
        self._arms = arms
        self._workers = workers
        self._deadline = deadline

    def per_image(self) -> float:
        """Return the seconds per image and network, by whole batches if there is time for them."""
        whole = getattr(self._trial, self._section).batch_size
        small = self._measure(SMALL_BATCH, 2)
        if time.monotonic() + 2 * small * whole > self._deadline:
            return small / self._networks
        return self._measure(whole, 1 + STEPS) / self._networks

    @property
    def _networks(self) -> int:
        return len(ARMS) if self._phase == "pretrain" else 1

    def _measure(self, batch_size: int, steps: int) -> float:
        """Return the seconds per image of a step; of the first one only if there is no time for more."""
        ends = [time.monotonic()]

        def after_step() -> None:
            if self._arms.device.type == "cuda":
                torch.cuda.synchronize(self._arms.device)
            ends.append(time.monotonic())
            if len(ends) > steps or ends[-1] > self._deadline:
                raise _Enough

        with suppress(_Enough):
            self._train(batch_size, (steps + 1) * batch_size, after_step)
        each = [end - start for start, end in pairwise(ends)]
        return median(each[1:] or each) / batch_size

    def _train(self, batch_size: int, images: int, after_step: Callable[[], None]) -> None:
        """Train for an epoch, which `after_step` ends before."""
        trial = with_field(self._trial, f"{self._section}.batch_size", batch_size)
        pixels = _random_pixels(trial.data.image_size_px)
        positions = tuple(number % IMAGES for number in range(images))
        pin_memory = self._arms.device.type == "cuda"
        views = method_class(trial.pretrain.method).views(trial) if self._phase == "pretrain" else one_view
        batches = Batches(pixels, seed=0, stream="probe", workers=self._workers, pin_memory=pin_memory, views=views)
        if self._phase == "pretrain":
            arms = nn.ModuleDict({arm: self._arms(trial, arm) for arm in ARMS})
            training = Pretraining(trial, arms, batches, positions, after_step=after_step)
        else:
            arm = self._phase.removeprefix("finetune_")
            parts = Parts(pretrain=(), labelled=positions, validation=(), test=())
            model = self._arms(trial, arm)
            training = Finetuning(trial, arm, model, pixels.listing, parts, batches, after_step)
        next(training.run())


def _random_pixels(size_px: int) -> Pixels:
    items = tuple(
        Item(path=f"{number}", sha256="", label="ab"[number % 2], split="train", group=f"{number}")
        for number in range(IMAGES)
    )
    listing = Listing(name="probe", items=items, open_image=_open, fingerprint="probe")
    array = np.random.default_rng(0).integers(0, 256, (IMAGES, size_px, size_px, 3), dtype=np.uint8)
    return Pixels(listing, size_px, array)


def _open(item: Item) -> Image:
    raise AssertionError("the images are there already")
