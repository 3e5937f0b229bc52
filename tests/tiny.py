"""Trials, data sets and networks that are as small as they can be and still real."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cass_tune.config import ARMS, Data, Finetune, Pretrain, Trial, with_field
from cass_tune.data.listing import Item, Listing, Split, fingerprint
from cass_tune.data.loader import Batches
from cass_tune.data.pixels import Pixels, decode
from cass_tune.data.splits import Parts
from cass_tune.randomness import generator
from cass_tune.training.models import build_arm

CNN, VIT = "test_resnet.r160_in1k", "test_vit.r160_in1k"
SIZE_PX = 32
BASE = Trial(
    data=Data(image_size_px=SIZE_PX, label_fraction=0.1, pretrain_fraction=0.1),
    pretrain=Pretrain(cnn=CNN, vit=VIT, weights="random", embedding_dim=64, epochs=2, batch_size=8),
    finetune=Finetune(epochs=2, batch_size=8),
)


def trial(fields: Mapping[str, Any] | None = None) -> Trial:
    """Return the tiny trial with other values by ``"section.field"``."""
    changed = BASE
    for path, value in (fields or {}).items():
        changed = with_field(changed, path, value)
    return changed


def listing(counts: Mapping[Split, Mapping[str, int]], groups: Mapping[str, str] | None = None) -> Listing:
    """Return a set of random pictures whose mean brightness depends on the class.

    Args:
        counts: images by part and class.
        groups: group by path, where it is not the path itself.
    """
    found: list[Item] = []
    for part, of_class in counts.items():
        for label, count in of_class.items():
            for path in (f"{part}/{label}/{number:03d}" for number in range(count)):
                group = (groups or {}).get(path, path)
                found.append(Item(path=path, sha256=path, label=label, split=part, group=group))
    items = tuple(sorted(found, key=lambda item: item.path))
    return Listing(name="tiny", items=items, open_image=_open, fingerprint=fingerprint(items))


LABELS = ("ant", "bee", "cow")


def multi_label(counts: Mapping[Split, int], seed: int = 0) -> Listing:
    """Return random pictures of which a half, a fourth and an eighth have each of three labels, of two a group.

    Args:
        counts: images by part.
        seed: of the labels.
    """
    rng, found = np.random.default_rng(seed), list[Item]()
    for part, count in counts.items():
        for number in range(count):
            given = rng.random(len(LABELS)) < (0.5, 0.25, 0.125)
            path, label = f"{part}/{number:03d}", tuple(name for name, has in zip(LABELS, given, strict=True) if has)
            found.append(Item(path=path, sha256=path, label=label, split=part, group=f"{part}/{number // 2}"))
    items = tuple(sorted(found, key=lambda item: item.path))
    return Listing(name="tiny", items=items, open_image=_open, fingerprint=fingerprint(items))


def _open(item: Item) -> Image.Image:
    rng = generator(0, item.path)
    brightest = 100 + 30 * (sum("".join(item.labels).encode()) % 5)
    return Image.fromarray(rng.integers(0, brightest, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8))


def pixels(images: Listing) -> Pixels:
    """Return all the images of a set, in memory."""
    return resized(images, SIZE_PX)


def resized(images: Listing, size_px: int) -> Pixels:
    """Return all the images of a set at another size, in memory."""
    return Pixels(images, size_px, np.stack([decode(images, item, size_px) for item in images.items]))


def batches(images: Listing, stream: str, seed: int = 0) -> Batches:
    """Return a loader in this process."""
    return Batches(pixels(images), seed=seed, stream=stream)


def parts(images: Listing) -> Parts:
    """Return the parts of a set that brings all three of its own, everything labelled."""
    train = images.of_split("train")
    return Parts(pretrain=train, labelled=train, validation=images.of_split("val"), test=images.of_split("test"))


def arms(described: Trial = BASE) -> nn.ModuleDict:
    """Return both arms before pretraining."""
    return nn.ModuleDict({arm: build_arm(described, arm) for arm in ARMS})


def state(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all parameters and buffers."""
    return copy.deepcopy(model.state_dict())


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two states have the same names and bit-identical tensors."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def one_hot(labels: Sequence[int], classes: int) -> np.ndarray:
    """Return float64 one-hot rows."""
    return np.eye(classes)[np.asarray(labels)]


def published_focal_loss(
    logits: np.ndarray, labels: Sequence[int], weights: Sequence[float] | np.ndarray, gamma: float = 2.0
) -> float:
    """Return the loss of CASS.ipynb, cell 6, in float64: alpha is 1, eps 1e-12; mean over images and classes."""
    y = one_hot(labels, logits.shape[1])
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    total = 0.0
    for row, image in enumerate(probabilities):
        for column, p in enumerate(image):
            log_pt = y[row, column] * np.log(p + 1e-12) + (1 - y[row, column]) * np.log(1 - p + 1e-12)
            total += -1.0 * (1 - np.exp(log_pt)) ** gamma * log_pt * weights[column]
    return total / logits.size
