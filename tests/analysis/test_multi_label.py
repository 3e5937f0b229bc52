"""Predictions of several labels for each image: read, scored, resampled and shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from analysis.per_class import class_scores
from analysis.resampling import bootstrap, macro_f1_of_labels

sk: Any = metrics  # its annotations are narrower than what it takes
RNG = np.random.default_rng(0)
LABELS = (RNG.random((120, 3)) < 0.4).astype(np.int64)
OUTPUTS = RNG.normal(LABELS * 2.0 - 1, 1.5)
PREDICTED = (OUTPUTS > 0).astype(np.int64)


def test_scores_of_labels_are_scikit_learns() -> None:
    found = class_scores(LABELS, OUTPUTS)
    assert found["f1"] == pytest.approx(sk.f1_score(LABELS, PREDICTED, average=None))
    assert found["precision"] == pytest.approx(sk.precision_score(LABELS, PREDICTED, average=None))
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(LABELS, OUTPUTS, average=None))
    assert found["support"].tolist() == LABELS.sum(axis=0).tolist()


def test_the_bootstrap_of_labels_draws_images_one_by_one() -> None:
    found = bootstrap(LABELS, PREDICTED, seed=7, replicates=200)
    assert found.mean == pytest.approx(sk.f1_score(LABELS, PREDICTED, average="macro"))
    rng, values = np.random.default_rng(7), []
    for _ in range(200):
        rows = rng.integers(0, 120, 120)
        values.append(sk.f1_score(LABELS[rows], PREDICTED[rows], average="macro"))
    assert [found.low, found.high] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist(), abs=1e-9)


def test_a_label_that_is_not_there_is_left_out() -> None:
    counts = np.array([[3, 6], [0, 0], [0, 2]])
    assert macro_f1_of_labels(counts) == pytest.approx(0.5)
    assert macro_f1_of_labels(np.zeros((2, 2), dtype=int)) == 0.0
