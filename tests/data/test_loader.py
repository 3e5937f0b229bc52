"""Order and augmentation depend on (seed, stream, epoch, image) and on nothing else; evaluation is plain."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cass_tune.config import Data
from cass_tune.data.augmentation import ROUTES, augment
from cass_tune.data.loader import (
    IMAGENET,
    Batch,
    Batches,
    Normalisation,
    batch_bounds,
    normalise,
    normalise_by_arm,
    views_of,
)
from cass_tune.data.pixels import Pixels, as_rgb, load_pixels
from cass_tune.randomness import generator
from tests import tiny

LISTING = tiny.listing({"train": {"dog": 12, "cat": 8}, "test": {"dog": 40, "cat": 27}})
PIXELS = tiny.pixels(LISTING)
TRAIN, TEST = LISTING.of_split("train"), LISTING.of_split("test")


def batches(
    stream: str = "pretrain", seed: int = 0, workers: int = 0, source: Pixels = PIXELS, pipeline: Any = "torchvision-1"
) -> Batches:
    return Batches(source, seed=seed, stream=stream, workers=workers, views=views_of(Data(pipeline=pipeline)))


def train(source: Batches, epoch: int = 1, size: int = 8) -> list[Batch]:
    return list(source.training(TRAIN, size, epoch, drop_last=False))


def views(found: Iterable[Batch]) -> dict[int, Tensor]:
    return {int(p): image for batch in found for p, image in zip(batch.positions, batch.images, strict=True)}


def order(found: Iterable[Batch]) -> list[int]:
    return [position for batch in found for position in batch.positions.tolist()]


def equal(one: list[Batch], other: list[Batch]) -> bool:
    pairs = [(getattr(a, n), getattr(b, n)) for a, b in zip(one, other, strict=True) for n in ("images", "positions")]
    return all(torch.equal(a, b) for a, b in pairs)


def test_an_epoch_is_every_image_once_in_random_order() -> None:
    seen = order(train(batches()))
    assert sorted(seen) == list(TRAIN) and seen != list(TRAIN)


def test_an_image_is_augmented_by_its_own_draws() -> None:
    for position, image in views(train(batches("finetune/cnn", seed=3), epoch=2)).items():
        expected = augment(PIXELS[position], generator(3, "finetune/cnn/augmentation", 2, position))
        assert np.array_equal(image.numpy().transpose(1, 2, 0), expected)


@pytest.mark.parametrize("pipeline", ROUTES)
def test_same_for_any_number_of_workers(pipeline: str) -> None:
    """The images come from the cache, which every process maps."""
    source = load_pixels(LISTING, tiny.SIZE_PX)
    alone, helped = (batches(workers=workers, source=source, pipeline=pipeline) for workers in (0, 2))
    for epoch in (1, 2):
        assert equal(train(alone, epoch), train(helped, epoch))
    assert equal(list(alone.evaluation(TEST)), list(helped.evaluation(TEST)))
    assert equal(train(alone, 3), train(helped, 3))


def test_closing_ends_the_loader_processes_and_loading_starts_new_ones() -> None:
    source = batches(workers=2)
    first = train(source, 1)
    before = {process.pid for process in multiprocessing.active_children()}
    source.close()
    left = {process.pid for process in multiprocessing.active_children()}
    assert len(before - left) == 2
    assert equal(train(source, 1), first)
    assert len({process.pid for process in multiprocessing.active_children()} - left) == 2
    source.close()
    source.close()
    batches().close()


def test_view_and_order_do_not_depend_on_the_batch_size() -> None:
    small, large = train(batches(), size=3), train(batches(), size=20)
    assert order(small) == order(large)
    first, second = views(small), views(large)
    assert all(torch.equal(first[p], second[p]) for p in TRAIN)


def test_nor_on_what_was_loaded_before() -> None:
    source = batches()
    train(source, 1)
    list(source.evaluation(TEST))
    torch.manual_seed(5)
    np.random.seed(5)
    assert equal(train(source, 2), train(batches(), 2))


def test_loading_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(batches())
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": "finetune/vit"}])
def test_another_seed_or_stream_is_another_epoch(other: dict[str, int]) -> None:
    first, second = train(batches()), train(batches(**other))  # type: ignore[arg-type]
    assert order(first) != order(second)
    one, two = views(first), views(second)
    assert any(not torch.equal(one[p], two[p]) for p in TRAIN)


def test_another_epoch_is_another_order_and_other_views() -> None:
    first, second = train(batches(), 1), train(batches(), 2)
    assert order(first) != order(second)
    one, two = views(first), views(second)
    assert any(not torch.equal(one[p], two[p]) for p in TRAIN)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_every_image_once_in_order_as_it_is(workers: int) -> None:
    """Deterministic (D10) and complete (D18): 67 images in batches of 64 and 3."""
    source = batches(workers=workers)
    found = list(source.evaluation(TEST))
    assert [len(batch.images) for batch in found] == [64, 3]
    assert order(found) == list(TEST)
    for position, image in views(found).items():
        assert np.array_equal(image.numpy().transpose(1, 2, 0), PIXELS[position])
    assert equal(found, list(source.evaluation(TEST)))
    assert [len(batch.images) for batch in source.evaluation(TEST, 30)] == [30, 30, 7]


def test_labels_are_places_in_the_sorted_class_names() -> None:
    """A reproduction's labels were all 1 (D9); another kept the weights of another order (D15)."""
    assert LISTING.classes == ("cat", "dog")
    for batch in train(batches()):
        names = [LISTING.items[p].label for p in batch.positions.tolist()]
        assert batch.labels.tolist() == [0 if name == "cat" else 1 for name in names]
        assert batch.labels.dtype == torch.int64 and batch.images.dtype == torch.uint8
    assert {int(label) for batch in train(batches()) for label in batch.labels} == {0, 1}


@pytest.mark.parametrize(
    ("count", "size", "drop_last", "sizes"),
    [
        (20, 8, True, [8, 8]),
        (16, 8, True, [8, 8]),
        (17, 8, True, [8, 8]),
        (8, 8, True, [8]),
        (20, 8, False, [8, 8, 4]),
        (17, 8, False, [8, 9]),
        (16, 8, False, [8, 8]),
        (5, 8, False, [5]),
        (1, 8, False, [1]),
        (9, 8, False, [9]),
        (3, 2, False, [3]),
    ],
)
def test_batch_bounds(count: int, size: int, drop_last: bool, sizes: list[int]) -> None:
    bounds = batch_bounds(count, size, drop_last=drop_last)
    assert [end - start for start, end in bounds] == sizes
    assert bounds[0][0] == 0 and all(a[1] == b[0] for a, b in pairwise(bounds))


@pytest.mark.parametrize("greys", [0, 1, 2])
def test_memory_of_a_batch_is_that_of_its_images_but_normalised_by_channel(greys: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    of_batch = [as_rgb(image[..., 0]) if number < greys else image for number, image in enumerate(images)]
    (batch,) = batches(source=Pixels(LISTING, 8, of_batch)).evaluation([0, 1])
    assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), np.stack(of_batch))
    assert batch.images.is_contiguous(memory_format=torch.channels_last) == (greys < 2)
    cpu = torch.device("cpu")
    by_arm = normalise_by_arm(batch.images, cpu, {"cnn": IMAGENET})["cnn"]
    assert all(there.is_contiguous() for there in (normalise(batch.images, cpu), by_arm))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalising_a_large_batch_gives_what_each_image_gives(memory_format: torch.memory_format) -> None:
    drawn = torch.randint(0, 256, (5, 3, 300, 200), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    expected = drawn.float().div(255).sub(mean).div(std)
    assert torch.equal(normalise(drawn.to(memory_format=memory_format), torch.device("cpu")), expected)


def test_normalise() -> None:
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    found = normalise(images, torch.device("cpu")).flatten().tolist()
    assert found == pytest.approx([-0.485 / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225], abs=1e-6)
    assert images.flatten().tolist() == [0, 255, 51]


HALF = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 1.0))


def test_normalise_with_other_constants() -> None:
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    assert normalise(images, torch.device("cpu"), HALF).flatten().tolist() == pytest.approx([-1, 2, -0.3], abs=1e-6)


def test_arms_with_equal_constants_share_one_tensor() -> None:
    images = torch.arange(0, 240, 5, dtype=torch.uint8).view(1, 3, 4, 4)
    cpu = torch.device("cpu")
    same = normalise_by_arm(images, cpu, {"cnn": IMAGENET, "vit": Normalisation(**vars(IMAGENET))})
    assert same["cnn"] is same["vit"] and torch.equal(same["cnn"], normalise(images, cpu))
    own = normalise_by_arm(images, cpu, {"cnn": IMAGENET, "vit": HALF})
    assert torch.equal(own["cnn"], normalise(images, cpu)) and torch.equal(own["vit"], normalise(images, cpu, HALF))
    assert images.flatten().tolist() == list(range(0, 240, 5)), "the images themselves stay"
