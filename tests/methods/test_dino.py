"""DINO by algorithm 1 of its paper (arXiv 2104.14294), written out in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cass_tune.config import ARMS, Dino
from cass_tune.methods.base import Progress, View
from cass_tune.methods.dino import DinoMethod, _MultiCrop, local_crop_px
from cass_tune.training.models import features
from tests import tiny
from tests.methods.variants import DINO, pretraining

LABELS = torch.zeros(4, dtype=torch.int64)
OUTPUTS = 32


def method(**fields: Any) -> DinoMethod:
    described = tiny.trial({**DINO, **{f"dino.{name}": value for name, value in fields.items()}})
    torch.manual_seed(0)
    return DinoMethod(described, tiny.arms(described), ("cat", "dog")).train()


def crops(seed: int = 0, small: int = 1) -> list[View]:
    """Return two large and some small crops of four images."""
    rng = torch.Generator().manual_seed(seed)
    sizes = [tiny.SIZE_PX] * 2 + [16] * small
    return [{arm: torch.randn(4, 3, size, size, generator=rng) for arm in ARMS} for size in sizes]


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def paper(
    teacher: Sequence[np.ndarray], student: Sequence[np.ndarray], centre: np.ndarray, temperature: float
) -> tuple[float, np.ndarray]:
    """Return the loss and the next centre: H(t, s), mean over images and over all pairs of different views."""
    pairs = [(t, s) for t, s in itertools.product(range(len(teacher)), range(len(student))) if t != s]
    total = 0.0
    for t, s in pairs:
        target = softmax(teacher[t].astype(np.float64) - centre, temperature)
        total -= float((target * np.log(softmax(student[s].astype(np.float64), 0.1))).sum(axis=-1).mean())
    return total / len(pairs), 0.9 * centre + 0.1 * np.concatenate(teacher).astype(np.float64).mean(axis=0)


class Heard:
    """Keeps what a module returns, call by call."""

    def __init__(self, module: nn.Module) -> None:
        self.outputs: list[Tensor] = []
        module.register_forward_hook(lambda module, inputs, output: self.outputs.append(output.detach()))

    def views(self) -> list[np.ndarray]:
        """Return the outputs since it was asked last, view by view."""
        found = [part.numpy() for output in self.outputs for part in output.split(len(LABELS))]
        self.outputs.clear()
        return found


@pytest.mark.parametrize("small", [0, 3])
def test_the_loss_and_the_centre_are_the_papers(small: int) -> None:
    """Over steps of three epochs: the centre of one is used in the next, and the teacher's temperature warms up."""
    dino = method(local_crops=small)
    heard = {arm: (Heard(dino.teacher_heads[arm]), Heard(dino.heads[arm].last_layer)) for arm in ARMS}  # type: ignore[arg-type]
    centres: dict[str, np.ndarray] = {arm: np.zeros(OUTPUTS) for arm in ARMS}
    for epoch, temperature in enumerate((0.04, 0.07, 0.07)):
        value, _ = dino.loss(crops(epoch, small), LABELS, Progress(step=epoch, epoch=epoch))
        expected = 0.0
        for arm, (teacher, student) in heard.items():
            outputs = teacher.views(), student.views()
            assert [len(views) for views in outputs] == [2, 2 + small]
            of_arm, centres[arm] = paper(*outputs, centres[arm], temperature)
            expected += of_arm
            loss: Any = dino.losses[arm]
            assert loss.center.numpy().ravel() == pytest.approx(centres[arm], abs=1e-6)
        assert float(value.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_teacher_begins_as_the_student_and_gets_no_gradient() -> None:
    dino = method()
    for arm in ARMS:
        assert tiny.same(tiny.state(dino.students[arm]), tiny.state(dino.arms[arm]))
        assert tiny.same(tiny.state(dino.heads[arm]), tiny.state(dino.teacher_heads[arm]))
    value, _ = dino.loss(crops(), LABELS, Progress(step=0, epoch=1))
    value.backward()
    for arm in ARMS:
        of_teacher = [*dino.arms[arm].parameters(), *dino.teacher_heads[arm].parameters()]
        assert all(p.grad is None for p in of_teacher)
        names = [name for name, p in dino.trained(arm).named_parameters() if p.grad is None]
        unused = {f"0.{name}" for name, _ in dino.students[arm].named_parameters() if "head" in name or "fc" in name}
        assert set(names) <= unused | {"1.last_layer.weight_g"}, "the layer for CASS's outputs, and unit norms"


def test_the_teacher_is_the_moving_average_of_the_student() -> None:
    """In float64, over three steps whose momentum follows the paper's cosine to 1."""
    training = pretraining("dino", {"dino.momentum": 0.5, "dino.momentum_end": 1.0, "pretrain.epochs": 3}, count=8)
    dino = training.method
    assert isinstance(dino, DinoMethod)
    teachers = (dino.arms, dino.teacher_heads)
    students = (dino.students, dino.heads)
    expected = [p.detach().double() for module in teachers for p in module.parameters()]
    for step in range(3):
        next(training.run())
        momentum = 1 - 0.5 * (math.cos(math.pi * step / 3) + 1) / 2
        now = [p.detach().double() for module in students for p in module.parameters()]
        expected = [momentum * mean + (1 - momentum) * new for mean, new in zip(expected, now, strict=True)]
        found = [p.detach() for module in teachers for p in module.parameters()]
        for mean, parameter in zip(expected, found, strict=True):
            torch.testing.assert_close(parameter.double(), mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("fields", [{}, {"pretrain.optimiser": "adamw", "pretrain.weight_decay": 0.5}])
def test_the_last_layer_is_frozen_at_first(frozen: int, fields: dict[str, Any]) -> None:
    """Not even weight decay moves it."""
    training = pretraining("dino", {"dino.frozen_epochs": frozen, **fields}, count=8)
    heads: Any = training.method.heads
    layers = [heads[arm].last_layer.weight_v for arm in ARMS]
    before = [layer.detach().clone() for layer in layers]
    moved = []
    for _ in training.run():
        moved.append([not torch.equal(was, layer) for was, layer in zip(before, layers, strict=True)])
    assert moved == [[frozen == 0] * 2, [True] * 2]
    for arm in ARMS:
        assert torch.equal(heads[arm].last_layer.weight_g, torch.ones_like(heads[arm].last_layer.weight_g))


def test_what_is_published_is_the_teacher() -> None:
    training = pretraining("dino", count=8)
    list(training.run())
    dino = training.method
    assert isinstance(dino, DinoMethod) and training.arms is dino.arms
    stored = training.state().part("arms")
    for arm in ARMS:
        assert tiny.same({n.removeprefix(f"{arm}/"): v for n, v in stored.items() if n.startswith(f"{arm}/")},
                         dino.arms[arm].state_dict())  # fmt: skip
    assert not tiny.same(tiny.state(dino.arms), tiny.state(dino.students))


def test_crops_have_the_papers_number_and_sizes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    views = _MultiCrop(48, 24, 3)(image, np.random.default_rng(1))
    assert [view.shape for view in views] == [(px, px, 3) for px in (48, 48, 24, 24, 24)]
    assert {view.dtype for view in views} == {np.dtype(np.uint8)}
    assert len({view.tobytes() for view in views}) == 5


@pytest.mark.parametrize(("size", "expected"), [(224, 96), (384, 160), (32, 16), (96, 48), (16, 16)])
def test_small_crops_are_the_papers_share(size: int, expected: int) -> None:
    described = tiny.trial({"data.image_size_px": size})
    assert local_crop_px(described) == expected
    assert local_crop_px(tiny.trial({"dino.local_crop_px": 20})) == 20


def test_the_defaults_are_the_authors() -> None:
    found = Dino()
    assert (found.outputs, found.local_crops, found.momentum, found.momentum_end) == (65536, 8, 0.996, 1.0)
    assert (found.teacher_temperature, found.student_temperature, found.centre_momentum) == (0.04, 0.1, 0.9)
    assert found.frozen_epochs == 1


def test_eight_crops_can_be_learned() -> None:
    """With a teacher that stands still, the loss falls to the entropy of what it says, below which nothing can be."""
    still = {"momentum": 1.0, "momentum_end": 1.0, "centre_momentum": 0.9999}
    dino = method(**still, teacher_temperature=0.02, teacher_temperature_start=0.02)
    rng = torch.Generator().manual_seed(0)
    one = {arm: torch.randn(8, 3, tiny.SIZE_PX, tiny.SIZE_PX, generator=rng) for arm in ARMS}
    optimiser = torch.optim.Adam([p for arm in ARMS for p in dino.trained(arm).parameters()], lr=3e-4)
    losses: list[float] = []
    for step in range(40):
        value, _ = dino.loss([one, one], LABELS, Progress(step=step, epoch=1))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        dino.after_step(Progress(step=step, epoch=1))
        losses.append(float(value.detach()))
    least = sum(entropy(dino, arm, one[arm], 0.02) for arm in ARMS)
    assert 0 <= losses[-1] - least < 0.3 * (losses[0] - least)


def entropy(dino: DinoMethod, arm: str, images: Tensor, temperature: float) -> float:
    """Return the entropy of the teacher's outputs, mean over images, without the centre."""
    with torch.no_grad():
        logits = dino.teacher_heads[arm](features(dino.arms[arm], images)).double().numpy()
    targets = softmax(logits, temperature)
    return float(-(targets * np.log(targets)).sum(axis=-1).mean())
