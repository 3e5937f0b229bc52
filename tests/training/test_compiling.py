"""Compiled networks: the same numbers each time, whatever interrupts them, and evaluations as without compiling."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from cass_tune.config import ARMS
from cass_tune.errors import UsageError
from cass_tune.training.compiling import FOLDER_ENV, blocks, check_compiling, set_compiling
from cass_tune.training.determinism import prepare_torch
from cass_tune.training.finetune import Finetuning
from cass_tune.training.pretrain import Pretraining
from tests import runs, tiny
from tests.methods import variants
from tests.training.pieces import numbers, trained_in_pieces

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


def test_a_trial_is_the_same_from_memory_and_from_the_store(tmp_path: Path) -> None:
    """What is compiled for the pretraining is not used for what follows."""
    fields = {"data.label_fraction": 0.05, "finetune.epochs": 1, "pretrain.epochs": 1, "pretrain.compile": True}
    trial = tiny.trial(fields)
    first = runs.run(trial, tmp_path).numbers()
    shutil.rmtree(tmp_path / "trials")
    again = runs.run(trial, tmp_path)
    assert all(row["reused"] for row in again.rows if row["phase"] == "pretrain")
    assert again.numbers() == first


SAY = "from tests.training import test_compiling as t; print(t.digest(t.finetuning()))"


def test_another_process_that_compiles_anew_computes_the_same(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop(FOLDER_ENV, None)
    environment["CASS_TUNE_CACHE"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", SAY], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == digest(finetuning())
    assert list((tmp_path / "compiled").iterdir()), "kernels are kept there"


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
