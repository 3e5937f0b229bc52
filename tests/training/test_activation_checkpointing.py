"""A training that computes activations again is the same training, bit for bit, and keeps fewer of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from cass_tune.config import ARMS
from cass_tune.data.loader import Batches
from cass_tune.errors import UsageError
from cass_tune.methods import method_class
from cass_tune.training.activation_checkpointing import (
    buffers_kept,
    can_checkpoint,
    check_checkpointing,
    set_checkpointing,
)
from cass_tune.training.finetune import Finetuning
from cass_tune.training.pretrain import Pretraining
from tests import tiny
from tests.methods.variants import DINO
from tests.training.pieces import Interruption, _interrupt_after, numbers

LISTING = tiny.listing({"train": {"cat": 9, "dog": 9}, "val": {"cat": 2, "dog": 2}})
POSITIONS = LISTING.of_split("train")
METHODS: Mapping[str, Mapping[str, Any]] = {
    "cass": {},
    "dino": {**DINO, "dino.local_crop_px": 32},
    "supervised": {"pretrain.method": "supervised"},
}
RANDOM: dict[str, Any] = {"drop_rate": 0.2, "drop_path_rate": 0.3}
"""Dropout and drop path, which draw anew when a block is computed again."""


def network(arm: str) -> nn.Module:
    torch.manual_seed(1)
    if arm == "cnn":
        return timm.create_model("test_resnet", num_classes=64, **RANDOM)
    return timm.create_model("test_vit", num_classes=64, img_size=32, proj_drop_rate=0.2, attn_drop_rate=0.2, **RANDOM)


def pretraining(fields: Mapping[str, Any], *, checkpointing: bool) -> Pretraining:
    described = tiny.trial(fields)
    arms = nn.ModuleDict({arm: network(arm) for arm in ARMS})
    views = method_class(described.pretrain.method).views(described)
    batches = Batches(tiny.pixels(LISTING), seed=0, stream="pretrain", views=views)
    return Pretraining(described, arms, batches, POSITIONS, checkpointing=checkpointing)


def finetuning(arm: str, *, checkpointing: bool) -> Finetuning:
    parts, batches = tiny.parts(LISTING), tiny.batches(LISTING, f"finetune/{arm}")
    return Finetuning(tiny.BASE, arm, network(arm), LISTING, parts, batches, checkpointing=checkpointing)


def finished(training: Pretraining | Finetuning) -> tuple[Mapping[str, Tensor], list[dict[str, Any]]]:
    rows = list(training.run())
    return {name: value.clone() for name, value in training.state().tensors.items()}, numbers(rows)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_pretraining_gives_the_same_parameters_buffers_moments_and_rows(method: str) -> None:
    kept, rows = finished(pretraining(METHODS[method], checkpointing=False))
    computed_again, rows_again = finished(pretraining(METHODS[method], checkpointing=True))
    assert any(name.endswith("num_batches_tracked") for name in kept)
    assert tiny.same(kept, computed_again)
    assert rows == rows_again


@pytest.mark.parametrize("arm", ARMS)
def test_a_finetuning_gives_the_same_parameters_buffers_moments_and_rows(arm: str) -> None:
    kept, rows = finished(finetuning(arm, checkpointing=False))
    computed_again, rows_again = finished(finetuning(arm, checkpointing=True))
    assert tiny.same(kept, computed_again)
    assert rows == rows_again


@pytest.mark.parametrize("first", [True, False])
def test_an_interrupted_training_goes_on_with_the_other_setting(first: bool) -> None:
    undisturbed, rows = finished(pretraining({}, checkpointing=False))
    training = pretraining({}, checkpointing=first)
    training._after_step = _interrupt_after(3)
    with pytest.raises(Interruption):
        list(training.run())
    other = pretraining({}, checkpointing=not first)
    other.load(training.state().on_cpu())
    found, _ = finished(other)
    assert tiny.same(undisturbed, found)
    assert rows == numbers(other.rows)


def gradients(model: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Return gradients and buffers after a step's backward pass, and the bytes that the forward pass kept."""
    saved = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = model(images).square().mean()
    with buffers_kept([model]):
        value.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return grads, dict(model.named_buffers()), saved


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet50", {"drop_path_rate": 0.1}),
        ("vit_base_patch16_384", {"img_size": 64, "depth": 2, "drop_path_rate": 0.1, "proj_drop_rate": 0.1}),
        ("convnext_atto", {"drop_path_rate": 0.1}),
        ("efficientnet_b0", {"drop_path_rate": 0.1}),
    ],
)
def test_the_papers_networks_have_equal_gradients_and_buffers_and_keep_less(
    name: str, arguments: Mapping[str, Any]
) -> None:
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        model = timm.create_model(name, num_classes=8, **arguments).train()
        set_checkpointing(model, enabled=checkpointing)
        found.append(gradients(model, images))
    (grads, buffers, saved), (grads_again, buffers_again, saved_again) = found
    assert grads and tiny.same(grads, grads_again)
    assert tiny.same(buffers, buffers_again)
    assert saved_again < saved / 2


def test_without_keeping_the_buffers_batch_norm_would_count_twice() -> None:
    """Why `buffers_kept` is needed."""
    model = network("cnn").train()
    set_checkpointing(model, enabled=True)
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    counts = {int(value) for name, value in model.named_buffers() if name.endswith("num_batches_tracked")}
    assert max(counts) == 2


def test_a_network_that_cannot_keeps_its_activations() -> None:
    model = nn.Linear(2, 2)
    assert not can_checkpoint(model)
    set_checkpointing(model, enabled=True)
    with pytest.raises(UsageError, match=r"--activation-checkpointing on: --pretrain.cnn own cannot compute"):
        check_checkpointing(model, "--pretrain.cnn own")
    assert can_checkpoint(network("vit"))
    assert not network("vit").grad_checkpointing
