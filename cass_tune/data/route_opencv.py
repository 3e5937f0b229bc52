"""Route opencv-1: OpenCV's operations, several times faster than torchvision's and nearly the same pixels.

Brightness and contrast are tables of 256 values, rounded as PIL rounds, which makes them equal to torchvision's on
grey images. Interpolation differs: OpenCV's places have steps of 1/32 of a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cass_tune.data.augmentation import Flip, Jitter, Operation, Perspective, Rotation
from cass_tune.data.opencv import cv2

LEVELS = np.arange(256, dtype=np.float32)
GREY = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue (ITU-R BT.601, as PIL's)."""
CUT_OFF = 0.499
"""Taken away before OpenCV rounds, so that it cuts off to whole levels as PIL does."""
MEAN_CUT_OFF = 0.5
"""What a level loses on average when PIL cuts it off."""
PIXEL = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
"""From places where whole numbers are the middles of pixels (OpenCV) to those where they are edges (PIL)."""
MARGIN = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1]])
"""From places in an image to those in the same image with one pixel more on each side."""


def apply(image: np.ndarray, operations: Sequence[Operation]) -> np.ndarray:
    """Carry operations out; arguments and value as in `cass_tune.data.route_torchvision.apply`."""
    for operation in operations:
        match operation:
            case Jitter(factors):
                image = _jitter_grey(image, factors) if image.ndim == 2 else _jitter(image, factors)
            case Perspective(corners, moved):
                image = _perspective(image, corners, moved)
            case Rotation(degrees):
                image = _rotate(image, degrees)
            case Flip(axis):
                image = cv2.flip(image, axis)
    return image


def _jitter_grey(image: np.ndarray, factors: Sequence[tuple[str, float]]) -> np.ndarray:
    """Change brightness and contrast by one table of 256 values, the same as PIL's two steps."""
    counts = cv2.calcHist([image], [0], None, [256], [0, 256]).ravel().astype(np.float64)
    table = LEVELS
    for name, factor in factors:
        if name != "saturation":
            middle = int(counts @ table / image.size + 0.5) if name == "contrast" else 0
            table = np.trunc(np.clip(middle + np.float32(factor) * (table - middle), 0, 255))
    return cv2.LUT(image, table.astype(np.uint8))


def _jitter(image: np.ndarray, factors: Sequence[tuple[str, float]]) -> np.ndarray:
    """Change the colours by matrices, shape (3, 4), of red, green, blue and 1.

    A change by a factor of at most 1 brings no level beyond 0 or 255, and is carried out together with the next one.
    """
    pending = np.eye(4)
    for number, (name, factor) in enumerate(factors, 1):
        pending = _change(name, factor, image, pending) @ pending
        is_last = number == len(factors)
        pending[:3, 3] -= CUT_OFF if factor > 1 or is_last else MEAN_CUT_OFF
        if factor > 1 or is_last:
            image, pending = cv2.transform(image, pending[:3]), np.eye(4)
    return image


def _change(name: str, factor: float, image: np.ndarray, pending: np.ndarray) -> np.ndarray:
    """Return the matrix, shape (4, 4), of one change of an image that a pending one has yet to change."""
    change = factor * np.eye(4)
    change[3, 3] = 1
    if name == "contrast":
        mean = np.array([*cv2.mean(image)[:3], 1])
        change[:3, 3] = (1 - factor) * int(GREY @ (pending @ mean)[:3] + 0.5)
    if name == "saturation":
        change[:3, :3] += (1 - factor) * GREY
    return change


def _perspective(image: np.ndarray, corners: Sequence[tuple[int, int]], moved: Sequence[tuple[int, int]]) -> np.ndarray:
    """Interpolate in 32-bit floats, which is faster here than in 8 bits, and cut off as PIL does.

    A fourth channel, which is not used, and a margin instead of a border that goes on make OpenCV twice as fast.
    """
    back = cv2.getPerspectiveTransform(np.array(moved, np.float32), np.array(corners, np.float32))
    matrix = np.linalg.inv(PIXEL) @ back @ PIXEL
    height, width = image.shape[:2]
    wide = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    wide = cv2.copyMakeBorder(wide, 1, 1, 1, 1, cv2.BORDER_REPLICATE).astype(np.float32)
    view = cv2.warpPerspective(
        wide, MARGIN @ matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    ).astype(np.uint8)
    inside = np.full((height, width), 255, np.uint8)
    inside = cv2.warpPerspective(inside, matrix, (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    view = view if image.ndim == 2 else cv2.cvtColor(view, cv2.COLOR_RGBA2RGB)
    return cv2.bitwise_and(view, view, mask=inside)


def _rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    height, width = image.shape[:2]
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    x, y = width / 2, height / 2
    back = np.array([[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y], [0, 0, 1]])
    matrix = (np.linalg.inv(PIXEL) @ back @ PIXEL)[:2]
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
