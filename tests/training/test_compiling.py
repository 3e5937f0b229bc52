"""Compiled networks: the same numbers each time, whatever interrupts them, and evaluations as without compiling."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from cass_tune import probe_steps
from cass_tune.config import ARMS
from cass_tune.errors import UsageError
from cass_tune.training.compiling import FOLDER_ENV, as_written, blocks, check_compiling, set_compiling
from cass_tune.training.determinism import prepare_torch
from cass_tune.training.feature_probes import Features, extract
from cass_tune.training.finetune import Finetuning
from cass_tune.training.pretrain import Pretraining
from tests import runs, tiny
from tests.compilers import needs_compiler
from tests.methods import variants
from tests.training.pieces import Interruption, numbers, trained_in_pieces

pytestmark = needs_compiler

LISTING = tiny.listing({"train": {"cat": 8, "dog": 7}, "val": {"cat": 2, "dog": 3}, "test": {"cat": 2, "dog": 2}})
"""Two batches of 8 and 7 images."""
COMPILED = {"pretrain.compile": True, "finetune.compile": True}


def pretraining(name: str = "cass", fields: Mapping[str, Any] | None = None) -> Pretraining:
    return variants.pretraining(name, {**COMPILED, "dino.local_crops": 0, **(fields or {})})


def finetuning(*, compiled: bool = True, checkpointing: bool = False) -> Finetuning:
    described = tiny.trial({"finetune.compile": compiled})
    parts, batches = tiny.parts(LISTING), tiny.batches(LISTING, "finetune/vit")
    return Finetuning(
        described, "vit", tiny.arms(described)["vit"], LISTING, parts, batches, checkpointing=checkpointing
    )


def graphs() -> int:
    """Return how many functions torch has compiled in this process."""
    return counters["stats"]["unique_graphs"]


def finished(training: Pretraining | Finetuning) -> tuple[Mapping[str, Tensor], list[dict[str, Any]]]:
    rows = list(training.run())
    return {name: value.clone() for name, value in training.state().tensors.items()}, numbers(rows)


def digest(training: Pretraining | Finetuning) -> str:
    """Return what stands for all the numbers of a training, which is run."""
    prepare_torch(torch.device("cpu"), 1)
    state, rows = finished(training)
    content = b"".join(state[name].contiguous().numpy().tobytes() for name in sorted(state))
    return hashlib.sha256(content + json.dumps(rows).encode()).hexdigest()


def are_compiled(model: nn.Module) -> set[bool]:
    return {block._compiled_call_impl is not None for block in blocks(model)}


# Numbers


@pytest.fixture(scope="module")
def whole() -> tuple[Mapping[str, Tensor], list[dict[str, Any]]]:
    """An uninterrupted pretraining."""
    return finished(pretraining())


def test_a_pretraining_in_pieces_is_the_same(whole: tuple[Mapping[str, Tensor], list[dict[str, Any]]]) -> None:
    training = trained_in_pieces(pretraining, 1)
    assert numbers(training.rows) == whole[1]
    assert tiny.same(training.state().tensors, whole[0])


def test_activations_that_are_computed_again_are_the_same(
    whole: tuple[Mapping[str, Tensor], list[dict[str, Any]]],
) -> None:
    training = pretraining()
    again = Pretraining(training.method.trial, tiny.arms(), training._batches, training._positions, checkpointing=True)
    state, rows = finished(again)
    assert tiny.same(state, whole[0]) and rows == whole[1]


def test_a_compiled_pretraining_differs_by_rounding_alone(
    whole: tuple[Mapping[str, Tensor], list[dict[str, Any]]],
) -> None:
    state, rows = finished(pretraining(fields={"pretrain.compile": False}))
    assert state.keys() == whole[0].keys()
    assert [row["loss"] for row in whole[1]] == pytest.approx([row["loss"] for row in rows], rel=1e-3)
    running = [name for name in state if name.endswith("running_mean")]
    assert running and all(torch.allclose(state[name], whole[0][name], atol=1e-2) for name in running)


def test_a_compiled_pretraining_is_one(whole: tuple[Mapping[str, Tensor], list[dict[str, Any]]]) -> None:
    assert graphs() >= 5, "four stages of the CNN, and the blocks of the ViT"


def test_a_finetuning_in_pieces_is_the_same_and_compiles_whole_batches_alone() -> None:
    one = finetuning()
    assert are_compiled(one.model) == {True}
    state, rows = finished(one)
    after = graphs()
    assert after > 0
    training = trained_in_pieces(finetuning, 3)
    assert numbers(training.rows) == rows
    assert tiny.same(training.state().tensors, state)
    again, rows_again = finished(finetuning(checkpointing=True))
    assert tiny.same(again, state) and rows_again == rows
    assert graphs() == after, "a last batch of 7, evaluations of 5 and 4 images and later objects compile nothing"

    plain = finetuning(compiled=False)
    plain.model.load_state_dict(one.model.state_dict())
    assert torch.equal(one.evaluate(range(19)).outputs, plain.evaluate(range(19)).outputs)


@pytest.mark.parametrize("name", ["supervised", "dino"])
def test_what_a_method_trains_is_compiled(name: str) -> None:
    smaller = {"pretrain.batch_size": 4 if name == "dino" else 8}  # of which each student sees two crops at once
    training = pretraining(name, smaller)
    assert all(are_compiled(training.method.trained(arm)) == {True} for arm in ARMS)
    assert are_compiled(training.arms) == {name == "supervised"}, "the teachers of DINO are copied, not trained"
    rows = list(training.run())
    plain = list(pretraining(name, {**smaller, "pretrain.compile": False}).run())
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in plain], rel=1e-3)


def test_a_trial_is_the_same_from_memory_and_from_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled for the pretraining is not used for what follows."""
    probed: list[set[bool]] = []

    def extracted(model: nn.Module, *args: Any) -> Features:
        probed.append(are_compiled(model))
        return extract(model, *args)

    monkeypatch.setattr(probe_steps, "extract", extracted)
    fields = {"data.label_fraction": 0.05, "finetune.epochs": 1, "pretrain.epochs": 1, "pretrain.compile": True}
    trial = tiny.trial(fields)
    first = runs.run(trial, tmp_path, probes=("knn",)).numbers()
    shutil.rmtree(tmp_path / "trials")
    again = runs.run(trial, tmp_path)
    assert all(row["reused"] for row in again.rows if row["phase"] == "pretrain")
    assert again.numbers() == first
    assert probed == [{False}] * 6, "three parts of the data by each arm"


SAY = "from tests.training import test_compiling as t; print(t.digest(t.finetuning()))"


def test_another_process_that_compiles_anew_computes_the_same(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop(FOLDER_ENV, None)
    environment["CASS_TUNE_CACHE"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", SAY], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == digest(finetuning())
    assert list((tmp_path / "compiled").iterdir()), "kernels are kept there"


class Dropping(nn.Module):
    """A block that draws, and that is of another kind for every factor."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(8, 8)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(self.linear(images), 0.5) * self.factor


class Blocks(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Dropping(factor) for factor in range(1, count + 1))

    def group_matcher(self) -> dict[str, str]:
        return {"blocks": r"^blocks\.(\d+)"}

    def forward(self, images: Tensor) -> list[Tensor]:
        return [block(images) for block in self.blocks]


def in_a_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def outputs_and_gradient(model: nn.Module, batch: int) -> tuple[Tensor, Tensor]:
    """Return what a network makes of images, and their gradient, which another thread computes, as on a GPU."""
    images = torch.ones(batch, 8, requires_grad=True)
    torch.manual_seed(0)
    outputs = torch.stack(model(images))
    in_a_thread(outputs.square().sum().backward)
    assert images.grad is not None
    return outputs.detach(), images.grad


def test_every_thread_compiles_all_its_kinds_of_block_and_draws_as_without() -> None:
    """Ray runs each trial of a worker in a thread of its own, and torch keeps its settings by thread."""
    set_compiling(Blocks(1), enabled=True)
    torch.manual_seed(0)
    model = Blocks(9)
    plain = copy.deepcopy(model)

    def trial() -> tuple[Tensor, Tensor]:
        set_compiling(model, enabled=True)
        return outputs_and_gradient(model, 3)

    before = graphs()
    found = in_a_thread(trial)
    assert graphs() == before + 9, "torch's own limit is 8"
    for one, other in zip(found, outputs_and_gradient(plain, 3), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_what_ends_an_evaluation_leaves_training_compiled() -> None:
    training = finetuning()
    list(training.run())
    training._after_step = in_the_middle
    with pytest.raises(Interruption):
        training.evaluate(range(19))
    before, model = graphs(), Blocks(1)
    set_compiling(model, enabled=True)
    model(torch.ones(5, 8))
    assert graphs() > before


def in_the_middle() -> None:
    raise Interruption


# Networks


def test_switching_it_off_and_copying_leave_nothing() -> None:
    model = tiny.arms()["vit"]
    names = list(model.state_dict())
    set_compiling(model, enabled=True)
    assert are_compiled(model) == {True} and list(model.state_dict()) == names
    assert are_compiled(copy.deepcopy(model)) == {False}
    set_compiling(model, enabled=False)
    assert are_compiled(model) == {False}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet50", 16),
        ("vit_base_patch16_384", 12),
        ("deit3_small_patch16_224", 12),
        ("convnext_tiny", 18),
        ("efficientnet_b0", 16),
        ("swin_tiny_patch4_window7_224", 12),
    ],
)
def test_the_blocks_of_a_network(name: str, count: int) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert len(blocks(model)) == count
    check_compiling(model, name)


@pytest.mark.parametrize("name", ["inception_v3", "cait_xxs24_224", "hrnet_w18", "coat_tiny", "caformer_s18"])
def test_a_network_whose_blocks_timm_does_not_name_is_trained_as_ever(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    set_compiling(model, enabled=False)
    with as_written(model), pytest.raises(UsageError, match="timm does not say which blocks"):
        check_compiling(model, name)


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--compile on: timm does not say which blocks --pretrain.cnn own has"):
        check_compiling(nn.Linear(2, 2), "--pretrain.cnn own")


def test_a_missing_compiler_is_said(tmp_path: Path) -> None:
    from cass_tune.compile_speed import check_apart

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", str(tmp_path / "no-compiler"))
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
        with pytest.raises(UsageError, match=r"torch.compile does not work here: .* needs a C\+\+ compiler") as caught:
            check_apart("cpu")
    assert "no-compiler" in str(caught.value)
