"""The OpenCV route does what torchvision's does, to the same images, within what is written here."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, permutations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from cass_tune.data import route_opencv, route_torchvision
from cass_tune.data.augmentation import COLOURS, Flip, Jitter, Operation, Perspective, Rotation, augment, draw
from cass_tune.randomness import generator

SIZE = 96


def smooth(seed: int, channels: int) -> np.ndarray:
    """A picture as smooth as a photograph, with values from 0 to 255."""
    noise = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    blurred = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3)), np.float32)
    low, high = blurred.min(), blurred.max()
    image = ((blurred - low) / (high - low) * 255).astype(np.uint8)
    return image if channels == 3 else image[..., 0].copy()


def difference(image: np.ndarray, operation: Operation) -> np.ndarray:
    before = image.copy()
    ours, theirs = (route.apply(image, [operation]).astype(int) for route in (route_opencv, route_torchvision))
    assert ours.shape == image.shape and np.array_equal(image, before)
    return np.abs(ours - theirs)


def draws(kind: type[Operation], count: int) -> list[Operation]:
    found: list[Operation] = []
    item = 0
    while len(found) < count:
        found += [each for each in draw(generator(0, "x", 1, item), SIZE, SIZE) if isinstance(each, kind)]
        item += 1
    return found[:count]


@pytest.mark.parametrize("factor", [0.6, 0.8, 0.93, 1.07, 1.2, 1.4])
@pytest.mark.parametrize("name", COLOURS)
def test_colours(name: str, factor: float) -> None:
    found = difference(smooth(1, 3), Jitter(((name, factor),)))
    assert found.max() <= 1 and found.mean() < (0.2 if name == "saturation" else 0.02)
    if name != "saturation":
        assert difference(smooth(1, 1), Jitter(((name, factor),))).max() == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter(channels: int) -> None:
    """Changes of colour that are carried out together are not cut off to whole levels between them."""
    found = [difference(smooth(2, channels), each) for each in draws(Jitter, 60)]
    assert max(each.max() for each in found) <= (3 if channels == 3 else 0)
    assert np.mean(found) < 0.4


STRONG = (("brightness", 1.2), ("contrast", 0.8), ("saturation", 1.2))


@pytest.mark.parametrize("factors", list(permutations(STRONG)))
def test_levels_beyond_white_are_lost_before_the_next_change(factors: tuple[tuple[str, float], ...]) -> None:
    bright = (smooth(9, 3) // 4 + 192).astype(np.uint8)
    assert difference(bright, Jitter(factors)).max() <= 3


@pytest.mark.parametrize("channels", [1, 3])
def test_perspective(channels: int) -> None:
    found = [difference(smooth(3, channels), each) for each in draws(Perspective, 40)]
    assert np.mean(found) < 0.05 and np.mean([(each > 1).mean() for each in found]) < 0.001


@pytest.mark.parametrize("channels", [1, 3])
def test_rotation(channels: int) -> None:
    found = [difference(smooth(4, channels), each) for each in draws(Rotation, 40)]
    assert np.mean([(each > 0).mean() for each in found]) < 0.02, "few pixels have another nearest neighbour"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("axis", [0, 1])
def test_flips(axis: int, channels: int) -> None:
    assert difference(smooth(5, channels), Flip(axis)).max() == 0


def test_operations_are_the_same_draws_and_follow_one_another() -> None:
    image = smooth(6, 3)
    pairs = [
        [augment(image, generator(0, "x", 1, item), 1.0, pipeline).astype(int) for pipeline in PIPELINES]
        for item in range(200)
    ]
    untouched = [[np.array_equal(view, image) for view in pair] for pair in pairs]
    assert all(one == other for one, other in untouched) and 20 < sum(one for one, _ in untouched) < 100
    assert np.median([np.abs(one - other).mean() for one, other in pairs]) < 0.5
    shifted = [np.abs(one - other).mean() for (one, _), (_, other) in pairwise(pairs)]
    assert np.median(shifted) > 5, "views of other draws are far apart"


PIPELINES = ("torchvision-1", "opencv-1")


def moments(pipeline: str, of: Callable[[np.ndarray], float]) -> tuple[float, float]:
    image = smooth(7, 3)
    values = [of(augment(image, generator(0, "x", 1, item), 1.0, pipeline)) for item in range(400)]
    return float(np.mean(values)), float(np.std(values))


@pytest.mark.parametrize("of", [np.mean, np.std])
def test_views_are_distributed_alike(of: Callable[[np.ndarray], float]) -> None:
    (mean, std), (other_mean, other_std) = (moments(pipeline, of) for pipeline in PIPELINES)
    assert other_mean == pytest.approx(mean, abs=0.02 * std) and other_std == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize(
    "operation",
    [Rotation(7.0), Perspective(((0, 0), (95, 0), (95, 95), (0, 95)), ((3, 2), (90, 4), (94, 88), (1, 95)))],
)
def test_what_is_outside_is_black_and_all_else_is_kept_in_white(operation: Operation) -> None:
    """Whole pixels are moved as they are, whatever their bytes would be as a number."""
    white = np.full((SIZE, SIZE, 3), 255, np.uint8)
    ours, theirs = (route.apply(white, [operation]) for route in (route_opencv, route_torchvision))
    assert set(np.unique(ours)) == {0, 255} and (ours != theirs).mean() < 0.01


def test_a_view_is_kept_whatever_is_augmented_afterwards() -> None:
    """Memory for what comes between is used again, that of views is not."""
    images = [smooth(seed, channels) for seed in range(3) for channels in (1, 3)]
    images = [np.broadcast_to(each[..., None], (SIZE, SIZE, 3)) if each.ndim == 2 else each for each in images]
    keys = [(image, item) for item in range(60) for image in images]
    views = [augment(image, generator(0, "x", 1, item), 1.0, "opencv-1") for image, item in keys]
    copies = [augment(image, generator(0, "x", 1, item), 1.0, "opencv-1").copy() for image, item in reversed(keys)]
    assert all(np.array_equal(view, copy) for view, copy in zip(views, reversed(copies), strict=True))


def test_threads_do_not_write_into_each_others_views() -> None:
    image = smooth(10, 3)

    def views(_: int) -> list[np.ndarray]:
        return [augment(image, generator(0, "x", 1, item), 1.0, "opencv-1") for item in range(200)]

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(views, range(4))
    assert all(np.array_equal(*pair) for other in others for pair in zip(first, other, strict=True))


def test_a_grey_image_stays_one() -> None:
    plane = smooth(8, 1)
    grey = np.broadcast_to(plane[..., None], (SIZE, SIZE, 3))
    for item in range(50):
        found = augment(grey, generator(0, "x", 1, item), 1.0, "opencv-1")
        assert found.shape == (SIZE, SIZE, 3) and found.strides[-1] == 0
