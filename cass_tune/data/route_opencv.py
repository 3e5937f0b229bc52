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

    A fourth channel, which is not used, and a margin instead of a border that goes on make OpenCV twice as fast.
    """
    back = cv2.getPerspectiveTransform(np.array(moved, np.float32), np.array(corners, np.float32))
    matrix = FROM_PIXEL @ back @ PIXEL
    height, width = image.shape[:2]
    wide = _of_four(image)
    view, inside = (_SCRATCH(name, wide.shape) for name in ("view", "inside"))
    exact = _SCRATCH("exact", (height + 2, width + 2, *wide.shape[2:]), np.float32)
    seen = _SCRATCH("seen", wide.shape, np.float32)
    np.copyto(exact, cv2.copyMakeBorder(wide, 1, 1, 1, 1, cv2.BORDER_REPLICATE, dst=_SCRATCH("wide", exact.shape)))
    cv2.warpPerspective(exact, MARGIN @ matrix, (width, height), dst=seen, flags=cv2.INTER_LINEAR | BACKWARDS)
    np.copyto(view, seen, casting="unsafe")
    whole = _whole(wide.shape)
    cv2.warpPerspective(_pixels(whole), matrix, (width, height), dst=_pixels(inside), flags=NEAREST)
    return _of_three(np.bitwise_and(view, inside, out=view))


def _rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    height, width = image.shape[:2]
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    x, y = width / 2, height / 2
    back = np.array([[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y], [0, 0, 1]])
    wide = _of_four(image)
    view = _SCRATCH("view", wide.shape)
    matrix = (FROM_PIXEL @ back @ PIXEL)[:2]
    cv2.warpAffine(_pixels(wide), matrix, (width, height), dst=_pixels(view), flags=NEAREST)
    return _of_three(view)


def _of_four(image: np.ndarray) -> np.ndarray:
    """Return a coloured image with a fourth channel, good until the next call; a grey one as it is."""
    if image.ndim == 2:
        return image
    return cv2.cvtColor(image, cv2.COLOR_RGB2RGBA, dst=_SCRATCH("of four", (*image.shape[:2], 4)))


def _of_three(image: np.ndarray) -> np.ndarray:
    """Return a copy without the fourth channel, if there is one."""
    return image.copy() if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGBA2RGB)


def _pixels(image: np.ndarray) -> np.ndarray:
    """Return an image whose whole pixels are to be moved: the bytes of four channels as one float, unchanged."""
    return image if image.ndim == 2 else image.view(np.float32)[..., 0]


@lru_cache(maxsize=2)
def _whole(shape: tuple[int, ...]) -> np.ndarray:
    """Return an image of ones, which shows where a view has anything of an image."""
    return np.full(shape, 255, np.uint8)


class _Scratch(threading.local):
    """Memory for what comes between, used again: the system takes longer to give some of it than it takes to fill it.

    Each thread has its own, of the size of the last images.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
        """Return an array with anything in it, which is good until the name is asked for again."""
        found = self._arrays.get(name)
        if found is None or found.shape != shape:
            found = self._arrays[name] = np.empty(shape, dtype)
        return found


_SCRATCH = _Scratch()
