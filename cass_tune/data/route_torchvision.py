"""Route torchvision-1: torchvision's operations on PIL images, with its default interpolations, as published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from cass_tune.data.augmentation import Flip, Jitter, Operation, Perspective, Rotation

F: Any = functional  # annotated for tensors alone, though it takes PIL images


def apply(image: np.ndarray, operations: Sequence[Operation]) -> np.ndarray:
    """Carry operations out.

    Args:
        image: uint8, shape (height, width, 3), or (height, width) for grey, which gives the same values.
        operations: in order.

    Returns:
        uint8, same shape.
    """
    if not operations:
        return image
    view = Image.fromarray(image)
    for operation in operations:
        view = _apply(view, operation)
    return np.asarray(view)


def _apply(image: Image.Image, operation: Operation) -> Image.Image:
    match operation:
        case Jitter(factors):
            for name, factor in factors:
                if not (name == "saturation" and image.mode == "L"):  # grey stays as it is
                    image = getattr(F, f"adjust_{name}")(image, factor)
            return image
        case Perspective(corners, moved):
            start, end = [list(corner) for corner in corners], [list(corner) for corner in moved]
            return F.perspective(image, start, end, InterpolationMode.BILINEAR, _black(image))
        case Rotation(degrees):
            return F.affine(image, degrees, [0, 0], 1.0, [0.0, 0.0], InterpolationMode.NEAREST, _black(image))
        case Flip(axis):
            return F.hflip(image) if axis else F.vflip(image)


def _black(image: Image.Image) -> list[float]:
    return [0.0] * len(image.getbands())
