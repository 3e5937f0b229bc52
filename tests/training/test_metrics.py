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
        "macro_f1_at_half": sk.f1_score(one_hot, above_half, average="macro", zero_division=0),
        "auroc": sk.roc_auc_score(one_hot, scores, average="macro"),
        "auroc_by_class": pytest.approx(sk.roc_auc_score(one_hot, scores, average=None).tolist(), abs=1e-6),
        "mean_average_precision": sk.average_precision_score(one_hot, scores, average="macro"),
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
    of_float = set(found) - {"n", "confusion_matrix", "auroc_by_class"}
    assert {type(found[name]) for name in of_float} == {float} == set(map(type, found["auroc_by_class"]))
    assert type(found["n"]) is int and type(found["confusion_matrix"][0][0]) is int


@pytest.mark.parametrize("seed", range(10))
def test_several_labels_agree_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, images = int(rng.integers(2, 7)), int(rng.integers(12, 40))
    target = (rng.random((images, classes)) < 0.4).astype(np.int64)
    target[0], target[1] = 0, 1  # each label is there, and is not there
    logits = rng.normal(0, 2, target.shape).astype(np.float32)
    scores, given = 1 / (1 + np.exp(-logits.astype(np.float64))), logits > 0
    by_class = sk.roc_auc_score(target, scores, average=None)
    pairs = zip(target.T, given.T, strict=True)
    expected = {
        "micro_f1_at_half": sk.f1_score(target, given, average="micro"),
        "micro_recall_at_half": sk.recall_score(target, given, average="micro"),
        "macro_f1_at_half": sk.f1_score(target, given, average="macro", zero_division=0),
        "macro_f1": sk.f1_score(target, given, average="macro", zero_division=0),
        "balanced_accuracy": np.mean([sk.balanced_accuracy_score(true, said) for true, said in pairs]),
        "accuracy": sk.accuracy_score(target, given),
        "auroc": by_class.mean(),
        "auroc_by_class": by_class.tolist(),
        "mean_average_precision": sk.average_precision_score(target, scores, average="macro"),
        "n": images,
    }
    found = of(logits, target)
    assert found.keys() == expected.keys()
    assert found == {name: pytest.approx(value, abs=1e-5) for name, value in expected.items()}


def test_labels_that_nothing_defines_are_left_out_of_the_means() -> None:
    """The first label is right, the second no image has and none is given, the third all have."""
    logits = np.array([[2, -1, 1], [-2, -1, 2], [3, -3, -1]], dtype=np.float32)
    target = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1]])
    found = of(logits, target)
    assert found["auroc_by_class"] == [1.0, None, None] and found["auroc"] == 1.0
    assert found["macro_f1"] == pytest.approx((1 + 0.8) / 2) and found["mean_average_precision"] == 1.0
    assert found["balanced_accuracy"] == 1.0 and found["accuracy"] == pytest.approx(2 / 3)


def test_no_image_with_any_label() -> None:
    found = of(-np.ones((3, 2), np.float32), np.zeros((3, 2), np.int64))
    assert found["macro_f1"] == found["micro_f1_at_half"] == 0.0 and found["accuracy"] == 1.0
    assert found["auroc"] is found["mean_average_precision"] is found["balanced_accuracy"] is None
