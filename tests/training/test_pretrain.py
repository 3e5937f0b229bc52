"""Pretraining with the code's mistakes mended: every step changes both arms, by this batch's gradient alone."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from cass_tune.config import ARMS
from cass_tune.data.listing import Listing
from cass_tune.data.loader import IMAGENET, Batch, Batches, normalise
from cass_tune.errors import Collapsed
from cass_tune.methods import View
from cass_tune.methods.cass import Cass, cass_loss
from cass_tune.presets import RECIPES as NAMED
from cass_tune.training import collapse
from cass_tune.training.loop import DivergedError
from cass_tune.training.pretrain import Pretraining
from cass_tune.training.rows import COLUMNS
from tests import tiny
from tests.training.pieces import numbers, trained_in_pieces

LISTING = tiny.listing({"train": {"cat": 13, "dog": 9}})
POSITIONS = LISTING.of_split("train")
Fields = Mapping[str, Any]
CORRECTED = NAMED["corrected"]
RECIPES = pytest.mark.parametrize("recipe", list(NAMED.values()), ids=list(NAMED))


def pretraining(
    fields: Fields | None = None, *, images: Listing = LISTING, count: int = 20, stop_on_collapse: bool = False
) -> Pretraining:
    described = tiny.trial({"pretrain.epochs": 1, **(fields or {})})
    positions = images.of_split("train")[:count]
    batches = tiny.batches(images, "pretrain", described.seed)
    return Pretraining(described, tiny.arms(described), batches, positions, stop_on_collapse=stop_on_collapse)


class Recorder:
    """What CASS was given in each step, and its losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.images: list[Tensor] = []
        self.seen: list[View] = []

    def add(self, views: Sequence[View], loss: Tensor) -> None:
        (view,) = views
        self.losses.append(float(loss.detach()))
        self.images.append(view["cnn"].clone())
        self.seen.append(view)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder, loss_of = Recorder(), Cass.loss

    def recorded(self: Cass, views: Sequence[View], *rest: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        value, outputs = loss_of(self, views, *rest)
        recorder.add(views, value)
        return value, outputs

    monkeypatch.setattr(Cass, "loss", recorded)
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


OTHER_CNN = "test_efficientnet.r160_in1k"
"""A network with ImageNet's mean and std in its timm configuration; the ViT's are a half."""


def test_both_arms_get_one_tensor_normalised_as_published(recorder: Recorder) -> None:
    """ImageNet's mean and std, also for a transformer that asks for others (D23)."""
    training = pretraining()
    (batch, *_) = training._batches.training(training._positions, 8, 1, drop_last=True)
    list(training.run())
    assert all(images["cnn"] is images["vit"] for images in recorder.seen)
    assert torch.equal(recorder.images[0], normalise(batch.images, torch.device("cpu"), IMAGENET))


def test_each_arm_gets_the_same_view_in_its_own_normalisation(recorder: Recorder) -> None:
    training = pretraining({"data.normalisation": "model", "pretrain.cnn": OTHER_CNN})
    (batch, *_) = training._batches.training(training._positions, 8, 1, drop_last=True)
    list(training.run())
    raw = batch.images.double() / 255
    assert not torch.equal(recorder.seen[0]["cnn"], recorder.seen[0]["vit"])
    torch.testing.assert_close(recorder.seen[0]["vit"].double(), raw * 2 - 1, rtol=0, atol=1e-6)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    torch.testing.assert_close(recorder.seen[0]["cnn"].double(), (raw - mean) / std, rtol=0, atol=1e-5)


def test_arms_with_equal_constants_share_one_tensor(recorder: Recorder) -> None:
    list(pretraining({"data.normalisation": "model"}).run())
    assert all(images["cnn"] is images["vit"] for images in recorder.seen)
    assert -1 <= float(recorder.images[0].min()) < float(recorder.images[0].max()) <= 1


def rates(training: Pretraining) -> list[list[float]]:
    """Return a list that fills with the learning rates of both arms in every step."""
    found: list[list[float]] = []
    end = training._stepper.end

    def watched(loss: Tensor) -> None:
        of_arm = [{group["lr"] for group in o.param_groups} for o in training._stepper._optimisers]
        assert all(len(values) == 1 for values in of_arm)
        found.append([value for values in of_arm for value in values])
        end(loss)

    training._stepper.end = watched  # type: ignore[method-assign]
    return found


def test_each_arm_has_its_own_learning_rate() -> None:
    """Two steps an epoch: one of warm-up, one constant, one of decay."""
    training = pretraining({"pretrain.epochs": 3, **CORRECTED, "pretrain.min_learning_rate": 1e-5})
    found = rates(training)
    rows = list(training.run())
    decayed = [1e-5 + (highest - 1e-5) * (1 - 0.5**0.5) for highest in (1e-3, 1e-4)]
    expected = [[5e-4, 5e-5], *[[1e-3, 1e-4]] * 4, decayed]
    assert [rate for pair in found for rate in pair] == pytest.approx([rate for pair in expected for rate in pair])
    assert [row["learning_rate"] for row in rows] == [cnn for cnn, _ in found[1::2]], "that of the CNN"


def in_parts(training: Pretraining, ends: Iterable[int | None]) -> list[dict[str, Any]]:
    return [row for until in ends for row in training.run(until)]


@RECIPES
def test_parts_of_a_run_equal_the_whole(recipe: Fields) -> None:
    fields = {"pretrain.epochs": 5, **recipe}
    whole, parts = pretraining(fields), pretraining(fields)
    expected = list(whole.run())
    seen = parts.run(2)
    next(seen)
    found = [parts.rows[0], *seen]
    assert (parts.epoch, len(found)) == (2, 2)
    found += in_parts(parts, (2, 3, None, None, 5))
    assert numbers(found) == numbers(expected) == numbers(parts.rows)
    assert tiny.same(parts.state().tensors, whole.state().tensors)


def test_a_collapsed_epoch_is_said_once_however_the_run_is_divided(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(collapse, "COLLAPSED_BELOW", 10.0)
    training = pretraining({"pretrain.epochs": 3})
    in_parts(training, (1, 1, 3, None))
    assert re.findall(r"after epoch (\d)", caplog.text) == ["1", "2", "3"]


def test_a_row_that_nobody_judged_is_judged_when_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after `load`, and as often as it is tried."""
    monkeypatch.setattr(collapse, "COLLAPSED_BELOW", 10.0)
    training = pretraining({"pretrain.epochs": 2}, stop_on_collapse=True)
    next(training.run(1))
    other = pretraining({"pretrain.epochs": 2}, stop_on_collapse=True)
    other.load(training.state().on_cpu())
    for each in (training, training, other):
        with pytest.raises(Collapsed, match="after epoch 1"):
            next(each.run())


@RECIPES
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_run_interrupted_between_any_two_steps_goes_on_exactly(recipe: Fields, steps: int) -> None:
    fields = {"pretrain.epochs": 5, **recipe}
    whole = pretraining(fields)
    list(whole.run())
    training = trained_in_pieces(lambda: pretraining(fields), steps)
    assert numbers(training.rows) == numbers(whole.rows)
    assert tiny.same(training.state().tensors, whole.state().tensors)


def test_runs_of_different_lengths_share_the_trunk() -> None:
    """The longer one, taken up where the decay of the shorter one begins, and the other way round."""
    short, long = ({"pretrain.epochs": epochs, **CORRECTED} for epochs in (4, 7))
    trained = {}
    for name, fields in (("short", short), ("long", long)):
        trained[name] = pretraining(fields)
        list(trained[name].run())
    for first, second, then in ((short, long, "long"), (long, short, "short")):
        training = pretraining(first)
        list(training.run(3))
        other = pretraining(second)
        other.load(training.state().on_cpu())
        list(other.run())
        assert numbers(other.rows) == numbers(trained[then].rows)
        assert tiny.same(other.state().tensors, trained[then].state().tensors)


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
