"""Uncertainty from one model's predictions: over the images (or patients) of the test part, not over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from scipy.stats import binomtest

from analysis.statistics import CONFIDENCE, Estimate

Score: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Returns the score of every confusion matrix: from shape (draws, classes, classes), rows are true, to (draws,)."""

REPLICATES = 2000
_CELLS_AT_ONCE = 4_000_000
"""Groups times draws that are drawn at once, which bounds the memory."""


def _confusions(labels: np.ndarray, predictions: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the confusion matrix of every group, over the classes that are labelled or predicted anywhere.

    Args:
        labels: int64, shape (images,).
        predictions: int64, shape (images,).
        groups: number of each image's group, from 0, shape (images,).
    """
    classes, positions = np.unique(np.concatenate([labels, predictions]), return_inverse=True)
    rows, columns = np.split(positions, 2)
    size, count = len(classes), int(groups.max()) + 1
    flat = np.bincount((groups * size + rows) * size + columns, minlength=count * size * size)
    return flat.reshape(count, size, size)


def macro_f1(matrices: np.ndarray) -> np.ndarray:
    """Return the mean over classes of F1; a class that is neither labelled nor predicted is left out.

    Args:
        matrices: confusion matrices, shape (..., classes, classes).
    """
    hits = np.diagonal(matrices, axis1=-2, axis2=-1)
    either = matrices.sum(axis=-1) + matrices.sum(axis=-2)
    there = either > 0
    return np.sum(2 * hits / np.where(there, either, 1), axis=-1) / there.sum(axis=-1)


def _label_counts(labels: np.ndarray, predictions: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return of every group and label the images that have it and are given it, and how often either is so.

    Args:
        labels: 0 or 1, shape (images, labels).
        predictions: the same.
        groups: number of each image's group, from 0, shape (images,).

    Returns:
        int64, shape (groups, labels, 2).
    """
    found = np.zeros((int(groups.max()) + 1, labels.shape[1], 2), dtype=np.int64)
    np.add.at(found, groups, np.stack([labels & predictions, labels + predictions], axis=-1))
    return found


def macro_f1_of_labels(counts: np.ndarray) -> np.ndarray:
    """Return the mean over labels of F1; a label that no image has or is given is left out.

    Args:
        counts: images with a label that are given it, and images with it plus images given it, shape (..., labels, 2).
    """
    hits, either = counts[..., 0], counts[..., 1]
    there = either > 0
    return np.sum(2 * hits / np.where(there, either, 1), axis=-1) / np.maximum(there.sum(axis=-1), 1)


def bootstrap(
    labels: np.ndarray,
    predictions: np.ndarray,
    groups: Sequence[object] | None = None,
    *,
    score: Score | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Estimate:
    """Return a score of one model with its percentile interval over test images (Efron 1979).

    Args:
        labels: int64 positions of classes, shape (images,), at least one; or 0 and 1, shape (images, labels).
        predictions: the same.
        groups: patient (or lesion) of every image: whole groups are drawn; by default every image is its own.
        score: of confusion matrices; macro-F1 by default, also of several labels.
        seed: of the draws.
        replicates: how many draws.

    Returns:
        The score, its interval, the number of groups as n, and the standard deviation over the draws; without interval
        where there is one group.
    """
    keys = np.arange(len(labels)) if groups is None else np.unique(np.asarray(groups, str), return_inverse=True)[1]
    is_several = labels.ndim == 2
    score = score or (macro_f1_of_labels if is_several else macro_f1)
    matrices = (_label_counts if is_several else _confusions)(labels, predictions, keys)
    found = float(score(matrices.sum(axis=0, keepdims=True))[0])
    if len(matrices) < 2:
        return Estimate(found, np.nan, np.nan, len(matrices))
    values = np.concatenate([score(drawn) for drawn in _draws(matrices, seed, replicates)])
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(found, float(low), float(high), len(matrices), float(np.std(values, ddof=1)))


def _draws(matrices: np.ndarray, seed: int, replicates: int) -> Iterator[np.ndarray]:
    """Yield confusion matrices of groups drawn with replacement, many draws at a time."""
    rng, groups = np.random.default_rng(seed), len(matrices)
    flat = matrices.reshape(groups, -1).astype(np.float64)
    size = max(1, _CELLS_AT_ONCE // groups)
    for start in range(0, replicates, size):
        count = min(size, replicates - start)
        drawn = rng.integers(0, groups, (count, groups)) + groups * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * groups).reshape(count, groups)
        yield (times.astype(np.float64) @ flat).reshape(count, *matrices.shape[1:])


def mcnemar(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """Compare two models on the same images by the exact McNemar test (McNemar 1947).

    Args:
        labels: int64, shape (images,).
        first: predictions of one model, same shape.
        second: predictions of the other.

    Returns:
        Images that only the first has right, that only the second has right, and the two-sided p that both are equally
        often right (1 where they never differ).
    """
    only_first = int(np.sum((first == labels) & (second != labels)))
    only_second = int(np.sum((first != labels) & (second == labels)))
    differ = only_first + only_second
    return only_first, only_second, float(binomtest(only_first, differ, 0.5).pvalue) if differ else 1.0
