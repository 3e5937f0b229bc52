"""The probe's readings of a GPU's memory, whose counters and limit are imitated here: there is no GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cass_tune import probe as probe_module
from cass_tune.config import Trial, to_json
from cass_tune.memory import Card, shape
from cass_tune.probe import Measured, probe
from cass_tune.training.card_memory import is_out_of_memory
from tests import tiny

GIB = 2**30
CARD = Card(name="NVIDIA Test", total_gib=1.0)


class FakeCard:
    """Counts what autograd keeps in a step as a GPU's allocator would count it, and has only so much memory."""

    limit_gib: float = float("inf")

    def __init__(self) -> None:
        self.used = self.most = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the place of the GPU's counters."""
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: self.restart())
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda *_: 0)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: self.most)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
        monkeypatch.setattr(probe_module, "card", lambda: CARD)
        monkeypatch.setattr(probe_module, "Batches", _unpinned(probe_module.Batches))
        begin = probe_module._Arms.__init__
        trained = probe_module._Steps._train

        def on_card(arms: Any, device: torch.device) -> None:
            begin(arms, device)
            arms.are_on_card = True

        def counted(steps: Any, batch_size: int, images: int, after_step: Callable[[], None]) -> None:
            def after() -> None:
                self.used = 0
                after_step()

            with torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor):
                trained(steps, batch_size, images, after)

        monkeypatch.setattr(probe_module._Arms, "__init__", on_card)
        monkeypatch.setattr(probe_module._Steps, "_train", counted)

    def restart(self) -> None:
        self.used = self.most = 0

    def keep(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            self.used += tensor.numel() * tensor.element_size()
        self.most = max(self.most, self.used)
        if self.used > self.limit_gib * GIB:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return tensor


def _unpinned(make: Any) -> Any:
    return lambda *arguments, **named: make(*arguments, **{**named, "pin_memory": False})


def probed(described: Trial, phases: Sequence[str] = ("pretrain",), modes: Sequence[bool] = (False, True)) -> Measured:
    wanted = [(described, phase) for phase in phases]
    return probe(wanted, device="cpu", threads=1, workers=0, limit_s=600, modes=modes)


def readings(found: Measured) -> dict[tuple[int, bool], float | None]:
    return {(reading.batch_size, reading.checkpointing): reading.gib for reading in found.readings}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCard:
    found = FakeCard()
    found.install(monkeypatch)
    return found


@pytest.mark.usefixtures("fake")
def test_what_fits_is_read_once_with_its_card_and_shape() -> None:
    found = probed(tiny.BASE, ["pretrain", "finetune_vit"])
    assert found.card == CARD and found.problems == []
    expected = {(phase, size) for phase in ("pretrain", "finetune_vit") for size in (2, 8)}
    assert {(reading.shape[0], reading.batch_size) for reading in found.readings} == expected
    assert {reading.shape for reading in found.readings} == {
        shape(to_json(tiny.BASE), phase) for phase in ("pretrain", "finetune_vit")
    }
    for reading in found.readings:
        assert not reading.checkpointing and reading.gib is not None and 0 < reading.gib < 1


def test_a_batch_that_does_not_fit_is_tried_with_checkpointing(fake: FakeCard) -> None:
    """Which keeps less: the limit lies between."""
    described = tiny.trial({"pretrain.batch_size": 32})
    without = readings(probed(described, modes=[False]))[32, False]
    again = readings(probed(described, modes=[True]))[32, True]
    assert without and again and again < 0.8 * without
    fake.limit_gib = (without + again) / 2
    found = probed(described)
    assert readings(found)[32, False] is None
    assert readings(found)[32, True] == again
    assert len(found.per_image) == 1


def test_one_that_never_fits_leaves_two_points_of_a_line(fake: FakeCard) -> None:
    four = readings(probed(tiny.trial({"pretrain.batch_size": 4}), modes=[False]))[4, False]
    assert four is not None
    fake.limit_gib = 1.5 * four
    found = readings(probed(tiny.trial({"pretrain.batch_size": 64})))
    assert found[64, False] is None and found[64, True] is None
    assert all(found[size, mode] is not None for size in (2, 4) for mode in (False, True))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("Allocation on device"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (MemoryError("out of memory"), False),
        (ValueError("no luck"), False),
    ],
)
def test_what_a_shortage_of_memory_looks_like(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
