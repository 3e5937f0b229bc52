"""The focal loss is the published formula; the class weights are the right way round and keyed by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cass_tune.training.losses import class_weights, focal_loss
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
