"""The published training augmentation (cass_protocol: CASS.ipynb, version 5), drawn from a given generator.

Resize; with probability 0.3 colour jitter (brightness, contrast, saturation 0.2) and, half of the times, a perspective
of distortion 0.2; with probability 0.3 colour jitter and a rotation of up to 10 degrees; vertical and horizontal flips
with probability 0.3. What is done to an image is drawn here; a route (`ROUTES`) does it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator

APPLY_PROBABILITY = 0.3
JITTER = 0.2
DISTORTION = 0.2
PERSPECTIVE_PROBABILITY = 0.5  # torchvision's default inside RandomPerspective
DEGREES = 10.0

MOST_FLIPS = 0.5
"""Largest probability of a flip."""

COLOURS = ("brightness", "contrast", "saturation")

ROUTES = {"torchvision-1": "cass_tune.data.route_torchvision", "opencv-1": "cass_tune.data.route_opencv"}
"""The modules whose ``apply(image, operations)`` carries operations out, by the value of ``data.pipeline``."""
ON_DEVICE = "device-1"
"""The route that carries them out where the trial trains (`cass_tune.data.route_device`)."""


@dataclass(frozen=True)
class Jitter:
    """Changes of colour, one after the other.

    Args:
        factors: name (one of `COLOURS`) and factor, which is 1 for no change.
    """

    factors: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Perspective:
    """Brings the corners of an image to other places, in pixels (x, y), by bilinear interpolation; outside is black.

    Args:
        corners: of the image, clockwise from the upper left.
        moved: where they come to.
    """

    corners: tuple[tuple[int, int], ...]
    moved: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Rotation:
    """Turns an image clockwise about its middle, by nearest neighbours; outside is black.

    Args:
        degrees: how far.
    """

    degrees: float


@dataclass(frozen=True)
class Flip:
    """Turns an image over.

    Args:
        axis: 0 exchanges top and bottom, 1 left and right.
    """

    axis: int


Operation: TypeAlias = Jitter | Perspective | Rotation | Flip


@dataclass(frozen=True)
class Drawn:
    """An image, and what is yet to be done to it.

    Args:
        image: uint8, shape (height, width, 3).
        operations: in order.
    """

    image: np.ndarray
    operations: tuple[Operation, ...]


def augment(image: np.ndarray, rng: Generator, strength: float = 1.0, pipeline: str = "torchvision-1") -> np.ndarray:
    """Return one random view.

    Args:
        image: uint8, shape (height, width, 3); one whose channels are one and the same memory (last stride 0, see
            `cass_tune.data.pixels`) is grey, and takes a third of the time.
        rng: source of every draw.
        strength: factor of the ranges, and of the probability of the flips up to a half, from 0 (the image itself) to
            4; 1 is the published augmentation.
        pipeline: a key of `ROUTES`.

    Returns:
        uint8, same shape; grey as above where the image is.
    """
    if not strength:
        return image
    height, width, channels = image.shape
    operations = draw(rng, width, height, strength)
    apply = _route(pipeline)
    if image.strides[-1] == 0:
        return np.broadcast_to(apply(image[..., 0], operations)[..., None], (height, width, channels))
    return apply(image, operations)


@functools.cache
def _route(pipeline: str) -> Callable[[np.ndarray, Sequence[Operation]], np.ndarray]:
    return importlib.import_module(ROUTES[pipeline]).apply


def draw(rng: Generator, width: int, height: int, strength: float = 1.0) -> list[Operation]:
    """Draw what is done to one image.

    Args:
        rng: source of every draw.
        width: of the image, in pixels.
        height: of the image, in pixels.
        strength: see `augment`.
    """
    operations: list[Operation] = []
    flips = min(MOST_FLIPS, APPLY_PROBABILITY * strength)
    if rng.random() < APPLY_PROBABILITY:
        operations.append(_jitter(rng, strength))
        if rng.random() < PERSPECTIVE_PROBABILITY:
            operations.append(_perspective(rng, width, height, strength))
    if rng.random() < APPLY_PROBABILITY:
        operations.append(_jitter(rng, strength))
        operations.append(Rotation(rng.uniform(-DEGREES * strength, DEGREES * strength)))
    return operations + [Flip(axis) for axis in (0, 1) if rng.random() < flips]


def _jitter(rng: Generator, strength: float) -> Jitter:
    most = JITTER * strength
    return Jitter(tuple((COLOURS[number], rng.uniform(1 - most, 1 + most)) for number in rng.permutation(3)))


def _perspective(rng: Generator, width: int, height: int, strength: float) -> Perspective:
    """Move each corner inwards by up to DISTORTION times the strength times half of a side."""
    most = DISTORTION * strength
    across, down = int(most * (width // 2)) + 1, int(most * (height // 2)) + 1
    corners = ((0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1))
    moved = []
    for x, y in corners:
        dx, dy = int(rng.integers(0, across)), int(rng.integers(0, down))
        moved.append((x - dx if x else dx, y - dy if y else dy))
    return Perspective(corners, tuple(moved))
