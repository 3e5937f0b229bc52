"""The published training augmentation (cass_protocol: CASS.ipynb, version 5), drawn from a given generator.

Resize; with probability 0.3 colour jitter (brightness, contrast, saturation 0.2) and, half of the times, a perspective
of distortion 0.2; with probability 0.3 colour jitter and a rotation of up to 10 degrees; vertical and horizontal flips
with probability 0.3. The operations are torchvision's on PIL images, with torchvision's default interpolations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

if TYPE_CHECKING:
    from numpy.random import Generator

F: Any = functional  # annotated for tensors alone, though it takes PIL images

APPLY_PROBABILITY = 0.3
JITTER = 0.2
DISTORTION = 0.2
PERSPECTIVE_PROBABILITY = 0.5  # torchvision's default inside RandomPerspective
DEGREES = 10.0


MOST_FLIPS = 0.5
"""Largest probability of a flip."""


def augment(image: np.ndarray, rng: Generator, strength: float = 1.0) -> np.ndarray:
    """Return one random view.

    Args:
        image: uint8, shape (height, width, 3).
        rng: source of every draw.
        strength: factor of the ranges, and of the probability of the flips up to a half, from 0 (the image itself) to
            4; 1 is the published augmentation.

    Returns:
        uint8, same shape.
    """
    if not strength:
        return image
    view, flips = Image.fromarray(image), min(MOST_FLIPS, APPLY_PROBABILITY * strength)
    if rng.random() < APPLY_PROBABILITY:
        view = _jitter(view, rng, strength)
        if rng.random() < PERSPECTIVE_PROBABILITY:
            view = _perspective(view, rng, strength)
    if rng.random() < APPLY_PROBABILITY:
        view = _jitter(view, rng, strength)
        degrees = rng.uniform(-DEGREES * strength, DEGREES * strength)
        view = F.affine(view, degrees, [0, 0], 1.0, [0.0, 0.0], InterpolationMode.NEAREST, [0.0])
    if rng.random() < flips:
        view = F.vflip(view)
    if rng.random() < flips:
        view = F.hflip(view)
    return np.asarray(view)


def _jitter(image: Image.Image, rng: Generator, strength: float) -> Image.Image:
    operations, most = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation), JITTER * strength
    for number in rng.permutation(3):
        image = operations[number](image, rng.uniform(1 - most, 1 + most))
    return image


def _perspective(image: Image.Image, rng: Generator, strength: float) -> Image.Image:
    """Move each corner inwards by up to DISTORTION times the strength times half of a side."""
    width, height = image.size
    most = DISTORTION * strength
    across, down = int(most * (width // 2)) + 1, int(most * (height // 2)) + 1
    corners = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
    moved = []
    for x, y in corners:
        dx, dy = int(rng.integers(0, across)), int(rng.integers(0, down))
        moved.append([x - dx if x else dx, y - dy if y else dy])
    return F.perspective(image, corners, moved, InterpolationMode.BILINEAR, [0.0])
