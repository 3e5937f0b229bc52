"""Uncertainty from one model's predictions: over the images (or patients) of the test part, not over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from scipy.stats import binomtest

from analysis.statistics import CONFIDENCE, Estimate

Score: TypeAlias = Callable[[np.ndarray, np.ndarray], float]
"""Returns a score of labels and predictions, int64 positions of classes, shape (images,)."""

REPLICATES = 2000


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the mean over classes of F1; a class that is neither labelled nor predicted is left out.

    Args:
        labels: int64, shape (images,).
        predictions: int64, shape (images,).
    """
    classes = np.union1d(labels, predictions)
    hits = np.array([np.sum((labels == c) & (predictions == c)) for c in classes])
    either = np.array([np.sum(labels == c) + np.sum(predictions == c) for c in classes])
    return float(np.mean(2 * hits / either))


def bootstrap(
    labels: np.ndarray,
    predictions: np.ndarray,
    groups: Sequence[object] | None = None,
    *,
    score: Score = macro_f1,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Estimate:
    """Return a score of one model with its percentile interval over test images (Efron 1979).

    Args:
        labels: int64, shape (images,).
        predictions: int64, shape (images,).
        groups: patient (or lesion) of every image: whole groups are drawn; by default every image is its own.
        score: of labels and predictions.
        seed: of the draws.
        replicates: how many draws.

    Returns:
        The score, its interval, the number of groups as n, and the standard deviation over the draws.
    """
    keys = (
        np.arange(len(labels)) if groups is None else np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    )
    members = [np.flatnonzero(keys == key) for key in range(int(keys.max()) + 1)]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(replicates):
        rows = np.concatenate([members[key] for key in rng.integers(0, len(members), len(members))])
        values.append(score(labels[rows], predictions[rows]))
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(score(labels, predictions), float(low), float(high), len(members), float(np.std(values, ddof=1)))


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
