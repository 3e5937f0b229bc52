"""One step: which parameters decay, how gradients are clipped, and what each optimiser does."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from cass_tune.config import ARMS, Finetune, Pretrain
from cass_tune.training.loop import Stepper, make_optimiser
from tests import tiny

DECAYED = Pretrain(optimiser="adamw", weight_decay=0.1, learning_rate=0.01)
FOR_BOTH = pytest.mark.parametrize("kind", [Pretrain, Finetune])


def network(arm: str) -> nn.Module:
    model = tiny.arms()[arm]
    assert isinstance(model, nn.Module)
    return model


def stepper(arms: Mapping[str, nn.Module], config: Pretrain | Finetune) -> Stepper:
    return Stepper(arms, config, epoch_steps=4, seed=0, stream="test")


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def length(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))


@FOR_BOTH
def test_the_default_is_plain_adam_over_all_parameters_at_once(kind: type[Pretrain] | type[Finetune]) -> None:
    model = network("vit")
    optimiser = make_optimiser(model, kind())
    assert type(optimiser) is Adam
    (group,) = optimiser.param_groups
    assert (group["weight_decay"], group["fused"]) == (0, True)
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]


@pytest.mark.parametrize("arm", ARMS)
@FOR_BOTH
def test_adamw_holds_every_parameter_once_and_spares_biases_norms_and_positions(
    arm: str, kind: type[Pretrain] | type[Finetune]
) -> None:
    model = network(arm)
    optimiser = make_optimiser(model, kind(optimiser="adamw", weight_decay=0.1))
    assert type(optimiser) is AdamW
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(decay) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        is_spared = p.ndim == 1 or name in ("cls_token", "pos_embed")
        assert decay[id(p)] == (0.0 if is_spared else 0.1), name
    assert {0.0, 0.1} == set(decay.values())


@pytest.mark.parametrize("arm", ARMS)
def test_decay_is_decoupled_from_the_gradient(arm: str) -> None:
    """With a gradient of 0, a decayed parameter shrinks by learning rate times weight decay, and no other moves."""
    model = network(arm)
    before = tiny.state(model)
    one = stepper({arm: model}, DECAYED)
    one.begin(0)
    total = torch.stack([p.sum() for p in model.parameters()]).sum()
    one.end(0 * total)
    for name, p in model.named_parameters():
        is_spared = p.ndim == 1 or name in ("cls_token", "pos_embed")
        expected = before[name] if is_spared else before[name] * (1 - 0.01 * 0.1)
        torch.testing.assert_close(p.detach(), expected, msg=name)


def squares(arms: Mapping[str, nn.Module], factors: Mapping[str, float]) -> Tensor:
    """Return a loss whose gradient, of each arm, is the factor times the parameters."""
    of_arm = [factors[arm] / 2 * sum((p**2).sum() for p in model.parameters()) for arm, model in arms.items()]
    return torch.stack([torch.as_tensor(value) for value in of_arm]).sum()


@pytest.mark.parametrize("clip_norm", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_each_arms_gradient_is_clipped_by_its_own_length(clip_norm: float, optimiser: Any) -> None:
    """A long one keeps its direction; a short one, and every one at 0, stays as it is."""
    arms = {arm: network(arm) for arm in ARMS}
    factors = {"cnn": 3.0, "vit": 1e-3}
    own = {arm: factors[arm] * torch.cat([p.detach().flatten() for p in arms[arm].parameters()]) for arm in ARMS}
    assert length(own["cnn"]) > 10 and length(own["vit"]) < 0.5
    one = stepper(arms, Pretrain(optimiser=optimiser, clip_norm=clip_norm))
    one.begin(0)
    one.end(squares(arms, factors))
    expected = own["cnn"] / length(own["cnn"]) if clip_norm == 1 else own["cnn"]
    torch.testing.assert_close(gradients(arms["cnn"]), expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(gradients(arms["vit"]), own["vit"])


@pytest.mark.parametrize("arm", ARMS)
def test_a_step_is_torchs_clipping_and_adamw(arm: str) -> None:
    """Against the plainest form: three steps, each with its own learning rate."""
    config = Finetune(
        optimiser="adamw", weight_decay=0.1, clip_norm=1.0, schedule="cosine_to_end", epochs=2, warmup_epochs=1
    )
    model, steps = network(arm), 3
    plain = copy.deepcopy(model)
    spared = [p for name, p in plain.named_parameters() if p.ndim == 1 or name in ("cls_token", "pos_embed")]
    others = [p for name, p in plain.named_parameters() if not (p.ndim == 1 or name in ("cls_token", "pos_embed"))]
    reference = AdamW([{"params": others, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}])
    one = stepper({arm: model}, config)
    for step in range(steps):
        one.begin(step)
        one.end(squares({arm: model}, {arm: 1.0}))
        for group in reference.param_groups:
            group["lr"] = 3e-4 * (step + 1) / 4
        reference.zero_grad()
        squares({arm: plain}, {arm: 1.0}).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        reference.step()
        assert one.learning_rate == pytest.approx(3e-4 * (step + 1) / 4)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("config", [Pretrain(), DECAYED], ids=["adam", "adamw"])
def test_state_goes_back_to_the_parameters_that_it_came_from(config: Pretrain) -> None:
    arms = {arm: network(arm) for arm in ARMS}
    others = copy.deepcopy(arms)
    first, second = stepper(arms, config), stepper(others, config)
    for step in range(2):
        first.begin(step)
        first.end(squares(arms, {"cnn": 1.0, "vit": 1.0}))
    for arm in ARMS:
        others[arm].load_state_dict(arms[arm].state_dict())
    second.load({name: value.clone() for name, value in first.tensors().items()}, 2, first.scale())
    assert second.learning_rate == first.learning_rate
    for each, networks in ((first, arms), (second, others)):
        each.begin(2)
        each.end(squares(networks, {"cnn": 1.0, "vit": 1.0}))
    for arm in ARMS:
        assert tiny.same(arms[arm].state_dict(), others[arm].state_dict())
    assert tiny.same(first.tensors(), second.tensors())
