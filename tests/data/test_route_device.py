"""The route on the device does what torchvision's does, for whole batches of images with operations of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cass_tune.config import Data
from cass_tune.data import route_device, route_torchvision
from cass_tune.data.augmentation import COLOURS, Drawn, Flip, Jitter, Operation, Perspective, Rotation, draw
from cass_tune.data.loader import Batches, views_of
from cass_tune.randomness import generator
from tests import tiny
from tests.data.test_route_opencv import SIZE, draws, smooth


def batch(images: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack([image.transpose(2, 0, 1) for image in images]))


def on_device(images: Sequence[np.ndarray], operations: Sequence[Sequence[Operation]]) -> np.ndarray:
    given = batch(images)
    before = given.clone()
    found = route_device.apply(given, operations)
    assert found.dtype == torch.uint8 and found.shape == given.shape and torch.equal(given, before)
    return found.numpy().transpose(0, 2, 3, 1)


def differences(kind: type[Operation], operations: Sequence[Operation]) -> np.ndarray:
    images = [smooth(seed, 3) for seed in range(len(operations))]
    theirs = np.stack([route_torchvision.apply(image, [op]) for image, op in zip(images, operations, strict=True)])
    return np.abs(on_device(images, [[operation] for operation in operations]).astype(int) - theirs)


@pytest.mark.parametrize("name", COLOURS)
def test_colours(name: str) -> None:
    found = differences(Jitter, [Jitter(((name, factor),)) for factor in (0.6, 0.8, 0.93, 1.07, 1.2, 1.4)])
    assert found.max() <= (1 if name == "saturation" else 0) and found.mean() < 0.001


def test_jitter() -> None:
    """A contrast's mean grey, a whole number, may be another one after the saturation: one level more or less."""
    found = differences(Jitter, draws(Jitter, 40))
    assert found.max() <= 3 and found.mean() < 0.02


@pytest.mark.parametrize("kind", [Perspective, Rotation])
def test_places(kind: type[Operation]) -> None:
    """A pixel at the border, or between two others, may fall to the other side."""
    found = differences(kind, draws(kind, 30))
    assert (found > 0).mean() < 0.003 and found.mean() < 0.05


def test_flips() -> None:
    assert differences(Flip, [Flip(0), Flip(1)]).max() == 0


def test_a_batch_is_its_images_one_by_one() -> None:
    images = [smooth(seed, 3) for seed in range(24)]
    operations = [draw(generator(0, "x", 1, item), SIZE, SIZE) for item in range(len(images))]
    assert {len(each) for each in operations} >= {0, 1, 2, 3}
    together = on_device(images, operations)
    for image, each, found in zip(images, operations, together, strict=True):
        assert np.array_equal(found, on_device([image], [each])[0])
        assert np.abs(found.astype(int) - route_torchvision.apply(image, each)).mean() < 0.3


class Copies(TorchFunctionMode):
    """Notes what is copied from the processor to the device ``meta``, and whether without waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        found = func(*args, **given)
        is_there = isinstance(args[0], Tensor) and args[0].is_meta if args else False
        if func in (torch.tensor, Tensor.to) and found.is_meta and not is_there:
            self.seen.append((func.__name__, given.get("non_blocking", False)))
        return found


def test_draws_reach_the_device_by_one_copy_for_which_nothing_waits() -> None:
    operations = [draw(generator(0, "x", 1, item), SIZE, SIZE) for item in range(24)]
    assert {type(each) for drawn in operations for each in drawn} == {Jitter, Perspective, Rotation, Flip}
    images = torch.empty((24, 3, SIZE, SIZE), dtype=torch.uint8, device="meta")
    route_device.apply(images, operations)  # constants are copied once
    with Copies() as copies:
        route_device.apply(images, operations)
    assert copies.seen == [("to", True)]


def test_the_loader_sends_the_draws_along() -> None:
    listing = tiny.listing({"train": {"dog": 12, "cat": 8}})
    source = tiny.pixels(listing)
    train = listing.of_split("train")
    found = {}
    for workers in (0, 2):
        loader = Batches(source, seed=3, stream="x", workers=workers, views=views_of(Data(pipeline="device-1")))
        found[workers] = list(loader.training(train, 8, 2, drop_last=False))
        assert not next(loader.evaluation(train)).operations
    for alone, helped in zip(found[0], found[2], strict=True):
        assert alone.operations == helped.operations and torch.equal(alone.images, helped.images)
        (views,) = alone.on(torch.device("cpu"))
        for position, raw, view in zip(alone.positions.tolist(), alone.images, views, strict=True):
            drawn = draw(generator(3, "x/augmentation", 2, position), tiny.SIZE_PX, tiny.SIZE_PX)
            assert np.array_equal(raw.numpy().transpose(1, 2, 0), source[position])
            assert torch.equal(view, route_device.apply(raw[None], [drawn])[0])


def test_no_strength_is_the_image_itself() -> None:
    views = views_of(Data(pipeline="device-1", augmentation_strength=0.0))
    (view,) = views(smooth(1, 3), generator(0, "x", 1, 1))
    assert isinstance(view, Drawn) and view.operations == ()
