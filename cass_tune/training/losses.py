"""The finetuning loss and its class weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cass_tune.data.task import Label, names

EPSILON = 1e-12


def targets(labels: Tensor, classes: int) -> Tensor:
    """Return int64 of shape (images, classes): 1 for the class, or for every label, that an image has.

    Args:
        labels: int64: positions of classes, shape (images,), or the targets themselves.
        classes: number of classes (or labels).
    """
    return F.one_hot(labels, classes) if labels.ndim == 1 else labels


def focal_loss(logits: Tensor, labels: Tensor, class_weights: Tensor, gamma: float) -> Tensor:
    """Return the published sigmoid focal loss (CASS.ipynb, cell 6): one binary problem per class.

    With y the `targets` and p = sigmoid(logit): log_pt = y log(p + eps) + (1 - y) log(1 - p + eps), pt = exp(log_pt),
    and the loss is the mean over images and classes of -w_class (1 - pt)^gamma log_pt. Every class weighs both its
    positives and its negatives, as published.

    Args:
        logits: shape (batch, classes).
        labels: int64 class positions, shape (batch,), or multi-hot, shape (batch, classes).
        class_weights: shape (classes,).
        gamma: at least 0; 0 is binary cross-entropy.
    """
    target = targets(labels, logits.shape[1]).to(logits.dtype)
    p = torch.sigmoid(logits)
    log_pt = target * torch.log(p + EPSILON) + (1 - target) * torch.log(1 - p + EPSILON)
    modulation = (1 - torch.exp(log_pt)).clamp_min(0) ** gamma  # eps can lift pt above 1 by a rounding
    return -(class_weights * modulation * log_pt).mean()


def class_weights(labels: Sequence[Label], classes: Sequence[str], kind: str) -> Mapping[str, float]:
    """Return the weight of each class, keyed by its name.

    Args:
        labels: class, or all labels, of each labelled training image.
        classes: every class name.
        kind: ``balanced``: images / (classes * images of the class), so the rarest class weighs most (the published
            weights were the wrong way round, D4, and in another class order, D15); in a multi-label set an image counts
            once for each of its labels; ``none``: 1 for each.
    """
    if kind == "none":
        return dict.fromkeys(classes, 1.0)
    counts = Counter(name for label in labels for name in names(label))
    return {name: counts.total() / (len(classes) * counts[name]) for name in classes}
