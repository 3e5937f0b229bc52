"""How long training steps take here, and how much memory of a GPU: a few of each kind, before the first trial runs.

The steps are those of a trial on random images, augmentation included; nothing is read from the data, nothing is
written, and no random number of a trial depends on it (`cass_tune.randomness`).
"""

from __future__ import annotations

import gc
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from cass_tune.config import ARMS, EVALUATION_BATCH, Trial, to_json, with_fields
from cass_tune.data.listing import Item, Listing
from cass_tune.data.loader import Batches, views_of
from cass_tune.data.pixels import Pixels
from cass_tune.data.splits import Parts
from cass_tune.fitting import batch_size
from cass_tune.memory import Card, Reading, shape
from cass_tune.methods import method_class
from cass_tune.pace import Kind, kind
from cass_tune.training.card_memory import card, is_out_of_memory
from cass_tune.training.compiling import as_written
from cass_tune.training.determinism import prepare_torch
from cass_tune.training.finetune import Finetuning
from cass_tune.training.models import build_blank_arm
from cass_tune.training.pieces import Pieces
from cass_tune.training.pretrain import Pretraining

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

STEPS = 5
"""Measured steps of one kind, after one more that warms up."""
SMALL_BATCH = 2
"""Images of the first steps, which tell whether there is time for whole batches."""
MOST_STEPS = 2000
"""Steps that are counted by the clock, at most."""
IMAGES = 32
"""Different random images."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a probe has found.

    Args:
        per_image: seconds per image that passes forward and backward through one network, by kind.
        took_s: seconds of the whole probe.
        problems: what could not be measured, one text each.
        card: the GPU, where it is one.
        readings: of the GPU's memory.
    """

    per_image: Mapping[Kind, float] = field(default_factory=dict)
    took_s: float = 0.0
    problems: Sequence[str] = ()
    card: Card | None = None
    readings: Sequence[Reading] = ()


class _Enough(Exception):
    """Ends a training after the steps that were wanted."""


def probe(
    wanted: Sequence[tuple[Trial, str]],
    *,
    device: str,
    threads: int,
    workers: int,
    limit_s: float,
    modes: Sequence[bool] = (False,),
) -> Measured:
    """Measure steps; what fails or finds no time is left out.

    Args:
        wanted: a trial and a phase for every kind of step.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of one operation.
        workers: processes that load images.
        limit_s: most seconds of all together; a step that has begun is finished.
        modes: without (False) and with (True) activation checkpointing; each is tried where the GPU's memory is not
            enough for those before.
    """
    begun = time.monotonic()
    wanted = sorted(wanted, key=lambda item: item[1] != "pretrain")  # finetuning replaces the networks' heads
    per_image: dict[Kind, float] = {}
    readings: list[Reading] = []
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
                found = _first_that_fits(trial, phase, arms, workers, deadline, modes, readings)
            except Exception as error:  # whatever it is, trials can run without it
                logger.debug("a probe failed", exc_info=True)
                problems.append(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}")
                arms.clear()
            else:
                if found is not None:
                    per_image[kind(to_json(trial), phase)] = found
        arms.clear()
    torch.set_num_threads(threads_before)
    return Measured(
        per_image=per_image,
        took_s=time.monotonic() - begun,
        problems=list(dict.fromkeys(problems)),
        card=card() if arms.are_on_card else None,
        readings=readings,
    )


def step_ends(
    trial: Trial,
    phase: str,
    *,
    device: str,
    threads: int,
    workers: int,
    seconds: float,
    checkpointing: bool,
    compiled: bool = False,
) -> list[float]:
    """Take steps of whole batches and return when each of them ended, by the machine's clock.

    Args:
        trial: of a kind of step.
        phase: ``pretrain``, or ``finetune_`` and the arm.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of one operation.
        workers: processes that load images.
        seconds: how long, from the end of the first step.
        checkpointing: whether activations are computed again.
        compiled: whether the networks are compiled, whatever the trial says.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in `probe`
        prepare_torch(torch.device(device), threads)
        arms = _Arms(torch.device(device))
        try:
            how = {"checkpointing": checkpointing, "compiled": compiled}
            return _Steps(trial, phase, arms, workers, float("inf"), [], **how).ends(seconds)
        finally:
            arms.clear()


def _first_that_fits(
    trial: Trial,
    phase: str,
    arms: _Arms,
    workers: int,
    deadline: float,
    modes: Sequence[bool],
    readings: list[Reading],
) -> float | None:
    """Return the seconds per image and network in the first mode for which memory is enough, or None: in none.

    Args:
        trial, phase, arms, workers, deadline: as of `_Steps`.
        modes: as of `probe`.
        readings: to which all that is read is added.
    """
    for checkpointing in modes:
        steps = _Steps(trial, phase, arms, workers, deadline, readings, checkpointing=checkpointing)
        try:
            return steps.per_image()
        except Exception as error:
            if not (arms.are_on_card and is_out_of_memory(error)):
                raise
            logger.debug("%s: %s", phase, error)
        arms.clear()  # not before the error has given up the tensors that it holds
        with suppress(Exception):  # it only tells what would fit
            steps.read_another()
    return None


class _Arms:
    """Networks with random weights; the last two are kept for further kinds of step.

    Args:
        device: where they are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.are_on_card = device.type == "cuda"
        self._built: dict[object, nn.Module] = {}

    def __call__(self, trial: Trial, arm: str) -> nn.Module:
        pretrain, data = trial.pretrain, trial.data
        laid_out = (pretrain.precision, trial.finetune.precision)  # it may change how their tensors lie in memory
        key = (arm, getattr(pretrain, arm), data.image_size_px, pretrain.embedding_dim, data.normalisation, *laid_out)
        if key not in self._built:
            for oldest in list(self._built)[: -len(ARMS) + 1]:
                del self._built[oldest]
            self._built[key] = build_blank_arm(trial, arm).to(self.device)
        return self._built[key]

    def nbytes(self, trial: Trial, arms: Iterable[str]) -> int:
        """Return how much memory networks take before they are trained."""
        models = [self(trial, arm) for arm in arms]
        tensors = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def clear_gradients(self) -> None:
        """Give the memory of all gradients back."""
        for model in self._built.values():
            model.zero_grad(set_to_none=True)

    def clear(self) -> None:
        """Give their memory back."""
        self._built.clear()
        gc.collect()
        if self.are_on_card:
            torch.cuda.empty_cache()


class _Steps:
    """Steps of one kind.

    Args:
        trial: of that kind.
        phase: ``pretrain``, or ``finetune_`` and the arm.
        arms: where the networks come from.
        workers: processes that load images.
        deadline: when to stop, by `time.monotonic`.
        readings: to which those of the GPU's memory are added.
        checkpointing: whether activations are computed again.
        compiled: whether the networks are compiled; a probe has no time for it, so its steps are a little too long.
    """

    def __init__(
        self,
        trial: Trial,
        phase: str,
        arms: _Arms,
        workers: int,
        deadline: float,
        readings: list[Reading],
        *,
        checkpointing: bool,
        compiled: bool = False,
    ) -> None:
        self._compiled = compiled
        self._readings = readings
        self._training_bytes = 0
        """Most memory of the last training, without the evaluation after it."""
        self._checkpointing = checkpointing
        self._trial = trial
        self._phase = phase
        self._section = "pretrain" if phase == "pretrain" else "finetune"
        self._arms = arms
        self._workers = workers
        self._deadline = deadline

    def per_image(self) -> float:
        """Return the seconds per image and network, by whole batches if there is time for them."""
        whole = batch_size(self._trial, self._phase)
        small = self._measure(SMALL_BATCH, 2)
        if time.monotonic() + 2 * small * whole > self._deadline:
            return small / len(self._names)
        return self._measure(whole, 1 + STEPS) / len(self._names)

    def ends(self, seconds: float) -> list[float]:
        """Return when steps of whole batches ended, by the machine's clock."""
        whole, ends = batch_size(self._trial, self._phase), list[float]()

        def after_step() -> None:
            self._wait()
            ends.append(time.time())
            if ends[-1] - ends[0] > seconds:
                raise _Enough

        self._train(whole, MOST_STEPS * whole, after_step)
        return ends

    def _wait(self) -> None:
        """Wait for what the GPU still has to do."""
        if self._arms.are_on_card:
            torch.cuda.synchronize(self._arms.device)

    def read_another(self) -> None:
        """Read the memory of a second small batch: a line through both tells what a larger one takes."""
        self._measure(2 * SMALL_BATCH, 2)

    @property
    def _names(self) -> Sequence[str]:
        """The networks that are trained."""
        return ARMS if self._phase == "pretrain" else (self._phase.removeprefix("finetune_"),)

    def _measure(self, batch_size: int, steps: int) -> float:
        """Return the seconds per image of a step; of the first one only if there is no time for more."""
        ends = [time.monotonic()]

        def after_step() -> None:
            self._wait()
            ends.append(time.monotonic())
            if len(ends) > steps or ends[-1] > self._deadline:
                raise _Enough

        with self._read(batch_size):
            self._train(batch_size, (steps + 1) * batch_size, after_step)
        each = [end - start for start, end in pairwise(ends)]
        return median(each[1:] or each) / batch_size

    @contextmanager
    def _read(self, batch_size: int) -> Iterator[None]:
        """Read the most memory that the block takes, without networks that are only kept for other kinds of step."""
        if not self._arms.are_on_card:
            yield
            return
        own = self._arms.nbytes(self._trial, self._names)
        self._arms.clear_gradients()
        torch.cuda.reset_peak_memory_stats()
        others = torch.cuda.memory_allocated() - own
        try:
            yield
        except Exception as error:
            if is_out_of_memory(error):
                self._note(batch_size, None)
            raise
        most = max(self._training_bytes, torch.cuda.max_memory_allocated())
        self._note(batch_size, (most - others) / 2**30)

    def _note(self, batch_size: int, gib: float | None) -> None:
        of = shape(to_json(self._trial), self._phase)
        reading = Reading(shape=of, batch_size=batch_size, checkpointing=self._checkpointing, gib=gib)
        self._readings.append(reading)

    def _train(self, batch_size: int, images: int, after_step: Callable[[], None]) -> None:
        """Train for an epoch, which `after_step` ends before."""
        changed = {f"{self._section}.batch_size": batch_size, f"{self._section}.compile": self._compiled}
        trial = with_fields(self._trial, changed)
        pixels = _random_pixels(trial.data.image_size_px)
        positions = tuple(number % IMAGES for number in range(images))
        pin_memory = self._arms.are_on_card
        views = method_class(trial.pretrain.method).views(trial) if self._phase == "pretrain" else views_of(trial.data)
        batches = Batches(pixels, seed=0, stream="probe", workers=self._workers, pin_memory=pin_memory, views=views)
        arms = nn.ModuleDict({arm: self._arms(trial, arm) for arm in self._names})
        how = {"after_step": after_step, "checkpointing": self._checkpointing}
        if self._phase == "pretrain":
            training = Pretraining(trial, arms, batches, positions, **how)
        else:
            parts = Parts(pretrain=(), labelled=positions, validation=(), test=())
            (arm,) = self._names
            training = Finetuning(trial, arm, arms[arm], pixels.listing, parts, batches, **how)
        with closing(batches), suppress(_Enough):
            next(training.run())
        if self._arms.are_on_card:
            self._training_bytes = torch.cuda.max_memory_allocated()
            images = trial.finetune.evaluation_batch_size if self._section == "finetune" else EVALUATION_BATCH
            with as_written(arms):
                _evaluate(arms, images, trial.data.image_size_px, self._arms.device)


@torch.inference_mode()
def _evaluate(arms: nn.ModuleDict, batch_size: int, size_px: int, device: torch.device) -> None:
    """Pass a batch of an evaluation through the networks: what it takes counts as well, in pieces that fit."""
    images = torch.zeros(batch_size, 3, size_px, size_px, device=device)
    for arm in arms.values():
        Pieces(torch.cuda.reset_peak_memory_stats)(arm.eval(), images)
        arm.train()


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
