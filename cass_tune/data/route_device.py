"""Route device-1: the operations on the device of the trial, for a whole batch at once, each image with its own draws.

The processor only reads images and draws numbers. Everything is computed in 32-bit floats and cut off to whole levels
after every operation, as PIL does.
"""

from __future__ import annotations

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
    images = images.float()
    for kind, chosen in _rounds(operations):
        places = torch.tensor([place for place, _ in chosen], device=images.device)
        part = _DO[kind](images[places], [operation for _, operation in chosen])
        images = images.index_copy(0, places, part)
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


def _by_image(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).to(like.device, non_blocking=True).view(-1, 1, 1, 1)


def _grey(images: Tensor) -> Tensor:
    weights = torch.tensor(GREY, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True).add(0.5).trunc()


def _jitter(images: Tensor, operations: Sequence[Jitter]) -> Tensor:
    """Move every level away from black, from the mean grey or from the pixel's grey, by a factor."""
    for step in zip_longest(*(operation.factors for operation in operations), fillvalue=("brightness", 1.0)):
        factor = _by_image([value for _, value in step], images)
        contrast, saturation = (_by_image([name == each for name, _ in step], images) for each in _AWAY)
        grey = _grey(images)
        middle = contrast * grey.mean((2, 3), keepdim=True).add(0.5).trunc() + saturation * grey
        images = _cut_off(middle + factor * (images - middle))
    return images


_AWAY = ("contrast", "saturation")


def _perspective(images: Tensor, operations: Sequence[Perspective]) -> Tensor:
    """Sample bilinearly at the place that each pixel comes from; the levels at the border go on, outside is black."""
    matrices = torch.stack([_homography(operation) for operation in operations])
    return _cut_off(_sample(images, matrices, "bilinear") + 1e-3)  # a whole level stays one after rounding errors


def _homography(operation: Perspective) -> Tensor:
    """Return the matrix, float64, that brings each corner's new place (x, y, 1) to where it came from."""
    rows, values = [], []
    for (x, y), (u, v) in zip(operation.moved, operation.corners, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    found = torch.linalg.solve(torch.tensor(rows, dtype=torch.float64), torch.tensor(values, dtype=torch.float64))
    return torch.cat([found, torch.ones(1, dtype=torch.float64)]).view(3, 3)


def _rotate(images: Tensor, operations: Sequence[Rotation]) -> Tensor:
    height, width = images.shape[-2:]
    angles = torch.deg2rad(torch.tensor([operation.degrees for operation in operations], dtype=torch.float64))
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    x, y = width / 2, height / 2
    rows = [[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y], [zero, zero, zero + 1]]
    return _sample(images, torch.stack([torch.stack(row, -1) for row in rows], -2), "nearest")


def _sample(images: Tensor, matrices: Tensor, how: str) -> Tensor:
    """Return what lies where the matrices, shape (batch, 3, 3), bring each pixel's middle; black outside the image."""
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    middles = torch.stack([x, y, torch.ones_like(x)], -1).double().to(images.device)
    found = torch.einsum("bij,hwj->bhwi", matrices.to(images.device), middles)
    places = found[..., :2] / found[..., 2:]
    size = torch.tensor([width, height], dtype=torch.float64, device=images.device)
    inside = ((places >= 0) & (places < size)).all(-1).unsqueeze(1)
    grid = (places / size * 2 - 1).float()
    return F.grid_sample(images, grid, how, padding_mode="border", align_corners=False) * inside


def _flip(images: Tensor, operations: Sequence[Flip]) -> Tensor:
    upright = torch.tensor([operation.axis == 0 for operation in operations], device=images.device).view(-1, 1, 1, 1)
    return torch.where(upright, images.flip(2), images.flip(3))


_DO: dict[type[Operation], Callable[..., Tensor]] = {
    Jitter: _jitter,
    Perspective: _perspective,
    Rotation: _rotate,
    Flip: _flip,
}
