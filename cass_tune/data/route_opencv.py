"""Route opencv-1: OpenCV's operations, several times faster than torchvision's and nearly the same pixels.

Brightness and contrast are tables of 256 values, rounded as PIL rounds, which makes them equal to torchvision's on
grey images. Interpolation differs: OpenCV's places have steps of 1/32 of a pixel.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from cass_tune.data.augmentation import Flip, Jitter, Operation, Perspective, Rotation
from cass_tune.data.opencv import cv2

BACKWARDS = cv2.WARP_INVERSE_MAP
NEAREST = cv2.INTER_NEAREST | BACKWARDS
LEVELS = np.arange(256, dtype=np.float32)
GREY = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue (ITU-R BT.601, as PIL's)."""
CUT_OFF = 0.499
"""Taken away before OpenCV rounds, so that it cuts off to whole levels as PIL does."""
MEAN_CUT_OFF = 0.5
"""What a level loses on average when PIL cuts it off."""
ONLY_OWN, ONLY_GREY, ONLY_LEVEL = np.eye(3, 4), np.array([[*GREY, 0]] * 3), np.array([[0.0, 0, 0, 1]] * 3)
"""What a channel, the grey level and 1 come into, as OpenCV takes it."""
PIXEL = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
"""From places where whole numbers are the middles of pixels (OpenCV) to those where they are edges (PIL)."""
FROM_PIXEL = np.linalg.inv(PIXEL)
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
    """Change the colours.

    A change by a factor of at most 1 brings no level beyond 0 or 255, and is carried out together with the next one:
    what is pending makes of a channel c of a pixel with the grey level g: own c + grey g + level.
    """
    own, grey, level = 1.0, 0.0, 0.0
    for number, (name, factor) in enumerate(factors, 1):
        middle = _grey_level(image, own + grey, level) if name == "contrast" else 0
        if name == "saturation":
            own, grey = factor * own, factor * grey + (1 - factor) * (own + grey)
        else:
            own, grey, level = factor * own, factor * grey, factor * level + (1 - factor) * middle
        is_last = number == len(factors)
        is_due = factor > 1 or is_last
        level -= CUT_OFF if is_due else MEAN_CUT_OFF
        if is_due:
            between = None if is_last else _SCRATCH(f"change {number}", image.shape)
            image = cv2.transform(image, own * ONLY_OWN + grey * ONLY_GREY + level * ONLY_LEVEL, dst=between)
            own, grey, level = 1.0, 0.0, 0.0
    return image


def _grey_level(image: np.ndarray, share: float, level: float) -> int:
    """Return the mean grey level of an image, as PIL rounds it, of which `share` is kept and to which `level` comes."""
    return int(share * (GREY @ cv2.mean(image)[:3]) + level + 0.5)


def _perspective(image: np.ndarray, corners: Sequence[tuple[int, int]], moved: Sequence[tuple[int, int]]) -> np.ndarray:
    """Interpolate in 32-bit floats, which is faster here than in 8 bits, and cut off as PIL does.

    A fourth channel and a margin instead of a border that goes on make OpenCV twice as fast.
    """
    back = cv2.getPerspectiveTransform(np.array(moved, np.float32), np.array(corners, np.float32))
    matrix = FROM_PIXEL @ back @ PIXEL
    height, width = image.shape[:2]
    wide = _with_margin(image)
    exact = _SCRATCH("exact", wide.shape, np.float32)
    seen = _SCRATCH("seen", (height, width, *wide.shape[2:]), np.float32)
    view = _SCRATCH("view", seen.shape)
    np.copyto(exact, wide)
    cv2.warpPerspective(exact, MARGIN @ matrix, (width, height), dst=seen, flags=cv2.INTER_LINEAR | BACKWARDS)
    np.copyto(view, seen, casting="unsafe")
    return _black_outside_grey(view, matrix) if image.ndim == 2 else _black_outside(view)


def _with_margin(image: np.ndarray) -> np.ndarray:
    """Return an image with one more pixel on each side, repeated; a fourth channel of colours is 0 there, or 255."""
    height, width, *channels = image.shape
    wide = _SCRATCH("wide", (height + 2, width + 2, *(4 for _ in channels)))
    inner = wide[1:-1, 1:-1]
    if channels:
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA, dst=inner)
    else:
        inner[:] = image
    for edge, next_to_it in ((0, 1), (-1, -2)):
        wide[edge], wide[:, edge] = wide[next_to_it], wide[:, next_to_it]
        if channels:
            wide[edge, :, 3] = wide[:, edge, 3] = 0
    return wide


def _black_outside(view: np.ndarray) -> np.ndarray:
    """Return red, green and blue, black where the fourth channel, the upper byte of a pixel, is less than a half."""
    pixels, inside = view.view(np.int32), _SCRATCH("inside", (*view.shape[:2], 1), np.int32)
    np.bitwise_and(pixels, np.right_shift(pixels, 31, out=inside), out=pixels)
    return cv2.cvtColor(view, cv2.COLOR_RGBA2RGB)


def _black_outside_grey(view: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return a view by a matrix, black where it shows nothing of the image."""
    size, inside = view.shape[::-1], _SCRATCH("inside", view.shape)
    cv2.warpPerspective(_white(view.shape), matrix, size, dst=inside, flags=NEAREST)
    return np.bitwise_and(view, inside)


@lru_cache(maxsize=2)
def _white(shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, 255, np.uint8)


def _rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Move whole pixels: in colours, with a fourth channel, four bytes as one float, which stay as they are."""
    height, width = image.shape[:2]
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    x, y = width / 2, height / 2
    back = np.array([[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y], [0, 0, 1]])
    matrix, size = (FROM_PIXEL @ back @ PIXEL)[:2], (width, height)
    if image.ndim == 2:
        return cv2.warpAffine(image, matrix, size, flags=NEAREST)
    before, after = (_SCRATCH(name, (height, width, 4)) for name in ("before", "view"))
    cv2.cvtColor(image, cv2.COLOR_RGB2RGBA, dst=before)
    pixels, turned = (each.view(np.float32)[..., 0] for each in (before, after))
    cv2.warpAffine(pixels, matrix, size, dst=turned, flags=NEAREST)
    return cv2.cvtColor(after, cv2.COLOR_RGBA2RGB)


class _Scratch(threading.local):
    """Memory for what comes between, used again: the system takes longer to give some of it than it takes to fill it.

    Each thread has its own.
    """

    def __init__(self) -> None:
        self._array = lru_cache(maxsize=32)(lambda name, shape, dtype: np.empty(shape, dtype))

    def __call__(self, name: str, shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
        """Return an array with anything in it, which is good until the same is asked for again."""
        return self._array(name, shape, dtype)


_SCRATCH = _Scratch()
