"""Intervals and tests from predictions: against scikit-learn, scipy and simulations with a known answer."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score

from analysis.resampling import bootstrap, macro_f1, mcnemar

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 300)
GOOD = np.where(RNG.random(300) < 0.8, LABELS, RNG.integers(0, 4, 300))
POOR = np.where(RNG.random(300) < 0.5, LABELS, RNG.integers(0, 4, 300))


def test_macro_f1_is_scikit_learns() -> None:
    assert macro_f1(confusion_matrix(LABELS, GOOD)) == pytest.approx(f1_score(LABELS, GOOD, average="macro"), abs=1e-12)
    few, wrong = np.array([0, 0, 1]), np.array([0, 3, 3])
    expected = f1_score(few, wrong, average="macro")
    assert macro_f1(confusion_matrix(few, wrong)) == pytest.approx(expected, abs=1e-12)
    with_an_absent_class = confusion_matrix(few, wrong, labels=[0, 1, 2, 3])
    both = macro_f1(np.stack([with_an_absent_class, 5 * with_an_absent_class]))
    assert both.tolist() == pytest.approx([expected, expected], abs=1e-12)


def test_the_bootstrap_holds_the_score_and_repeats() -> None:
    found = bootstrap(LABELS, GOOD, replicates=300)
    assert found.mean == pytest.approx(f1_score(LABELS, GOOD, average="macro"), abs=1e-12)
    assert found.low < found.mean < found.high and found.n == 300
    assert found == bootstrap(LABELS, GOOD, replicates=300)
    assert found != bootstrap(LABELS, GOOD, replicates=300, seed=1)


@pytest.mark.parametrize("groups", [None, [f"{number:02}" for number in np.repeat(np.arange(100), 3)]])
def test_the_bootstrap_draws_images_one_by_one(groups: list[str] | None) -> None:
    """The interval is that of drawing rows, and counting again, in the plainest way; in parts, when memory is short."""
    rng = np.random.default_rng(7)
    keys = np.arange(300) if groups is None else np.array(groups, dtype=int)
    members = [np.flatnonzero(keys == key) for key in range(keys.max() + 1)]
    values = []
    for _ in range(200):
        rows = np.concatenate([members[key] for key in rng.integers(0, len(members), len(members))])
        values.append(f1_score(LABELS[rows], GOOD[rows], average="macro"))
    expected = [*np.quantile(values, [0.025, 0.975]), np.std(values, ddof=1)]
    for most in (4_000_000, 1000):
        with mock.patch("analysis.resampling._CELLS_AT_ONCE", most):
            found = bootstrap(LABELS, GOOD, groups, seed=7, replicates=200)
        assert [found.low, found.high, found.sd] == pytest.approx(expected, abs=1e-9)


def test_one_group_has_no_interval() -> None:
    found = bootstrap(LABELS, GOOD, [0] * 300)
    assert found.n == 1 and np.isnan([found.low, found.high]).all()


def test_the_interval_of_an_accuracy_is_that_of_a_proportion() -> None:
    def accuracy(matrices: np.ndarray) -> np.ndarray:
        return np.trace(matrices, axis1=1, axis2=2) / matrices.sum(axis=(1, 2))

    found = bootstrap(LABELS, GOOD, score=accuracy, replicates=4000)
    p = float(np.mean(LABELS == GOOD))
    half = 1.96 * (p * (1 - p) / 300) ** 0.5
    assert found.mean == pytest.approx(p, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((p - half, p + half), abs=0.01)


def test_images_of_one_patient_are_drawn_together() -> None:
    """Ten copies of every image tell nothing new: by group the interval stays, by image it shrinks."""
    labels, predictions = np.repeat(LABELS[:60], 10), np.repeat(GOOD[:60], 10)
    groups = np.repeat(np.arange(60), 10).tolist()
    alone = bootstrap(LABELS[:60], GOOD[:60], replicates=500)
    together = bootstrap(labels, predictions, groups, replicates=500)
    apart = bootstrap(labels, predictions, replicates=500)
    assert together.n == 60
    assert together.sd == pytest.approx(alone.sd, rel=0.15)
    assert apart.sd < 0.5 * alone.sd


def test_mcnemar_by_hand_and_by_scipy() -> None:
    labels = np.zeros(12, dtype=int)
    first = np.array([0] * 9 + [1] * 3)
    second = np.array([0] * 2 + [1] * 7 + [0, 1, 1])
    assert mcnemar(labels, first, second) == (7, 1, pytest.approx(binomtest(7, 8).pvalue))
    assert mcnemar(labels, first, first) == (0, 0, 1.0)
    only_good, only_poor, p = mcnemar(LABELS, GOOD, POOR)
    assert only_good > only_poor and p < 1e-6
    assert mcnemar(LABELS, POOR, GOOD) == (only_poor, only_good, pytest.approx(p))
