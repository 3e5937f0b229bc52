"""Supervised pretraining: cross-entropy of both arms, and its labels are those of the images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cass_tune.config import ARMS
from cass_tune.methods.base import Progress
from cass_tune.methods.supervised import Supervised
from cass_tune.training.models import features
from tests import tiny
from tests.methods.variants import LISTING, pretraining

CLASSES = ("a", "b", "c")
START = Progress(step=0, epoch=0)


def test_the_loss_is_the_cross_entropy_of_both_arms() -> None:
    described = tiny.trial({"pretrain.method": "supervised"})
    method = Supervised(described, tiny.arms(described), CLASSES)
    images = torch.randn(6, 3, tiny.SIZE_PX, tiny.SIZE_PX)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    method.train(False)  # the same features again below
    view = {"cnn": images, "vit": 2 * images}
    value, outputs = method.loss([view], labels, START)
    expected = 0.0
    for arm in ARMS:
        assert torch.equal(outputs[arm], features(method.arms[arm], view[arm])), "by which collapse is judged"
        logits = method.heads[arm](outputs[arm]).detach().double().numpy()
        assert logits.shape == (6, len(CLASSES))
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        expected -= float(np.log(probabilities[np.arange(6), labels.numpy()]).mean())
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)


def test_each_image_comes_with_its_own_label() -> None:
    training = pretraining("supervised")
    seen: list[tuple[int, int]] = []
    for batch in training._batches.training(LISTING.of_split("train"), 8, 1, drop_last=False):
        seen += zip(batch.positions.tolist(), batch.labels.tolist(), strict=True)
    assert {LISTING.classes[label] for _, label in seen} == set(LISTING.classes)
    assert all(LISTING.items[position].label == LISTING.classes[label] for position, label in seen)


def test_labels_matter() -> None:
    described = tiny.trial({"pretrain.method": "supervised"})
    method = Supervised(described, tiny.arms(described), CLASSES)
    view = {arm: torch.randn(3, 3, tiny.SIZE_PX, tiny.SIZE_PX) for arm in ARMS}
    losses = {float(method.loss([view], torch.tensor(labels), START)[0].detach()) for labels in ([0, 1, 2], [2, 1, 0])}
    assert len(losses) == 2
