"""Pretraining with the code's mistakes mended: every step changes both arms, by this batch's gradient alone."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from cass_tune.config import ARMS
from cass_tune.data.listing import Listing
from cass_tune.data.loader import Batch, Batches, normalise
from cass_tune.errors import Collapsed
from cass_tune.methods import METHODS
from cass_tune.methods.cass import cass_loss
from cass_tune.training import collapse
from cass_tune.training.loop import DivergedError
from cass_tune.training.pretrain import Pretraining
from cass_tune.training.rows import COLUMNS
from tests import tiny

LISTING = tiny.listing({"train": {"cat": 13, "dog": 9}})
POSITIONS = LISTING.of_split("train")
Fields = Mapping[str, Any]


def pretraining(
    fields: Fields | None = None, *, images: Listing = LISTING, count: int = 20, stop_on_collapse: bool = False
) -> Pretraining:
    described = tiny.trial({"pretrain.epochs": 1, **(fields or {})})
    positions = images.of_split("train")[:count]
    batches = tiny.batches(images, "pretrain", described.seed)
    return Pretraining(described, tiny.arms(described), batches, positions, stop_on_collapse=stop_on_collapse)


class Recorder:
    """The CASS method, remembering each batch and loss; ``factor`` scales the loss."""

    def __init__(self, factor: float = 1.0) -> None:
        self.losses: list[float] = []
        self.images: list[Tensor] = []
        self.factor = factor

    def loss(self, arms: nn.ModuleDict, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        outputs = {arm: arms[arm](images) for arm in ARMS}
        value = self.factor * cass_loss(outputs["cnn"], outputs["vit"])
        self.losses.append(float(value.detach()))
        self.images.append(images.clone())
        return value, outputs


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setitem(METHODS, "cass", recorder)
    return recorder


def test_the_optimisers_hold_exactly_the_arms_parameters() -> None:
    """The published optimisers held the parameters of models that had been thrown away (D1)."""
    training = pretraining()
    held = [[id(p) for group in o.param_groups for p in group["params"]] for o in training._stepper._optimisers]
    assert held == [[id(p) for p in training.arms[arm].parameters()] for arm in ARMS]


def test_the_first_step_changes_both_arms() -> None:
    """D1, by what it does: most parameters move by about the learning rate (those behind a zero do not)."""
    training = pretraining(count=8)
    before = {arm: dict(tiny.state(training.arms[arm])) for arm in ARMS}
    list(training.run())
    for arm in ARMS:
        network = training.arms[arm]
        assert isinstance(network, nn.Module)
        moved = [float((p.detach() - before[arm][name]).abs().max()) for name, p in network.named_parameters()]
        assert sum(5e-4 < distance < 2e-3 for distance in moved) > 0.5 * len(moved), arm


def reference(training: Pretraining, epochs: int, *, zero_grad: bool) -> dict[str, dict[str, Tensor]]:
    """Train copies of the arms in the plainest way with the same batches."""
    arms = copy.deepcopy(training.arms).train()
    config = training._config
    optimisers = [torch.optim.Adam(arms[arm].parameters(), lr=config.learning_rate, fused=True) for arm in ARMS]
    schedulers = [CosineAnnealingLR(o, T_max=16, eta_min=config.min_learning_rate) for o in optimisers]
    for epoch in range(1, epochs + 1):
        for batch in training._batches.training(training._positions, config.batch_size, epoch, drop_last=True):
            images = normalise(batch.images, torch.device("cpu"))
            if zero_grad:
                for optimiser in optimisers:
                    optimiser.zero_grad()
            cass_loss(arms["cnn"](images), arms["vit"](images)).backward()
            for optimiser, scheduler in zip(optimisers, schedulers, strict=True):
                optimiser.step()
                scheduler.step()
    return {arm: tiny.state(arms[arm]) for arm in ARMS}


def test_gradients_are_cleared_before_every_step() -> None:
    """Without zero_grad, as published, every step follows the sum of all gradients so far (D2)."""
    training = pretraining({"pretrain.epochs": 2})
    cleared = reference(training, 2, zero_grad=True)
    accumulated = reference(training, 2, zero_grad=False)
    list(training.run())
    for arm in ARMS:
        found = tiny.state(training.arms[arm])
        for name in found:
            torch.testing.assert_close(found[name], cleared[arm][name], rtol=1e-4, atol=1e-6)
        far = max(float((found[n] - accumulated[arm][n]).abs().max()) for n in found if found[n].is_floating_point())
        assert far > 1e-3, arm


def test_row_loss_is_the_mean_over_the_epoch(recorder: Recorder) -> None:
    """The published log showed the last batch's loss alone (D24)."""
    rows = list(pretraining({"pretrain.epochs": 2}).run())
    for row, losses in zip(rows, (recorder.losses[:2], recorder.losses[2:]), strict=True):
        assert row["loss"] == pytest.approx(sum(losses) / 2, abs=1e-6)
        assert abs(row["loss"] - losses[-1]) > 1e-4


@pytest.mark.parametrize(("count", "sizes"), [(20, [8, 8]), (16, [8, 8]), (8, [8]), (15, [8]), (17, [8, 8])])
def test_the_last_partial_batch_is_dropped(recorder: Recorder, count: int, sizes: list[int]) -> None:
    list(pretraining(count=count).run())
    assert [len(images) for images in recorder.images] == sizes


def test_every_epoch_has_another_order_and_other_views(recorder: Recorder) -> None:
    list(pretraining({"pretrain.epochs": 2}, count=16).run())
    first, second = torch.cat(recorder.images[:2]), torch.cat(recorder.images[2:])
    assert first.shape == second.shape
    assert not torch.equal(first, second)
    assert not torch.equal(first.sum(dim=(1, 2, 3)).sort().values, second.sum(dim=(1, 2, 3)).sort().values)


def test_the_learning_rate_is_stepped_every_batch() -> None:
    """The method's own schedule (D12) stays: after 17 steps it rises again."""
    training = pretraining({"pretrain.epochs": 9}, count=16)
    rates = [row["learning_rate"] for row in training.run()]
    optimiser = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = CosineAnnealingLR(optimiser, T_max=16, eta_min=1e-6)
    expected = []
    for step in range(18):
        if step % 2:  # the epoch's last step
            expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    assert rates == pytest.approx(expected, abs=1e-9)
    assert rates[7] < rates[6] and rates[8] < rates[0]


def test_a_longer_run_passes_through_the_states_of_a_shorter_one() -> None:
    short, long = pretraining(), pretraining({"pretrain.epochs": 2})
    list(short.run())
    rows = long.run()
    next(rows)
    assert tiny.same(tiny.state(short.arms), tiny.state(long.arms))


def test_pretraining_does_not_depend_on_torchs_generator() -> None:
    states = []
    for seed in (1, 2):
        training = pretraining()
        torch.manual_seed(seed)
        list(training.run())
        states.append(tiny.state(training.arms))
    assert tiny.same(*states)


class Quiet(Batches):
    """A loader that may give only the positions it was made for."""

    def training(self, *args: Any, **kwargs: Any) -> Iterator[Batch]:
        for batch in super().training(*args, **kwargs):
            assert set(batch.positions.tolist()) <= set(POSITIONS[3:15])
            yield batch


def test_only_the_given_images_are_seen() -> None:
    batches = Quiet(tiny.pixels(LISTING), seed=0, stream="pretrain")
    training = Pretraining(tiny.trial(), tiny.arms(), batches, POSITIONS[3:15], stop_on_collapse=False)
    assert len(list(training.run())) == 2


def test_rows() -> None:
    rows = list(pretraining({"pretrain.epochs": 2}).run())
    assert [(tuple(row), row["phase"], row["epoch"], row["epochs"]) for row in rows] == [
        (COLUMNS, "pretrain", 1, 2),
        (COLUMNS, "pretrain", 2, 2),
    ]
    known = {name for name, value in rows[0].items() if value is not None}
    assert {"loss", "cnn_feature_std", "vit_feature_std", "cnn_effective_rank", "agreement", "seconds"} <= known
    assert rows[0]["collapsed"] is False and rows[0]["reused"] is False
    assert rows[0]["macro_f1"] is None and rows[0]["validation_loss"] is None


def test_collapse_is_a_warning_after_every_epoch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(collapse, "COLLAPSED_BELOW", 10.0)
    rows = list(pretraining({"pretrain.epochs": 2}).run())
    assert [row["collapsed"] for row in rows] == [True, True]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "nearly constant after epoch 2" in caplog.text


def test_collapse_stops_after_its_row_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapse, "COLLAPSED_BELOW", 10.0)
    rows = pretraining({"pretrain.epochs": 2}, stop_on_collapse=True).run()
    assert next(rows)["collapsed"] is True
    with pytest.raises(Collapsed, match="after epoch 1"):
        next(rows)


def test_divergence_has_its_own_error() -> None:
    with pytest.raises(DivergedError, match="try a lower learning rate"):
        list(pretraining({"pretrain.learning_rate": 1e30, "pretrain.embedding_dim": 1000}).run())
