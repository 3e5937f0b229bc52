"""Batches of an epoch: order and augmentation are functions of (seed, stream, epoch, image)."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cass_tune.config import EVALUATION_BATCH, Data
from cass_tune.data.augmentation import ON_DEVICE, Drawn, Operation, augment, draw
from cass_tune.data.pixels import Pixels
from cass_tune.data.task import encode
from cass_tune.randomness import generator

Views: TypeAlias = Callable[[np.ndarray, np.random.Generator], Sequence[np.ndarray | Drawn]]
"""Returns the views of an image (uint8, shape (height, width, 3)), each of the same type, or each with what is to be
done to it on the trial's device; takes every random draw from the generator. It is sent to the processes that load
images."""


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Constants that are subtracted from images between 0 and 1, and by which they are divided.

    Args:
        mean: by channel.
        std: by channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


_CACHED_NUMBERS = 2**19
"""As many, of 4 bytes, are still in a processor's cache when they are needed again."""

IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some images; a `DataLoader` pins it by `pin_memory`.

    Args:
        views: one or more views of every image, each uint8, shape (batch, 3, height, width).
        operations: by view and image, what is yet to be done (`on`); empty for nothing.
        labels: int64, shape (batch,): positions in the listing's classes; in a multi-label set shape (batch, classes),
            1 for every label that an image has.
        positions: int64, shape (batch,): positions in the listing's items.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    positions: Tensor
    operations: tuple[tuple[tuple[Operation, ...], ...], ...] = ()

    @property
    def images(self) -> Tensor:
        """The first view."""
        return self.views[0]

    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return the views on a device, augmented there where that is to be done."""
        views = tuple(view.to(device, non_blocking=True) for view in self.views)
        if not self.operations:
            return views
        from cass_tune.data.route_device import apply

        return tuple(apply(view, operations) for view, operations in zip(views, self.operations, strict=True))

    def pin_memory(self) -> Batch:
        """Return the batch in memory from which it can be copied to a GPU while this process goes on."""
        return replace(
            self,
            views=tuple(view.pin_memory() for view in self.views),
            labels=self.labels.pin_memory(),
            positions=self.positions.pin_memory(),
        )


def normalise(images: Tensor, device: torch.device, constants: Normalisation = IMAGENET) -> Tensor:
    """Bring uint8 images to a device as float32, normalised; contiguous, however theirs are ordered in memory.

    Args:
        images: uint8, shape (batch, 3, height, width).
        device: where to.
        constants: ImageNet's unless given.
    """
    mean, std = _on_device(constants, device)
    there = images.to(device, non_blocking=True)
    normalised = torch.empty(there.shape, dtype=torch.float32, device=device)
    at_once = len(there) if device.type == "cuda" else max(1, _CACHED_NUMBERS // there[0].numel())
    for raw, own in zip(there.split(at_once), normalised.split(at_once), strict=True):
        torch.div(raw, 255, out=own).sub_(mean).div_(std)
    return normalised


@functools.cache
def _on_device(constants: Normalisation, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and std, shape (3, 1, 1), copied once: every such copy waits for the device."""
    with torch.inference_mode(False):  # for training, too, when an evaluation asks first
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (constants.mean, constants.std))
    return mean, std


def normalise_by_arm(images: Tensor, device: torch.device, constants: Mapping[str, Normalisation]) -> dict[str, Tensor]:
    """Return the images as each arm takes them, see `normalise`; arms with equal constants share one tensor.

    Args:
        images: uint8, shape (batch, 3, height, width).
        device: where to.
        constants: by arm.
    """
    there = images.to(device, non_blocking=True)
    normalised = {each: normalise(there, device, each) for each in dict.fromkeys(constants.values())}
    return {arm: normalised[each] for arm, each in constants.items()}


def one_view(
    image: np.ndarray, rng: np.random.Generator, strength: float = 1.0, pipeline: str = "torchvision-1"
) -> Sequence[np.ndarray]:
    """Return one view of an image by the published augmentation, see `augment`."""
    return [augment(image, rng, strength, pipeline)]


def drawn_view(image: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> Sequence[Drawn]:
    """Return an image with what the published augmentation does to it, see `augment`."""
    height, width, _ = image.shape
    return [Drawn(image, tuple(draw(rng, width, height, strength)) if strength else ())]


def views_of(data: Data) -> Views:
    """Return what makes one view of an image by a trial's augmentation."""
    if data.pipeline == ON_DEVICE:
        return partial(drawn_view, strength=data.augmentation_strength)
    return partial(one_view, strength=data.augmentation_strength, pipeline=data.pipeline)


class _Images(Dataset[Batch]):
    """Batches of views of images keyed by (epoch, position) each; epoch -1 means: without augmentation."""

    def __init__(self, pixels: Pixels, seed: int, stream: str, views: Views) -> None:
        self._pixels = pixels
        self._views = views
        self._seed = seed
        self._stream = stream
        classes = pixels.listing.classes
        self._labels = [encode(item.label, classes) for item in pixels.listing.items]

    def __getitem__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        images = [self._pixels[position] for _, position in keys]
        are_grey = all(image.strides[-1] == 0 for image in images)
        views: list[Tensor] = []
        operations: list[list[tuple[Operation, ...]]] = []
        for number, (key, image) in enumerate(zip(keys, images, strict=True)):
            seen = self._seen(image, *key)
            pixels = [each.image if isinstance(each, Drawn) else each for each in seen]
            views = views or [_room(len(keys), each, are_grey) for each in pixels]
            for view, each in zip(views, pixels, strict=True):
                view.numpy()[number] = each  # at once, so that its memory is free for the next one
            operations.append([getattr(each, "operations", ()) for each in seen])
        is_drawn = any(map(any, operations))
        return Batch(
            views=tuple(view.permute(0, 3, 1, 2) for view in views),
            labels=torch.tensor([self._labels[position] for _, position in keys]),
            positions=torch.tensor([position for _, position in keys]),
            operations=tuple(zip(*operations, strict=True)) if is_drawn else (),
        )

    def _seen(self, image: np.ndarray, epoch: int, position: int) -> Sequence[np.ndarray | Drawn]:
        if epoch < 0:
            return [image]
        return self._views(image, generator(self._seed, f"{self._stream}/augmentation", epoch, position))


def _room(count: int, image: np.ndarray, are_grey: bool) -> Tensor:
    """Return room for images like one of shape (height, width, 3).

    Its memory is ordered as theirs is (`torch.channels_last`), or by channel where all of them are grey: what is one
    piece of memory is copied several times faster.
    """
    height, width, channels = image.shape
    if are_grey and image.strides[-1] == 0:
        return torch.from_numpy(np.empty((count, channels, height, width), np.uint8)).permute(0, 2, 3, 1)
    return torch.from_numpy(np.empty((count, height, width, channels), np.uint8))


def _leave_signals_to_the_trial(number: int) -> None:
    """Let a loader process outlive a signal to the whole process group, until the trial has saved its state."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)


def _as_it_is(batch: Batch) -> Batch:
    return batch


class _Order:
    """A sampler of whole batches, which are set anew for each epoch, so that worker processes are started once."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Batches:
    """Loads batches of one data set for one stream of randomness.

    Args:
        pixels: the resized images.
        seed: the trial's seed.
        stream: names the draws, for example ``"pretrain"`` or ``"finetune/cnn"``.
        workers: loader processes; 0 loads in this process. The numbers are the same for any. `close` ends them.
        pin_memory: prepare batches for the copy to a GPU.
        views: makes the views of a training image.
    """

    def __init__(
        self,
        pixels: Pixels,
        *,
        seed: int,
        stream: str,
        workers: int = 0,
        pin_memory: bool = False,
        views: Views = one_view,
    ) -> None:
        self.classes = pixels.listing.classes
        self._seed = seed
        self._stream = stream
        self._order = _Order()
        self._loader = DataLoader(
            _Images(pixels, seed, stream, views),
            batch_size=None,  # the data set makes the batches
            sampler=self._order,  # type: ignore[arg-type]
            num_workers=workers,
            worker_init_fn=_leave_signals_to_the_trial,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            generator=torch.Generator(),  # keeps torch's global generator untouched
        )

    def training(
        self, positions: Sequence[int], batch_size: int, epoch: int, *, drop_last: bool, start: int = 0
    ) -> Iterator[Batch]:
        """Yield augmented batches of one epoch in random order; see `batch_bounds` for the last one.

        Args:
            positions: images of the epoch.
            batch_size: images per batch.
            epoch: at least 1.
            drop_last: see `batch_bounds`.
            start: batches to leave out, because they were trained on before an interruption.
        """
        order = generator(self._seed, f"{self._stream}/order", epoch).permutation(len(positions))
        shuffled = [(epoch, positions[i]) for i in order]
        bounds = batch_bounds(len(positions), batch_size, drop_last=drop_last)
        return self._load([shuffled[first:end] for first, end in bounds[start:]])

    def evaluation(self, positions: Sequence[int], batch_size: int = EVALUATION_BATCH) -> Iterator[Batch]:
        """Yield all images once, in order, without augmentation.

        Args:
            positions: the images.
            batch_size: images per batch; the last one may have fewer.
        """
        keys = [(-1, position) for position in positions]
        return self._load([keys[i : i + batch_size] for i in range(0, len(keys), batch_size)])

    def _load(self, batches: list[list[tuple[int, int]]]) -> Iterator[Batch]:
        self._order.batches = batches
        yield from self._loader

    def close(self) -> None:
        """End the loader processes.

        Python does not: when it collects what an error has kept, their queues go before they are told to end; and a
        request to terminate they leave to the trial.
        """
        iterator: Any = self._loader._iterator  # no public call ends them (torch 2.15)
        self._loader._iterator = None
        if iterator is not None:
            iterator._shutdown_workers()
            for process in iterator._workers:
                process.kill()  # one that did not end by itself, in some seconds


def batch_bounds(count: int, batch_size: int, *, drop_last: bool) -> list[tuple[int, int]]:
    """Return start and end of each batch.

    Args:
        count: images.
        batch_size: images per batch, at most ``count`` are used.
        drop_last: leave a partial last batch out (pretraining); otherwise keep it, merged into the one before when it
            holds a single image, which batch normalisation cannot use (finetuning).
    """
    size = min(batch_size, count)
    bounds = [(start, min(start + size, count)) for start in range(0, count, size)]
    if bounds[-1][1] - bounds[-1][0] < size and drop_last:
        return bounds[:-1]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        return [*bounds[:-2], (bounds[-2][0], count)]
    return bounds
