"""Precisions: what is computed in which format, what stays float32, and that interruptions change nothing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cass_tune.config import ARMS, PRECISIONS, Change, Pretrain
from cass_tune.methods import in_float32
from cass_tune.methods.cass import Cass, cass_loss, variance_term
from cass_tune.training.determinism import prepare_torch
from cass_tune.training.finetune import Finetuning
from cass_tune.training.loop import Stepper
from cass_tune.training.precision import NARROW, Precision, contiguous
from cass_tune.training.pretrain import Pretraining
from tests import runs, tiny
from tests.methods import variants
from tests.training.pieces import numbers, trained_in_pieces

CPU = torch.device("cpu")
LISTING = tiny.listing(
    {"train": {"ant": 4, "bee": 9, "cow": 2}, "val": {"ant": 5, "bee": 5}, "test": {"ant": 3, "cow": 2}}
)
OTHERS = [name for name in PRECISIONS if name != "fp32"]
CLIPPED = {"optimiser": "adamw", "weight_decay": 0.05, "clip_norm": 0.5}


def pretraining(precision: str, **fields: Any) -> Pretraining:
    paths = {f"pretrain.{name}": value for name, value in {"precision": precision, **fields}.items()}
    return variants.pretraining("cass", paths)


def finetuning(arm: str, precision: str, **fields: Any) -> Finetuning:
    described = tiny.trial({f"finetune.{name}": value for name, value in {"precision": precision, **fields}.items()})
    batches = tiny.batches(LISTING, f"finetune/{arm}")
    return Finetuning(described, arm, tiny.arms(described)[arm], LISTING, tiny.parts(LISTING), batches)


def tf32() -> set[bool]:
    """Return whether float32 matrices may be multiplied as TF32, by cuBLAS and by cuDNN."""
    return {bool(torch.backends.cuda.matmul.allow_tf32), bool(torch.backends.cudnn.allow_tf32)}


# Interruptions


@pytest.mark.parametrize("fields", [{}, CLIPPED], ids=["plain", "clipped"])
@pytest.mark.parametrize("precision", OTHERS)
def test_a_pretraining_in_pieces_is_the_same(precision: str, fields: Mapping[str, Any]) -> None:
    whole = pretraining(precision, **fields)
    list(whole.run())
    training = trained_in_pieces(lambda: pretraining(precision, **fields), 1)
    assert numbers(training.rows) == numbers(whole.rows)
    assert tiny.same(training.state().tensors, whole.state().tensors)
    assert training.state().values["scale"] == whole.state().values["scale"]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("precision", OTHERS)
def test_a_finetuning_in_pieces_is_the_same(precision: str, arm: str) -> None:
    whole = finetuning(arm, precision)
    list(whole.run())
    training = trained_in_pieces(lambda: finetuning(arm, precision), 3)
    assert numbers(training.rows) == numbers(whole.rows)
    assert tiny.same(training.state().tensors, whole.state().tensors)
    assert training.state().values["scale"] == whole.state().values["scale"]


def test_moments_lie_in_memory_as_their_parameters_do_after_loading() -> None:
    """Fused kernels walk through both at once."""
    first, second = pretraining("bf16"), pretraining("bf16")
    next(first.run())
    second.load(first.state().on_cpu())
    state = second._stepper._optimisers[0].state
    kernels = {p: values for p, values in state.items() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1}
    assert len(kernels) > 3
    for parameter, values in kernels.items():
        assert parameter.is_contiguous(memory_format=torch.channels_last) and not parameter.is_contiguous()
        assert values["exp_avg"].stride() == values["exp_avg_sq"].stride() == parameter.stride()


def test_states_of_before_precisions_are_read() -> None:
    for make in (lambda: pretraining("fp32"), lambda: finetuning("vit", "fp32")):
        whole, second = make(), make()
        next(whole.run())
        state = whole.state().on_cpu()
        del state.values["scale"]  # type: ignore[attr-defined]
        second.load(state)
        list(whole.run())
        list(second.run())
        assert tiny.same(second.state().tensors, whole.state().tensors)


def test_finetuning_from_memory_and_from_the_store_is_the_same(tmp_path: Path) -> None:
    """A CNN's tensors lie in memory as its pretraining wanted; from the store they come as new ones do."""
    trial = tiny.trial({"data.label_fraction": 0.05, "pretrain.precision": "bf16", "finetune.epochs": 1})
    first = runs.run(trial, tmp_path).numbers()
    shutil.rmtree(tmp_path / "trials")
    again = runs.run(trial, tmp_path)
    assert all(row["reused"] for row in again.rows if row["phase"] == "pretrain")
    assert again.numbers() == first


# Formats


@pytest.mark.parametrize("precision", PRECISIONS)
def test_parameters_are_float32_and_only_the_cnns_lie_channels_last(precision: str) -> None:
    training = pretraining(precision)
    list(training.run())
    for arm in ARMS:
        parameters = list(training.arms[arm].parameters())
        assert {p.dtype for p in parameters} == {torch.float32}
        kernels = [p for p in parameters if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
        is_last = arm == "cnn" and precision != "fp32"
        assert kernels and all(p.is_contiguous() is not is_last for p in kernels), arm
    new = tiny.arms()["cnn"]
    strides = {name: p.stride() for name, p in new.named_parameters()}
    assert {name: p.stride() for name, p in contiguous(training.arms["cnn"]).named_parameters()} == strides


@pytest.mark.parametrize("precision", PRECISIONS)
def test_networks_compute_in_the_precision_and_losses_in_float32(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    loss_of = Cass.loss

    def recorded(self: Cass, *args: Any) -> Any:
        value, outputs = loss_of(self, *args)
        seen.extend((outputs[arm].dtype, value.dtype) for arm in ARMS)
        return value, outputs

    monkeypatch.setattr(Cass, "loss", recorded)
    list(pretraining(precision).run())
    assert set(seen) == {(NARROW.get(precision, torch.float32), torch.float32)}


@pytest.mark.parametrize("method", list(variants.VARIANTS))
def test_every_method_learns_the_same_in_bf16_but_for_rounding(method: str) -> None:
    crops = {"dino.local_crop_px": 32}  # smaller ones are wrong on some CPUs (`cass_tune.devices`)
    losses = {}
    for name in ("fp32", "bf16"):
        training = variants.pretraining(method, {**crops, "pretrain.precision": name})
        losses[name] = [row["loss"] for row in training.run()]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["bf16"] != losses["fp32"]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_an_evaluation_has_the_precision_of_its_training(precision: str, arm: str) -> None:
    first, other = finetuning(arm, "fp32"), finetuning(arm, precision)
    positions = LISTING.of_split("val")
    expected, found = first.evaluate(positions).outputs, other.evaluate(positions).outputs
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    assert torch.equal(found, found.to(NARROW[precision]).float()), "the last layer's outputs are narrow"
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("dtype", list(NARROW.values()))
def test_a_loss_in_float32_is_that_of_widened_outputs(dtype: torch.dtype) -> None:
    cnn, vit = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(cass_loss(cnn, vit), cass_loss(cnn.float(), vit.float()))
        assert torch.equal(variance_term(cnn), variance_term(cnn.float()))
        products = in_float32(lambda pairs, *, factor: factor * pairs[0] @ pairs[1].T)([cnn, vit], factor=2)
        labels = torch.arange(8)
        assert in_float32(F.cross_entropy)(cnn, labels).dtype == torch.float32
    assert torch.equal(products, 2 * cnn.float() @ vit.float().T)


def test_a_loss_in_float32_leaves_float64_alone() -> None:
    values = torch.randn(4, 8, dtype=torch.float64)
    assert in_float32(lambda given: given)(values) is values


def test_a_pass_without_gradients_does_not_cut_off_the_next() -> None:
    """Autocast's copies of weights, if kept, would have none (a teacher that is the student itself, for example)."""
    layer, images = nn.Linear(8, 8), torch.ones(2, 8)
    with Precision(name="bf16", device=CPU).forward():
        with torch.no_grad():
            target = layer(images)
        outputs = layer(images)
    (outputs.float() - target.float() - 1).square().sum().backward()
    assert layer.weight.grad is not None and float(layer.weight.grad.abs().sum()) > 0


# TF32


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tf32_is_allowed_in_the_steps_of_its_phase_alone(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, after = list[set[bool]](), list[set[bool]]()
    original = nn.Module.__call__

    def called(self: nn.Module, *args: Any, **named: Any) -> Any:
        forward.append(tf32())
        return original(self, *args, **named)

    monkeypatch.setattr(nn.Module, "__call__", called)
    monkeypatch.setattr(Stepper, "end", _recording_end(forward))
    for training in (pretraining(precision), finetuning("vit", precision)):
        forward.clear()
        training._after_step = lambda: after.append(tf32())
        for _ in training.run():
            after.append(tf32())
        assert forward and all(flags == {precision == "tf32"} for flags in forward)
    assert after and all(flags == {False} for flags in after)


def _recording_end(seen: list[set[bool]]) -> Any:
    end = Stepper.end

    def ended(self: Stepper, loss: Tensor) -> None:
        seen.append(tf32())
        end(self, loss)

    return ended


def test_tf32_is_taken_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), Precision(name="tf32", device=CPU).kernels():
        assert tf32() == {True}
        raise ZeroDivisionError
    assert tf32() == {False}


# float16's scaling


def stepper(model: nn.Module, **fields: Any) -> Stepper:
    return Stepper({"cnn": model}, Pretrain(**fields), epoch_steps=4, seed=0, stream="test")


def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_halved() -> None:
    model = nn.Linear(3, 1)
    before, one = tiny.state(model), stepper(model, precision="fp16")
    one.begin(0)
    one.end(model(torch.full((1, 3), 1e38)).sum() * 10)
    assert tiny.same(tiny.state(model), before)
    assert one.scale()["scale"] == 2.0**15
    one.begin(1)
    one.end(model(torch.ones(1, 3)).sum())
    assert not tiny.same(tiny.state(model), before)
    assert one.scale()["scale"] == 2.0**15


@pytest.mark.parametrize("fields", [{}, {"clip_norm": 0.5}, CLIPPED], ids=["plain", "clipped", "adamw"])
def test_the_scale_changes_no_step(fields: Mapping[str, Any]) -> None:
    """It is a power of two, and gradients are clipped by their length without it."""
    models = {name: nn.Linear(3, 1) for name in ("fp32", "fp16")}
    models["fp16"].load_state_dict(models["fp32"].state_dict())
    for name, model in models.items():
        one = stepper(model, precision=name, **fields)
        for step in range(3):
            one.begin(step)
            one.end(model(torch.tensor([[1.0, -2.0, 3.0]])).square().sum())
    assert tiny.same(models["fp16"].state_dict(), models["fp32"].state_dict())


def test_no_other_precision_scales() -> None:
    for name in PRECISIONS:
        assert bool(stepper(nn.Linear(3, 1), precision=name).scale()) is (name == "fp16")


def test_a_change_while_it_runs_keeps_the_scale() -> None:
    training = finetuning("vit", "fp16", epochs=3, changes=(Change(epoch=1, learning_rate=1e-4),))
    training._stepper._scaler.load_state_dict({**training._stepper.scale(), "scale": 2.0**7, "_growth_tracker": 5})
    rows = training.run()
    for _ in range(2):
        next(rows)
    assert training._stepper.scale()["scale"] == 2.0**7
    assert training._stepper.scale()["_growth_tracker"] > 5


# Kernels that are deterministic


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_attention_has_deterministic_kernels(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU only what is chosen can be seen; on the CPU, flash is another kernel, and deterministic."""
    for name in ("init", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *device: None)
    try:
        prepare_torch(torch.device(device), 1)
        enabled = [
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.cudnn_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
        ]
        assert enabled == ([False] * 3 if device == "cuda" else [True, True, False])
        assert torch.backends.cuda.math_sdp_enabled()
    finally:
        prepare_torch(CPU, 1)
