"""What holds for every method: resuming is exact, what should move moves, images can be learned, collapse shows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from cass_tune.config import ARMS
from cass_tune.methods import Progress
from cass_tune.methods.dino import DinoMethod
from cass_tune.methods.supervised import Supervised
from cass_tune.training.collapse import COLLAPSED_BELOW, HealthMonitor
from cass_tune.training.models import features
from cass_tune.training.pretrain import Pretraining
from cass_tune.training.rows import COLUMNS
from tests import tiny
from tests.methods.variants import VARIANTS, pretraining
from tests.training.pieces import numbers, trained_in_pieces

EVERY = pytest.mark.parametrize("name", VARIANTS)
METHODS = pytest.mark.parametrize("name", ["cass", "predictor", "supervised", "dino"])
EIGHT = tiny.listing({"train": {"cat": 4, "dog": 4}})
HEADS = ("fc.", "head.")
"""Of the networks of these tests: the layer that makes CASS's outputs, which other methods do not use."""


@EVERY
def test_a_run_interrupted_between_any_two_steps_goes_on_exactly(name: str) -> None:
    """In the middle of the first epoch, whose last layer is frozen, and of the second."""
    whole = pretraining(name)
    list(whole.run())
    for steps in (1, 3):
        training = trained_in_pieces(lambda: pretraining(name), steps)
        assert numbers(training.rows) == numbers(whole.rows)
        assert tiny.same(training.state().tensors, whole.state().tensors)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "dino_to_end"])
def test_a_longer_run_passes_through_the_states_of_a_shorter_one(name: str) -> None:
    short, long = pretraining(name, {"pretrain.epochs": 1}), pretraining(name)
    list(short.run())
    list(long.run(1))
    assert tiny.same(short.state().tensors, long.state().tensors)
    going_on = pretraining(name)
    going_on.load(short.state().on_cpu())
    assert numbers(going_on.run()) == numbers(long.run())
    assert tiny.same(going_on.state().tensors, long.state().tensors)


@METHODS
def test_loader_processes_change_no_number(name: str) -> None:
    alone, helped = pretraining(name, count=8), pretraining(name, count=8, workers=2)
    assert numbers(alone.run()) == numbers(helped.run())
    assert tiny.same(alone.state().tensors, helped.state().tensors)


def moved(training: Pretraining) -> set[str]:
    """Run a training and return the names of its tensors that have changed."""
    before = tiny.state(training.method)
    list(training.run())
    after = training.method.state_dict()
    return {name for name in after if not torch.equal(after[name], before[name])}


def parameters(training: Pretraining, *, without: tuple[str, ...] = ()) -> set[str]:
    names = (name for name, _ in training.method.named_parameters())
    return {name for name in names if not any(part in name for part in without)}


@EVERY
def test_what_should_move_moves_and_the_rest_does_not(name: str) -> None:
    """Every parameter, but the layer that only CASS uses and what DINO's unit norms hold."""
    training = pretraining(name)
    unused = () if training.method.has_common_outputs else tuple(f".{arm}.{head}" for arm in ARMS for head in HEADS)
    still = {n for n, _ in training.method.named_parameters() if n.startswith(("arms.", "students."))}
    still = {n for n in still if any(part in f".{n}" for part in unused)}
    still |= {n for n in parameters(training) if n.endswith("weight_g")}
    found = moved(training) & parameters(training)
    assert found == parameters(training) - still


@EVERY
def test_without_any_learning_rate_only_statistics_move(name: str) -> None:
    """Those of the batch norms, and DINO's centre: a control."""
    fields: dict[str, Any] = {"pretrain.learning_rate": 0.0}
    training = pretraining(name, fields, count=8)
    found = moved(training)
    assert found and not found & parameters(training)
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked", "center")) for name in found)


def test_weight_decay_follows_its_cosine_to_the_end() -> None:
    """On what decays at all, step by step; biases, norms and position embeddings never do."""
    training = pretraining("dino_to_end", {"pretrain.epochs": 4})
    found: list[list[float]] = []
    training._after_step = lambda: found.append(
        [group["weight_decay"] for o in training._stepper._optimisers for group in o.param_groups]
    )
    list(training.run())
    expected = [0.4 + (0.04 - 0.4) * (1 + torch.cos(torch.tensor(torch.pi * step / 8)).item()) / 2 for step in range(8)]
    assert len(found) == 8
    for values, decay in zip(found, expected, strict=True):
        assert values == pytest.approx([0.0, decay] * len(ARMS), rel=1e-6)


@pytest.mark.parametrize("name", ["cass", "predictor", "supervised"])
def test_eight_images_can_be_learned(name: str) -> None:
    """The loss falls clearly; with labels, every image is told. DINO's goal moves: `tests/methods/test_dino.py`."""
    fields = {"pretrain.epochs": 40, "pretrain.learning_rate": 1e-3, "pretrain.vit_learning_rate": 3e-4, "seed": 1}
    training = pretraining(name, fields, images=EIGHT, count=8)
    losses = [row["loss"] for row in training.run()]
    first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
    assert last < 0.7 * first if name != "predictor" else last < 0.8 * first, (first, last)
    if isinstance(training.method, Supervised):
        assert told(training, training.method) == {"cnn": 1.0, "vit": 1.0}


def told(training: Pretraining, method: Supervised) -> dict[str, float]:
    """Return the share of the images whose class each arm tells, by arm."""
    (batch,) = training._batches.evaluation(EIGHT.of_split("train"))
    method.eval()
    with torch.no_grad():
        images = normalised(training, batch.images)
        logits = {arm: method.heads[arm](features(method.arms[arm], images[arm])) for arm in ARMS}
    return {arm: float((logits[arm].argmax(dim=1) == batch.labels).float().mean()) for arm in ARMS}


def normalised(training: Pretraining, images: Tensor) -> dict[str, Tensor]:
    from cass_tune.data.loader import normalise_by_arm

    return normalise_by_arm(images, torch.device("cpu"), training._normalisation)


@EVERY
def test_a_constant_output_is_called_collapsed(name: str) -> None:
    """Networks that see one image again and again say the same of all."""
    training = pretraining(name)
    method = training.method.train()
    size = [tiny.SIZE_PX] * 2 + [16] if isinstance(method, DinoMethod) else [tiny.SIZE_PX]
    one = [{arm: torch.randn(1, 3, px, px).expand(16, -1, -1, -1) for arm in ARMS} for px in size]
    _, outputs = method.loss(one, torch.zeros(16, dtype=torch.int64), Progress(step=0, epoch=0, steps=4))
    monitor = HealthMonitor()
    monitor.add(outputs)
    health = monitor.measure(is_common=method.has_common_outputs, healthy_std=method.healthy_std)
    assert health.collapsed and max(health.feature_std.values()) < 0.01 * COLLAPSED_BELOW


@EVERY
def test_rows_of_every_method_have_the_same_columns(name: str) -> None:
    rows = list(pretraining(name, count=8).run())
    assert {tuple(row) for row in rows} == {COLUMNS}
    has_agreement = {row["agreement"] is not None for row in rows}
    assert has_agreement == {VARIANTS[name].get("pretrain.method", "cass") == "cass"}


@EVERY
def test_a_method_is_a_function_of_its_trial(name: str) -> None:
    """Whatever torch has drawn before, and whatever the first one does afterwards."""
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(copy.deepcopy(pretraining(name).method.state_dict()))
    assert tiny.same(*states)
