"""The CASS loss is the published formula, and both arms learn from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from cass_tune.methods import Progress
from cass_tune.methods.cass import Cass, cass_loss, variance_term
from tests import tiny

START = Progress(step=0, epoch=0)
PAIRS = arrays(np.float32, (2, 5, 7), elements=st.floats(-4, 4, width=32)).filter(
    lambda pair: np.linalg.norm(pair, axis=-1).min() > 1e-3
)


def published(cnn: np.ndarray, vit: np.ndarray) -> float:
    """2 - 2 cos of each image's two outputs, averaged over the batch, in float64."""
    distances = [2 - 2 * np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y)) for x, y in zip(cnn, vit, strict=True)]
    return sum(distances) / len(distances)


@settings(deadline=None, max_examples=50)
@given(pair=PAIRS)
def test_loss_is_the_published_formula(pair: np.ndarray) -> None:
    cnn, vit = pair.astype(np.float64)
    value = float(cass_loss(torch.from_numpy(cnn), torch.from_numpy(vit)))
    assert value == pytest.approx(published(cnn, vit), abs=1e-6)
    assert -1e-6 <= value <= 4 + 1e-6


def test_loss_in_float32_at_the_published_width() -> None:
    rng = np.random.default_rng(0)
    cnn, vit = (rng.normal(size=(16, 1000)).astype(np.float32) for _ in range(2))
    value = float(cass_loss(torch.from_numpy(cnn), torch.from_numpy(vit)))
    assert value == pytest.approx(published(cnn.astype(np.float64), vit.astype(np.float64)), abs=1e-6)


@pytest.mark.parametrize(("factor", "expected"), [(3.0, 0.0), (-0.5, 4.0)])
def test_ends_of_the_range(factor: float, expected: float) -> None:
    outputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(cass_loss(outputs, factor * outputs)) == pytest.approx(expected, abs=1e-12)


class Seen(nn.Module):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[Tensor] = []
        self.linear = nn.Linear(12, 3)

    def forward(self, images: Tensor) -> Tensor:
        self.images.append(images)
        return self.linear(images.flatten(1))


LABELS = torch.zeros(5, dtype=torch.int64)


def test_each_arm_gets_its_own_images() -> None:
    cnn, vit = Seen(), Seen()
    images = torch.randn(5, 3, 2, 2)
    method = Cass(tiny.BASE, nn.ModuleDict({"cnn": cnn, "vit": vit}), ())
    value, outputs = method.loss([{"cnn": images, "vit": 2 * images}], LABELS, START)
    assert torch.equal(cnn.images[0], images) and torch.equal(vit.images[0], 2 * images)
    assert torch.equal(outputs["cnn"], cnn.linear(images.flatten(1)))
    assert torch.equal(outputs["vit"], vit.linear(2 * images.flatten(1)))
    assert torch.equal(value, cass_loss(outputs["cnn"], outputs["vit"]))


def test_gradients_reach_every_layer_of_both_arms() -> None:
    arms = tiny.arms()
    images = torch.randn(4, 3, tiny.SIZE_PX, tiny.SIZE_PX)
    value, _ = Cass(tiny.BASE, arms, ()).loss([{"cnn": images, "vit": images}], LABELS, START)
    value.backward()
    for arm, network in arms.items():
        without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert without == [], arm
        assert sum(float(p.grad.abs().sum()) for p in network.parameters() if p.grad is not None) > 0, arm


def test_cass_alone_keeps_nothing_beside_the_arms() -> None:
    arms = tiny.arms()
    assert set(Cass(tiny.BASE, arms, ()).state_dict()) == {f"arms.{name}" for name in arms.state_dict()}


OUTPUTS = np.random.default_rng(0).normal(size=(2, 6, 8))
"""Of both arms for six images, float64."""


def sphere(outputs: np.ndarray) -> np.ndarray:
    return outputs / np.linalg.norm(outputs, axis=1, keepdims=True)


def vicreg(outputs: np.ndarray) -> float:
    """Equation 1 of VICReg, gamma 1 and epsilon 1e-4, of outputs on the sphere of radius sqrt(dimensions)."""
    scaled = sphere(outputs) * np.sqrt(outputs.shape[1])
    return float(np.maximum(0, 1 - np.sqrt(scaled.var(axis=0, ddof=1) + 1e-4)).mean())


def test_the_variance_term_is_vicregs() -> None:
    for outputs in (OUTPUTS[0], OUTPUTS[0] + 3, np.ones((6, 8))):
        assert float(variance_term(torch.from_numpy(outputs))) == pytest.approx(vicreg(outputs), abs=1e-9)
    assert vicreg(np.ones((6, 8))) == pytest.approx(0.99), "the most that it can be"


class Given(nn.Module):
    """Gives the same outputs, whatever it sees."""

    def __init__(self, outputs: np.ndarray) -> None:
        super().__init__()
        self.outputs = nn.Parameter(torch.from_numpy(outputs))

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs


def cass(fields: dict[str, object]) -> Cass:
    described = tiny.trial({"pretrain.embedding_dim": 8, **fields})
    arms = nn.ModuleDict({"cnn": Given(OUTPUTS[0]), "vit": Given(OUTPUTS[1])})
    return Cass(described, arms, ()).double()


VIEW = {arm: torch.zeros(6, 3, 8, 8) for arm in ("cnn", "vit")}


def test_the_variance_term_is_added_with_its_weight() -> None:
    method = cass({"pretrain.variance_weight": 2.5})
    value, _ = method.loss([VIEW], LABELS, START)
    expected = published(*OUTPUTS) + 2.5 * (vicreg(OUTPUTS[0]) + vicreg(OUTPUTS[1])) / 2
    assert float(value.detach()) == pytest.approx(expected, rel=1e-9)


def test_the_predictor_is_simsiams() -> None:
    """Algorithm 1: the mean of D(p1, z2) and D(p2, z1) with z held still; here of 2 - 2 cos, which is 2 + 2 D."""
    method = cass({"pretrain.predictor": True})
    value, outputs = method.loss([VIEW], LABELS, START)
    p = {arm: method.heads[arm](outputs[arm]).detach().numpy() for arm in ("cnn", "vit")}
    expected = (published(p["cnn"], OUTPUTS[1]) + published(OUTPUTS[0], p["vit"])) / 2
    assert float(value.detach()) == pytest.approx(expected, rel=1e-9)
    value.backward()
    for arm, other in (("cnn", "vit"), ("vit", "cnn")):
        z = torch.from_numpy(OUTPUTS[int(arm == "vit")]).requires_grad_()
        still = torch.from_numpy(OUTPUTS[int(other == "vit")])
        (cass_loss(method.heads[arm](z), still) / 2).backward()
        torch.testing.assert_close(method.arms[arm].outputs.grad, z.grad)


def test_the_predictor_is_as_wide_as_simsiams() -> None:
    shapes = [tuple(p.shape) for p in cass({"pretrain.predictor": True}).heads["cnn"].parameters() if p.dim() == 2]
    assert shapes == [(2, 8), (8, 2)]
