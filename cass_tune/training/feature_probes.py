"""Linear and kNN probes: how well the classes can be read from a network's frozen features.

The features are what the network hands to its head, in evaluation mode and without augmentation. Everything is fitted
on the labelled images alone; the validation images choose `C`, and their labels are never trained on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import nn

from cass_tune.data.loader import Batch, normalise
from cass_tune.training.losses import targets
from cass_tune.training.metrics import score_metrics
from cass_tune.training.models import features, normalisation

C_GRID = tuple(10.0**exponent for exponent in range(-5, 4))
"""Inverse strengths of the linear probe's regularisation, ascending."""
MAX_ITERATIONS = 1000
NEIGHBOURS = 20
TEMPERATURE = 0.07
CONSTANT = 1e-6
"""Share of a feature's size below which its standard deviation is float32's rounding, and the feature constant."""

METRICS = ("macro_f1", "balanced_accuracy", "accuracy", "auroc", "n", "confusion_matrix")
"""Of `score_metrics`, those that do not depend on how far a probability is above a half, which `C` decides; of a
multi-label set there is no confusion matrix, and the others are what a half decides."""

Record = dict[str, Any]
Between = Callable[[], None]
"""Called between two pieces of work; what it raises ends it."""


def _nothing() -> None:
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
def extract(model: nn.Module, batches: Iterable[Batch], between: Between = _nothing) -> Features:
    """Return what a timm model hands to its head; the model stays as it is, and no random number is drawn.

    Args:
        model: on its device.
        batches: images without augmentation.
        between: called after every batch.
    """
    device, constants, was_training = next(model.parameters()).device, normalisation(model), model.training
    model.eval()
    values, labels = [], []
    try:
        for batch in batches:
            found = features(model, normalise(batch.images, device, constants))
            values.append(found.flatten(1).double().cpu().numpy())
            labels.append(batch.labels.numpy())
            between()
    finally:
        model.train(was_training)
    return Features(values=np.concatenate(values), labels=np.concatenate(labels))


def linear_probe(
    parts: Mapping[str, Features], classes: int, *, is_balanced: bool = True, between: Between = _nothing
) -> Record:
    """Return how well multinomial logistic regression on standardised features tells the classes apart.

    In a multi-label set, each label has a logistic regression of its own, all with the same `C`.

    Of `C_GRID` the value with the highest macro-F1 on the validation images is taken, of equal ones the smallest. It is
    not fitted again with the validation labels: how few labels there are is what a study varies. Protocol: Kornblith et
    al. 2019 (arXiv 1805.08974, appendix A.2), with standardised features, class weights and a coarser grid.

    Args:
        parts: features by ``labelled``, ``validation`` and ``test``.
        classes: number of classes; those without a labelled image get probability 0.
        is_balanced: weight every class equally, instead of every image.
        between: called between two fits.

    Returns:
        ``c`` (None when there is nothing to tell apart), whether that is an end of the grid, ``iterations``,
        ``converged``, and `METRICS` by ``validation`` and ``test``.
    """
    standardised = _standardised(parts)
    labelled, validation = standardised["labelled"], standardised["validation"]
    if len(np.unique(labelled.labels, axis=0)) == 1:
        only = _targets(labelled.labels[:1], classes)
        return {"c": None, "at_grid_end": False, "iterations": 0, "converged": True} | _evaluated(
            parts, lambda queries: np.repeat(only, len(queries), axis=0).astype(np.float64)
        )
    best: tuple[float, _Fit] | None = None
    with threadpool_limits(torch.get_num_threads()):
        for c in C_GRID:
            fit = _fit(labelled, c, classes, is_balanced)
            score = _metrics(fit.probabilities(validation.values), validation.labels)["macro_f1"]
            if best is None or score > best[0]:
                best = score, fit
            between()
        assert best is not None
        fit = best[1]
        found = {"c": fit.c, "at_grid_end": fit.c in (C_GRID[0], C_GRID[-1])}
        found |= {"iterations": fit.iterations, "converged": fit.converged}
        return found | _evaluated(standardised, fit.probabilities)


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """Fitted logistic regressions.

    Args:
        c: inverse strength of the regularisation.
        models: one of all classes; or one per label, None for a label that all labelled images have, or none.
        labelled: targets of the labelled images, shape (images, classes).
        converged: whether all of them did.
    """

    c: float
    models: Sequence[LogisticRegression | None]
    labelled: np.ndarray
    converged: bool

    @property
    def iterations(self) -> int:
        return max(int(model.n_iter_.max()) for model in self.models if model is not None)

    def probabilities(self, values: np.ndarray) -> np.ndarray:
        found = np.repeat(self.labelled[:1], len(values), axis=0).astype(np.float64)
        if len(self.models) == 1 and (model := self.models[0]) is not None:
            found[:] = 0
            found[:, model.classes_] = model.predict_proba(values)
            return found
        for number, model in enumerate(self.models):
            if model is not None:
                found[:, number] = model.predict_proba(values)[:, 1]
        return found


def _fit(labelled: Features, c: float, classes: int, is_balanced: bool) -> _Fit:
    columns = [labelled.labels] if labelled.labels.ndim == 1 else list(labelled.labels.T)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        models = [_regression(labelled.values, labels, c, is_balanced) for labels in columns]
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return _Fit(c=c, models=models, labelled=_targets(labelled.labels, classes), converged=converged)


def _regression(values: np.ndarray, labels: np.ndarray, c: float, is_balanced: bool) -> LogisticRegression | None:
    if len(np.unique(labels)) == 1:
        return None
    model = LogisticRegression(C=c, max_iter=MAX_ITERATIONS, class_weight="balanced" if is_balanced else None)
    return model.fit(values, labels)


def _targets(labels: np.ndarray, classes: int) -> np.ndarray:
    return targets(torch.from_numpy(labels), classes).numpy()


def _standardised(parts: Mapping[str, Features]) -> dict[str, Features]:
    """Return the features by mean and standard deviation of the labelled images; constant ones become 0."""
    values = parts["labelled"].values
    mean, std = values.mean(axis=0), values.std(axis=0)
    scale = np.where(std > CONSTANT * np.abs(values).max(axis=0), std, np.inf)
    return {name: Features(values=(part.values - mean) / scale, labels=part.labels) for name, part in parts.items()}


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
    return found | _evaluated(parts, lambda queries: knn_probabilities(labelled, queries, classes))


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
    by_class = (votes[:, :, None] * _targets(labelled.labels, classes)[nearest]).sum(axis=1)
    total = by_class if labelled.labels.ndim == 1 else votes
    return by_class / total.sum(axis=1, keepdims=True)


def _unit(values: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, 1.0)


def knn_macro_f1(labelled: Features, queries: Features, classes: int) -> float:
    """Return the macro-F1 of `knn_probabilities`, NaN when a feature is not finite."""
    if not (labelled.are_finite and queries.are_finite):
        return math.nan
    return _metrics(knn_probabilities(labelled, queries.values, classes), queries.labels)["macro_f1"]


def _evaluated(parts: Mapping[str, Features], probabilities: Callable[[np.ndarray], np.ndarray]) -> Record:
    return {name: _metrics(probabilities(parts[name].values), parts[name].labels) for name in ("validation", "test")}


def _metrics(probabilities: np.ndarray, labels: np.ndarray) -> Record:
    scores = torch.from_numpy(np.clip(probabilities, 0.0, 1.0))
    found = score_metrics(scores, scores.argmax(dim=1), torch.from_numpy(labels))
    return {name: found[name] for name in METRICS if name in found}
