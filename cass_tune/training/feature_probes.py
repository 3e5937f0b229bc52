"""A network's frozen features, and the kNN probe: how well the classes can be read from them.

The features are what the network hands to its head, in evaluation mode and without augmentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from cass_tune.data.loader import Batch, normalise
from cass_tune.training.losses import targets
from cass_tune.training.metrics import score_metrics
from cass_tune.training.models import features, normalisation
from cass_tune.training.pieces import Pieces

NEIGHBOURS = 20
TEMPERATURE = 0.07

METRICS = ("macro_f1", "balanced_accuracy", "accuracy", "auroc", "n", "confusion_matrix")
"""Of `score_metrics`, those that do not depend on how far a probability is above a half, which `C` decides; of a
multi-label set there is no confusion matrix, and the others are what a half decides."""

Record = dict[str, Any]
Between = Callable[[], None]
"""Called between two pieces of work; what it raises ends it."""


def nothing() -> None:
    """Do nothing between two pieces of work."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Frozen features of some images.

    Args:
        values: float64, shape (images, dimensions).
        labels: int64: positions of classes, shape (images,), or in a multi-label set 1 for every label that an image
            has, shape (images, classes).
    """

    values: np.ndarray
    labels: np.ndarray

    @property
    def are_finite(self) -> bool:
        """Whether no value is infinite or NaN."""
        return bool(np.isfinite(self.values).all())


@torch.inference_mode()
def extract(model: nn.Module, batches: Iterable[Batch], between: Between = nothing) -> Features:
    """Return what a timm model hands to its head; the model stays as it is, and no random number is drawn.

    Args:
        model: on its device.
        batches: images without augmentation.
        between: called after every batch.
    """
    device, constants, was_training = next(model.parameters()).device, normalisation(model), model.training
    model.eval()
    values, labels, in_pieces = [], [], Pieces()
    try:
        for batch in batches:
            found = in_pieces(lambda images: features(model, normalise(images, device, constants)), batch.images)
            values.append(found.flatten(1).double().cpu().numpy())
            labels.append(batch.labels.numpy())
            between()
    finally:
        model.train(was_training)
    return Features(values=np.concatenate(values), labels=np.concatenate(labels))


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return 1 where an image has a class (or label) and 0 elsewhere, shape (images, classes)."""
    return targets(torch.from_numpy(labels), classes).numpy()


def knn_probe(parts: Mapping[str, Features], classes: int) -> Record:
    """Return how well the nearest labelled images tell the classes apart, see `knn_probabilities`.

    Args:
        parts: features by ``labelled``, ``validation`` and ``test``.
        classes: number of classes.

    Returns:
        ``k``, ``temperature``, and `METRICS` by ``validation`` and ``test``.
    """
    labelled = parts["labelled"]
    found: Record = {"k": min(NEIGHBOURS, len(labelled.labels)), "temperature": TEMPERATURE}
    return found | evaluated(parts, lambda queries: knn_probabilities(labelled, queries, classes))


def knn_probabilities(labelled: Features, queries: np.ndarray, classes: int) -> np.ndarray:
    """Return each class's share of the votes of the `NEIGHBOURS` nearest labelled images, or of all if they are fewer.

    Nearest by cosine similarity s, with a vote of exp(s / `TEMPERATURE`) (Wu et al. 2018, arXiv 1805.01978, section
    3.4; as in DINO, Caron et al. 2021); of equally near ones the first. In a multi-label set, each label's share.

    Args:
        labelled: features and labels.
        queries: features, shape (images, dimensions).
        classes: number of classes.

    Returns:
        float64, shape (images, classes); rows sum to 1, but in a multi-label set.
    """
    with threadpool_limits(torch.get_num_threads()):
        similarities = _unit(queries) @ _unit(labelled.values).T
    nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :NEIGHBOURS]
    near = np.take_along_axis(similarities, nearest, axis=1)
    votes = np.exp((near - near[:, :1]) / TEMPERATURE)
    by_class = (votes[:, :, None] * one_hot(labelled.labels, classes)[nearest]).sum(axis=1)
    total = by_class if labelled.labels.ndim == 1 else votes
    return by_class / total.sum(axis=1, keepdims=True)


def _unit(values: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, 1.0)


def knn_macro_f1(labelled: Features, queries: Features, classes: int) -> float:
    """Return the macro-F1 of `knn_probabilities`, NaN when a feature is not finite."""
    if not (labelled.are_finite and queries.are_finite):
        return math.nan
    return probe_metrics(knn_probabilities(labelled, queries.values, classes), queries.labels)["macro_f1"]


def evaluated(parts: Mapping[str, Features], probabilities: Callable[[np.ndarray], np.ndarray]) -> Record:
    """Return `METRICS` by ``validation`` and ``test``; the function takes features, and returns probabilities."""
    return {
        name: probe_metrics(probabilities(parts[name].values), parts[name].labels) for name in ("validation", "test")
    }


def probe_metrics(probabilities: np.ndarray, labels: np.ndarray) -> Record:
    """Return `METRICS` of probabilities, shape (images, classes)."""
    scores = torch.from_numpy(np.clip(probabilities, 0.0, 1.0))
    found = score_metrics(scores, scores.argmax(dim=1), torch.from_numpy(labels))
    return {name: found[name] for name in METRICS if name in found}
