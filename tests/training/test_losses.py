"""The focal loss is the published formula; the class weights are the right way round and keyed by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cass_tune.training.losses import class_weights, focal_loss, targets
from tests import tiny


@settings(deadline=None, max_examples=50)
@given(
    logits=arrays(np.float64, (3, 4), elements=st.floats(-12, 12)),
    labels=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    weights=arrays(np.float64, 4, elements=st.floats(0.1, 5)),
    gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]),
)
def test_focal_loss_is_the_published_formula(
    logits: np.ndarray, labels: list[int], weights: np.ndarray, gamma: float
) -> None:
    value = focal_loss(torch.from_numpy(logits), torch.tensor(labels), torch.from_numpy(weights), gamma)
    expected = tiny.published_focal_loss(logits, labels, weights, gamma)
    assert float(value) == pytest.approx(expected, abs=1e-6)


def test_focal_loss_in_float32() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (16, 8)).astype(np.float32)
    labels = rng.integers(0, 8, 16)
    weights = rng.uniform(0.2, 3, 8).astype(np.float32)
    value = focal_loss(torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(weights), 2.0)
    assert float(value) == pytest.approx(tiny.published_focal_loss(logits, labels.tolist(), weights), abs=1e-6)


def test_a_class_weighs_its_positives_and_its_negatives() -> None:
    logits, weights = torch.zeros(1, 2), torch.tensor([1.0, 3.0])
    at_half = 0.25 * np.log(2)  # (1 - 0.5)^2 log 2 for either answer
    assert float(focal_loss(logits, torch.tensor([0]), weights, 2.0)) == pytest.approx((1 + 3) / 2 * at_half)
    assert float(focal_loss(logits, torch.tensor([1]), weights, 2.0)) == pytest.approx((1 + 3) / 2 * at_half)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("extreme", [17.0, 100.0, 1e30])
def test_loss_and_gradient_are_finite_for_extreme_outputs(gamma: float, extreme: float) -> None:
    logits = torch.tensor([[extreme, -extreme, 0.0], [-extreme, extreme, 0.0]], requires_grad=True)
    value = focal_loss(logits, torch.tensor([0, 0]), torch.ones(3), gamma)
    value.backward()
    assert logits.grad is not None
    assert value.isfinite() and logits.grad.isfinite().all()
    assert (logits.grad[:, 2] > 0).all()  # a half where the answer is no is pushed down


def test_several_labels_are_binary_problems_of_their_own() -> None:
    """The loss of an image with two labels, by hand: each label is right or wrong by itself."""
    logits, weights = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([1.0, 2.0, 4.0])
    multi_hot = torch.tensor([[1, 0, 1]])
    p = 1 / (1 + np.exp(-np.array([2.0, -1.0, 0.5])))
    right = np.where([True, False, True], p, 1 - p)
    expected = float(np.mean(weights.numpy() * -((1 - right) ** 2) * np.log(right)))
    assert float(focal_loss(logits, multi_hot, weights, 2.0)) == pytest.approx(expected, abs=1e-6)


def test_one_class_is_the_same_as_a_target() -> None:
    logits, weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, 2.0, 3.0])
    labels = torch.tensor([0, 2, 1, 1, 0])
    assert torch.equal(targets(labels, 3).argmax(dim=1), labels) and targets(targets(labels, 3), 3).ndim == 2
    assert torch.equal(focal_loss(logits, labels, weights, 2.0), focal_loss(logits, targets(labels, 3), weights, 2.0))


LABELS = ["nevus"] * 50 + ["melanoma"] * 10 + ["dermatofibroma"]


def test_class_weights_fall_with_the_count() -> None:
    classes = sorted(set(LABELS))
    weights = class_weights(LABELS, classes, "balanced")
    assert weights["nevus"] < weights["melanoma"] < weights["dermatofibroma"]
    assert weights == {name: pytest.approx(61 / (3 * LABELS.count(name))) for name in classes}


def test_class_weights_belong_to_names_not_to_places() -> None:
    expected = class_weights(LABELS, ["dermatofibroma", "melanoma", "nevus"], "balanced")
    assert class_weights(LABELS[::-1], ["nevus", "dermatofibroma", "melanoma"], "balanced") == expected


def test_equal_counts_and_none_weigh_one() -> None:
    assert class_weights(["a", "b", "b", "a"], ["a", "b"], "balanced") == {"a": 1.0, "b": 1.0}
    assert class_weights(LABELS, ["nevus", "melanoma"], "none") == {"nevus": 1.0, "melanoma": 1.0}


def test_an_image_weighs_for_each_of_its_labels() -> None:
    labels = [("a", "b"), ("a",), (), ("a", "b"), ("a", "c")]
    assert class_weights(labels, ["a", "b", "c"], "balanced") == {"a": 7 / 12, "b": 7 / 6, "c": 7 / 3}
