"""Route device-1: the operations on the device of the trial, for a whole batch at once, each image with its own draws.

The processor only reads images and draws numbers, which reach the device by one copy per view, for which nothing waits.
Everything is computed in 32-bit floats and cut off to whole levels after every operation, as PIL does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor

from cass_tune.data.augmentation import Flip, Jitter, Operation, Perspective, Rotation

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601, as PIL's)."""


def apply(images: Tensor, operations: Sequence[Sequence[Operation]]) -> Tensor:
    """Carry operations out.

    Args:
        images: uint8, shape (batch, 3, height, width), on any device.
        operations: of each image, in order, as `cass_tune.data.augmentation.draw` draws them: every kind is followed by
            the same kinds in all of them.

    Returns:
        uint8, same shape.
    """
    if not any(operations):
        return images
    height, width = images.shape[-2:]
    rounds = _rounds(operations)
    places = [torch.tensor([place for place, _ in chosen], dtype=torch.float64) for _, chosen in rounds]
    numbers = [_NUMBERS[kind]([operation for _, operation in chosen], width, height) for kind, chosen in rounds]
    there = _bring([*places, *numbers], images.device)
    images = images.contiguous().float()  # sums depend on the order in memory
    for (kind, _), place, drawn in zip(rounds, there[: len(rounds)], there[len(rounds) :], strict=True):
        index = place.long()
        images = images.index_copy(0, index, _DO[kind](images[index], drawn))
    return images.to(torch.uint8)


def _rounds(
    operations: Sequence[Sequence[Operation]],
) -> list[tuple[type[Operation], list[tuple[int, Operation]]]]:
    """Return operations of one kind that can be done together, with the places of their images.

    An image takes part in a round when its next operation is of that kind; the kinds are asked in the order in which
    they are drawn, so that few rounds are enough.
    """
    rest = [list(each) for each in operations]
    rounds: list[tuple[type[Operation], list[tuple[int, Operation]]]] = []
    kinds = (Jitter, Perspective, Jitter, Rotation, Flip, Flip)
    while any(rest):
        for kind in kinds:
            chosen = [(place, each.pop(0)) for place, each in enumerate(rest) if each and isinstance(each[0], kind)]
            if chosen:
                rounds.append((kind, chosen))
    return rounds


def _cut_off(images: Tensor) -> Tensor:
    return images.clamp(0, 255).trunc()


def _bring(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors, float64, on a device."""
    together = torch.cat([each.flatten() for each in tensors])
    if device.type == "cuda":
        together = together.pin_memory()
    parts = together.to(device, non_blocking=True).split([each.numel() for each in tensors])
    return [part.view(each.shape) for part, each in zip(parts, tensors, strict=True)]


@functools.cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers on a device, copied once: every such copy waits for the device."""
    with torch.inference_mode(False):  # for training, too, when an evaluation asks first
        return torch.tensor(values, dtype=dtype, device=device)


def _grey(images: Tensor) -> Tensor:
    weights = _constant(GREY, torch.float32, images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True).add(0.5).trunc()


def _factors(operations: Sequence[Jitter], *_: int) -> Tensor:
    """Return of each change of colour, for all images, the factor, and 1 for a contrast and for a saturation."""
    steps = zip_longest(*(operation.factors for operation in operations), fillvalue=("brightness", 1.0))
    rows = [[[value for _, value in step], *([name == each for name, _ in step] for each in _AWAY)] for step in steps]
    return torch.tensor(rows, dtype=torch.float64).view(-1, 3, len(operations))


def _jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Move every level away from black, from the mean grey or from the pixel's grey, by a factor."""
    for factor, contrast, saturation in factors.float().view(*factors.shape, 1, 1, 1):
        grey = _grey(images)
        middle = contrast * grey.mean((2, 3), keepdim=True).add(0.5).trunc() + saturation * grey
        images = _cut_off(middle + factor * (images - middle))
    return images


_AWAY = ("contrast", "saturation")


def _homographies(operations: Sequence[Perspective], *_: int) -> Tensor:
    return torch.stack([_homography(operation) for operation in operations])


def _perspective(images: Tensor, matrices: Tensor) -> Tensor:
    """Sample bilinearly at the place that each pixel comes from; the levels at the border go on, outside is black."""
    return _cut_off(_sample(images, matrices, "bilinear") + 1e-3)  # a whole level stays one after rounding errors


def _homography(operation: Perspective) -> Tensor:
    """Return the matrix, float64, that brings each corner's new place (x, y, 1) to where it came from."""
    rows, values = [], []
    for (x, y), (u, v) in zip(operation.moved, operation.corners, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    found = torch.linalg.solve(torch.tensor(rows, dtype=torch.float64), torch.tensor(values, dtype=torch.float64))
    return torch.cat([found, torch.ones(1, dtype=torch.float64)]).view(3, 3)


def _turns(operations: Sequence[Rotation], width: int, height: int) -> Tensor:
    """Return the matrices, float64, that bring each pixel's place (x, y, 1) to where it came from."""
    angles = torch.deg2rad(torch.tensor([operation.degrees for operation in operations], dtype=torch.float64))
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    x, y = width / 2, height / 2
    rows = [[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y], [zero, zero, zero + 1]]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _rotate(images: Tensor, matrices: Tensor) -> Tensor:
    return _sample(images, matrices, "nearest")


def _sample(images: Tensor, matrices: Tensor, how: str) -> Tensor:
    """Return what lies where the matrices, shape (batch, 3, 3), bring each pixel's middle; black outside the image."""
    (height, width), device = images.shape[-2:], images.device
    rows, columns = (torch.arange(count, dtype=torch.float64, device=device) + 0.5 for count in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    found = torch.einsum("bij,hwj->bhwi", matrices, torch.stack([x, y, torch.ones_like(x)], -1))
    places = found[..., :2] / found[..., 2:]
    size = _constant((width, height), torch.float64, device)
    inside = ((places >= 0) & (places < size)).all(-1).unsqueeze(1)
    grid = (places / size * 2 - 1).float()
    return F.grid_sample(images, grid, how, padding_mode="border", align_corners=False) * inside


def _axes(operations: Sequence[Flip], *_: int) -> Tensor:
    return torch.tensor([operation.axis for operation in operations], dtype=torch.float64)


def _flip(images: Tensor, axes: Tensor) -> Tensor:
    return torch.where((axes == 0).view(-1, 1, 1, 1), images.flip(2), images.flip(3))


_NUMBERS: dict[type[Operation], Callable[..., Tensor]] = {
    Jitter: _factors,
    Perspective: _homographies,
    Rotation: _turns,
    Flip: _axes,
}
"""Return what the device needs of operations of one kind, float64, from them and the width and height of an image."""

_DO: dict[type[Operation], Callable[[Tensor, Tensor], Tensor]] = {
    Jitter: _jitter,
    Perspective: _perspective,
    Rotation: _rotate,
    Flip: _flip,
}
