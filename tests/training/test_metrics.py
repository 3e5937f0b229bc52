"""Every metric against numbers by hand and against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics

from cass_tune.training.metrics import classification_metrics

sk: Any = metrics  # its annotations are narrower than what it takes


def by_sklearn(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The same metrics from scikit-learn, in float64."""
    classes = range(logits.shape[1])
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    one_hot, above_half, predicted = np.eye(len(classes), dtype=int)[labels], scores > 0.5, logits.argmax(axis=1)
    return {
        "micro_f1_at_half": sk.f1_score(one_hot, above_half, average="micro", zero_division=0),
        "micro_recall_at_half": sk.recall_score(one_hot, above_half, average="micro", zero_division=0),
        "macro_f1": sk.f1_score(labels, predicted, average="macro", zero_division=0),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "accuracy": sk.accuracy_score(labels, predicted),
        "auroc": sk.roc_auc_score(one_hot, scores, average="macro"),
        "confusion_matrix": sk.confusion_matrix(labels, predicted, labels=classes).tolist(),
        "n": len(labels),
    }


def of(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    return classification_metrics(torch.from_numpy(logits), torch.from_numpy(labels))


@pytest.mark.parametrize("seed", range(25))
def test_all_metrics_agree_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 7))
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, int(rng.integers(1, 40)))])
    logits = rng.normal(rng.uniform(-1, 1), rng.uniform(0.1, 3), (len(labels), classes)).astype(np.float32)
    found, expected = of(logits, labels), by_sklearn(logits, labels)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value), name


def test_published_f1_and_recall_count_abstentions_and_several_classes() -> None:
    """Six answers above 0.5, of which two are right, for four images: an abstention is a miss and nothing else."""
    logits = np.array([[1, 1, 1], [-1, 2, -1], [-1, -2, -1], [3, -1, 1]], dtype=np.float32)
    labels = np.array([0, 1, 2, 1])
    right, wrong, missed = 2, 4, 2
    found = of(logits, labels)
    assert found["micro_f1_at_half"] == pytest.approx(2 * right / (2 * right + wrong + missed), abs=1e-6)
    assert found["micro_recall_at_half"] == pytest.approx(right / (right + missed), abs=1e-6)


def test_an_abstention_is_not_counted_as_a_class_of_its_own() -> None:
    """The published evaluation called an image without an answer 'healthy': one more false positive (D19)."""
    logits, labels = np.array([[2, -1], [-3, -1]], dtype=np.float32), np.array([0, 1])
    found = of(logits, labels)
    assert found["micro_f1_at_half"] == pytest.approx(2 / 3, abs=1e-6)  # with 'healthy' 1 / 2
    assert of(-np.abs(logits), labels)["micro_f1_at_half"] == 0.0


def test_predicting_everything_is_full_recall_but_poor_otherwise() -> None:
    """Why the published recall alone says little (D6)."""
    logits = np.tile(np.array([[3, 2, 1, 1]], dtype=np.float32), (8, 1))
    found = of(logits, np.arange(8) % 4)
    assert found["micro_recall_at_half"] == 1.0
    assert found["micro_f1_at_half"] == pytest.approx(0.4, abs=1e-6)
    assert found["accuracy"] == found["balanced_accuracy"] == 0.25
    assert found["macro_f1"] == pytest.approx(0.1, abs=1e-6)


def test_an_evaluation_knows_nothing_of_the_one_before() -> None:
    """The published metric was never reset: its values were means over all epochs so far (D7)."""
    good = np.array([[2, -2], [-2, 2]], dtype=np.float32)
    labels = np.array([0, 1])
    first = of(good, labels)
    bad = of(-good, labels)
    assert bad["micro_f1_at_half"] == bad["macro_f1"] == bad["accuracy"] == bad["auroc"] == 0.0
    assert of(good, labels) == first
    assert first["micro_f1_at_half"] == first["macro_f1"] == first["accuracy"] == first["auroc"] == 1.0


def test_a_class_that_the_evaluation_lacks() -> None:
    """Recall and AUROC are means over the classes that are there, as in scikit-learn; F1 counts a wrong class as 0."""
    logits = np.array([[3, 0, -1], [0, 2, -1], [0, 3, -2], [2, 1, -3]], dtype=np.float32)
    labels = np.array([0, 1, 1, 0])
    found = of(logits, labels)
    assert found["macro_f1"] == found["balanced_accuracy"] == found["accuracy"] == found["auroc"] == 1.0
    logits[0, 2] = 9
    found = of(logits, labels)
    assert found["confusion_matrix"] == [[1, 0, 1], [0, 2, 0], [0, 0, 0]]
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3, abs=1e-6)
    assert found["balanced_accuracy"] == pytest.approx(3 / 4, abs=1e-6)


def test_an_evaluation_of_one_class_has_no_auroc() -> None:
    found = of(np.eye(3, dtype=np.float32), np.zeros(3, dtype=np.int64))
    assert found["auroc"] is None
    assert found["balanced_accuracy"] == pytest.approx(1 / 3, abs=1e-6)


def test_values_are_plain_numbers_for_json() -> None:
    found = of(np.eye(3, dtype=np.float32), np.arange(3))
    assert {type(value) for name, value in found.items() if name not in ("n", "confusion_matrix")} == {float}
    assert type(found["n"]) is int and type(found["confusion_matrix"][0][0]) is int
