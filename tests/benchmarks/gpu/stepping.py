"""Training steps on images that are there already, and how many images they pass in a second."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.flop_counter import FlopCounterMode

from cass_tune.config import ARMS, Trial
from cass_tune.data.loader import IMAGENET, Batch, normalise
from cass_tune.methods.cass import cass_loss
from cass_tune.training.determinism import prepare_torch
from cass_tune.training.precision import Precision
from cass_tune.training.pretrain import Pretraining

WARM_UP = 3
"""Steps before the clock starts."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One way to take a step.

    Args:
        name: in the table.
        precision: see `Precision`.
        channels_last: of the CNN.
        fused: whether the optimiser is one kernel.
        asynchronous: images come as uint8 from pinned memory and are normalised on the device, and the loss is not
            read in the step; otherwise they come as float32, and it is.
        compiled: whether the networks go through torch.compile.
    """

    name: str
    precision: str = "fp32"
    channels_last: bool = False
    fused: bool = False
    asynchronous: bool = False
    compiled: bool = False


def ladder(narrow: str) -> list[Rung]:
    """Return the way from the notebook's loop up, each rung with what those before it have.

    Args:
        narrow: ``bf16``, or ``fp16`` where a card has no other.
    """
    rungs = [Rung(name="notebook's loop, fp32")]
    for name, change in (
        ("tf32", {"precision": "tf32"}),
        (f"{narrow} autocast", {"precision": narrow}),
        ("channels last", {"channels_last": True}),
        ("fused optimiser", {"fused": True}),
        ("asynchronous", {"asynchronous": True}),
        ("torch.compile", {"compiled": True}),
    ):
        rungs.append(replace(rungs[-1], name=f"+ {name}", **change))
    return rungs


@dataclass(kw_only=True)
class Images:
    """One batch of random images, and its labels, on the host.

    Args:
        batch: images.
        size_px: height and width.
        device: where they will be copied to.
    """

    batch: int
    size_px: int
    device: torch.device

    def __post_init__(self) -> None:
        shape = (self.batch, 3, self.size_px, self.size_px)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        self.uint8 = images.pin_memory() if self.device.type == "cuda" else images
        self.float32 = normalise(images, torch.device("cpu"))
        self.labels = torch.zeros(self.batch, dtype=torch.int64)

    def there(self, rung: Rung) -> Tensor:
        """Return them on the device, as a rung brings them there."""
        return normalise(self.uint8, self.device, IMAGENET) if rung.asynchronous else self.float32.to(self.device)


def step_of(
    rung: Rung, arms: dict[str, nn.Module], images: Images, seen_loss: Callable[[float], object] | None = None
) -> Callable[[], None]:
    """Return what takes a step of copies of the networks: of both by CASS's loss, or of one alone.

    Args:
        rung: how.
        arms: one or both.
        images: of every step.
        seen_loss: is told the loss of every step, which then waits for it.
    """
    models = {arm: copy.deepcopy(model).train() for arm, model in arms.items()}
    if rung.channels_last and "cnn" in models:
        models["cnn"].to(memory_format=torch.channels_last)
    optimisers = [Adam(model.parameters(), lr=1e-4, fused=rung.fused or None) for model in models.values()]
    called: dict[str, Any] = {arm: torch.compile(model) if rung.compiled else model for arm, model in models.items()}
    precision = Precision(name=rung.precision, device=images.device)
    scaler = precision.scaler()

    def step() -> None:
        with precision.kernels():
            seen = images.there(rung)
            with precision.forward():
                outputs = [model(seen) for model in called.values()]
            loss = cass_loss(*outputs) if len(outputs) > 1 else outputs[0].float().square().mean()
            for optimiser in optimisers:
                optimiser.zero_grad()
            scaler.scale(loss).backward()
            for optimiser in optimisers:
                scaler.step(optimiser)
            scaler.update()
            if not rung.asynchronous:
                loss.item()
            if seen_loss:
                seen_loss(loss.item())

    return step


class Ready:
    """A loader whose batches are there already; they never end.

    Args:
        images: of every batch.
    """

    classes = ("a", "b")

    def __init__(self, images: Images) -> None:
        positions = torch.arange(images.batch)
        self._batch = Batch(views=(images.uint8,), labels=images.labels, positions=positions)

    def training(self, *_: object, **__: object) -> Iterator[Batch]:
        """Yield the one batch for ever."""
        while True:
            yield self._batch


class _Enough(Exception):
    """Ends a training."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How fast steps were.

    Args:
        images_per_second: that passed through all networks.
        steps: on the clock.
        memory_gib: most memory allocated on the GPU; None on the CPU.
        first_s: seconds of the first step, in which kernels are compiled or chosen.
    """

    images_per_second: float
    steps: int
    memory_gib: float | None
    first_s: float


class Clock:
    """Counts steps, from the one after the warm-up on, until the time is over.

    Args:
        batch: images of a step.
        seconds: to be measured.
        device: waited for at both ends.
    """

    def __init__(self, batch: int, seconds: float, device: torch.device) -> None:
        self._batch, self._seconds, self._device = batch, seconds, device
        self._steps = -WARM_UP
        self._started = time.perf_counter()
        self._first_s = 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def wait(self) -> None:
        """Wait for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def is_over(self) -> bool:
        """Count a step; return whether it was the last."""
        self._steps += 1
        if self._steps == 1 - WARM_UP:
            self.wait()
            self._first_s = time.perf_counter() - self._started
        if self._steps == 0:
            self.wait()
            self._started = time.perf_counter()
        return self._steps > 0 and time.perf_counter() - self._started > self._seconds

    def measured(self) -> Measured:
        """Return what was counted."""
        self.wait()
        elapsed = time.perf_counter() - self._started
        memory = torch.cuda.max_memory_allocated(self._device) / 2**30 if self._device.type == "cuda" else None
        return Measured(
            images_per_second=self._steps * self._batch / elapsed,
            steps=self._steps,
            memory_gib=memory,
            first_s=self._first_s,
        )


def measure(step: Callable[[], None], images: Images, seconds: float) -> Measured:
    """Return how fast a step is."""
    clock = Clock(images.batch, seconds, images.device)
    while True:
        step()
        if clock.is_over():
            return clock.measured()


def measure_training(
    trial: Trial, arms: dict[str, nn.Module], batches: Any, images: Images, seconds: float
) -> Measured:
    """Return how fast this package's own pretraining is.

    Args:
        trial: described.
        arms: copied.
        batches: a loader, or `Ready`.
        images: tell batch and device.
        seconds: to be measured.
    """
    clock = Clock(images.batch, seconds, images.device)

    def after_step() -> None:
        if clock.is_over():
            raise _Enough

    copies = nn.ModuleDict({arm: copy.deepcopy(arms[arm]) for arm in ARMS})
    positions: Sequence[int] = tuple(number % 32 for number in range(10**6))
    training = Pretraining(trial, copies, batches, positions, after_step=after_step)
    try:
        next(training.run())
    except _Enough:
        return clock.measured()
    raise AssertionError("the epoch ended")


@contextmanager
def as_torch_is(threads: int) -> Iterator[None]:
    """Let torch choose kernels as it does by itself, deterministic or not, in the block."""
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    for enable in ("flash", "cudnn", "mem_efficient", "math"):
        getattr(torch.backends.cuda, f"enable_{enable}_sdp")(True)
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield


@contextmanager
def as_trials_do(device: torch.device, threads: int) -> Iterator[None]:
    """Choose kernels as a trial does, in the block."""
    prepare_torch(device, threads)
    yield
    torch.use_deterministic_algorithms(False)


def operations_per_image(arms: dict[str, nn.Module], size_px: int) -> float:
    """Return the floating-point operations of an image forward and backward through all networks, multiply-adds as two.

    Args:
        arms: networks.
        size_px: height and width.
    """
    device = next(next(iter(arms.values())).parameters()).device
    with FlopCounterMode(display=False) as counted:
        for model in arms.values():
            model(torch.zeros(2, 3, size_px, size_px, device=device)).sum().backward()
            model.zero_grad()
    return counted.get_total_flops() / 2


def matrix_peak(precision: str, device: torch.device, size: int, seconds: float) -> float:
    """Return the operations per second of a product of square matrices, the fastest of three measurements.

    Args:
        precision: as of a rung.
        device: where.
        size: rows and columns.
        seconds: of each.
    """
    chosen = Precision(name=precision, device=device)
    a, b = torch.randn(2, size, size, device=device)
    best = 0.0
    with chosen.kernels(), chosen.forward(), torch.no_grad():
        for _ in range(3):
            narrow = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32
            left, right = a.to(narrow), b.to(narrow)
            clock = Clock(1, seconds, device)
            while True:
                torch.mm(left, right)
                if clock.is_over():
                    break
            best = max(best, clock.measured().images_per_second * 2 * size**3)
    return best
