"""Finetuning and evaluation with the code's mistakes mended."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from cass_tune.config import ARMS, Change
from cass_tune.data import loader
from cass_tune.data.listing import Listing
from cass_tune.data.loader import IMAGENET, Batch, Batches, Normalisation, normalise
from cass_tune.data.splits import Parts
from cass_tune.presets import RECIPES
from cass_tune.training import finetune
from cass_tune.training.finetune import Evaluation, Finetuning
from cass_tune.training.loop import DivergedError
from cass_tune.training.losses import focal_loss
from cass_tune.training.metrics import classification_metrics
from cass_tune.training.rows import COLUMNS
from tests import tiny
from tests.training.pieces import numbers, trained_in_pieces

LISTING = tiny.listing(
    {
        "train": {"ant": 4, "bee": 9, "cow": 2},
        "val": {"ant": 30, "bee": 20, "cow": 20},
        "test": {"ant": 3, "bee": 3, "cow": 5},
    }
)
PARTS = tiny.parts(LISTING)
CORRECTED = RECIPES["corrected"]
WEIGHTS = {"ant": 15 / 12, "bee": 15 / 27, "cow": 15 / 6}


class Watched(Batches):
    """A loader that remembers the positions of every batch."""

    def __init__(self, images: Listing, stream: str) -> None:
        super().__init__(tiny.pixels(images), seed=0, stream=stream)
        self.trained: list[list[int]] = []
        self.evaluated: list[list[int]] = []

    def training(self, *args: Any, **kwargs: Any) -> Iterator[Batch]:
        yield from self._watch(super().training(*args, **kwargs), self.trained)

    def evaluation(self, positions: Sequence[int], batch_size: int = 64) -> Iterator[Batch]:
        yield from self._watch(super().evaluation(positions, batch_size), self.evaluated)

    @staticmethod
    def _watch(batches: Iterator[Batch], seen: list[list[int]]) -> Iterator[Batch]:
        for batch in batches:
            seen.append(batch.positions.tolist())
            yield batch


def finetuning(
    arm: str = "cnn",
    fields: Mapping[str, Any] | None = None,
    *,
    images: Listing = LISTING,
    parts: Parts = PARTS,
    model: nn.Module | None = None,
) -> Finetuning:
    described = tiny.trial(fields)
    batches = Watched(images, f"finetune/{arm}")
    return Finetuning(described, arm, model or tiny.arms(described)[arm], images, parts, batches)


def watched(training: Finetuning) -> Watched:
    assert isinstance(training._batches, Watched)
    return training._batches


def labels(positions: Sequence[int]) -> list[int]:
    return [LISTING.classes.index(LISTING.items[p].label) for p in positions]


@pytest.mark.parametrize("arm", ARMS)
def test_the_optimiser_holds_exactly_the_models_parameters(arm: str) -> None:
    """The new head included, and nothing of a model that was thrown away (D1)."""
    training = finetuning(arm)
    (optimiser,) = training._stepper._optimisers
    assert [id(p) for g in optimiser.param_groups for p in g["params"]] == [id(p) for p in training.model.parameters()]


@pytest.mark.parametrize("arm", ARMS)
def test_the_first_step_changes_the_model(arm: str) -> None:
    training = finetuning(arm, {"finetune.batch_size": 15, "finetune.epochs": 1})
    before = tiny.state(training.model)
    training._train()
    moved = [float((p.detach() - before[name]).abs().max()) for name, p in training.model.named_parameters()]
    assert len(watched(training).trained) == 1
    assert sum(1.5e-4 < distance < 6e-4 for distance in moved) > 0.5 * len(moved)


def reference(training: Finetuning, epochs: int, *, zero_grad: bool) -> dict[str, Tensor]:
    """Train a copy in the plainest way with the same batches."""
    model, config = copy.deepcopy(training.model).train(), training._config
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    scheduler = CosineAnnealingLR(optimiser, T_max=16, eta_min=config.min_learning_rate)
    weights = torch.tensor(list(WEIGHTS.values()))
    batches = Batches(tiny.pixels(LISTING), seed=0, stream=f"finetune/{training.arm}")
    for epoch in range(1, epochs + 1):
        for batch in batches.training(PARTS.labelled, config.batch_size, epoch, drop_last=False):
            if zero_grad:
                optimiser.zero_grad()
            logits = model(normalise(batch.images, torch.device("cpu")))
            focal_loss(logits, batch.labels, weights, 2.0).backward()
            optimiser.step()
            scheduler.step()
    return tiny.state(model)


@pytest.mark.parametrize("arm", ARMS)
def test_gradients_are_cleared_before_every_step(arm: str) -> None:
    """Also: the loss is the focal loss with this subset's weights, and the model trained is this arm (D2, D5)."""
    training = finetuning(arm)
    cleared, accumulated = (reference(training, 2, zero_grad=zero_grad) for zero_grad in (True, False))
    training._train()
    training.rows.append({})
    training._begin_epoch()
    training._train()
    found = tiny.state(training.model)
    for name in found:
        torch.testing.assert_close(found[name], cleared[name], rtol=1e-4, atol=1e-6)
    far = max(float((found[n] - accumulated[n]).abs().max()) for n in found if found[n].is_floating_point())
    assert far > 1e-4


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """Loss and size of every batch, those of evaluation too."""
    seen: list[tuple[float, int]] = []

    def recorded(logits: Tensor, *rest: Any) -> Tensor:
        value = focal_loss(logits, *rest)
        seen.append((float(value.detach()), len(logits)))
        return value

    monkeypatch.setattr(finetune, "focal_loss", recorded)
    return seen


def test_row_loss_is_the_mean_over_all_images(losses: list[tuple[float, int]]) -> None:
    """Each batch counts by its images; the published log showed the last batch alone (D24)."""
    training = finetuning(fields={"finetune.batch_size": 4, "finetune.epochs": 1})
    (row,) = training.run()
    trained = losses[:4]
    assert [size for _, size in trained] == [4, 4, 4, 3]
    assert row["loss"] == pytest.approx(sum(value * size for value, size in trained) / 15, abs=1e-6)
    assert abs(row["loss"] - trained[-1][0]) > 1e-4


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(4, [4, 4, 4, 3]), (7, [7, 8]), (5, [5, 5, 5]), (14, [15]), (15, [15]), (64, [15])]
)
def test_every_labelled_image_is_trained_on_once_an_epoch(batch_size: int, sizes: list[int]) -> None:
    """The last partial batch is kept; a last one of 1 is merged; a batch larger than the set is the set."""
    training = finetuning(fields={"finetune.batch_size": batch_size})
    training._train()
    seen = watched(training).trained
    assert [len(positions) for positions in seen] == sizes
    assert sorted(chain(*seen)) == list(PARTS.labelled)


@pytest.mark.parametrize("arm", ARMS)
def test_only_this_arm_is_trained_and_evaluated(arm: str) -> None:
    """The published ViT phase trained, evaluated and saved the CNN (D5)."""
    arms = tiny.arms()
    network = arms[arm]
    assert isinstance(network, nn.Module)
    (other,) = (arms[name] for name in ARMS if name != arm)
    before, other_before = tiny.state(network), tiny.state(other)
    training = finetuning(arm, model=network)
    list(training.run())
    assert training.model is network
    assert tiny.same(tiny.state(other), other_before)
    assert not tiny.same({**tiny.state(network)}, before)
    images = torch.from_numpy(np.stack([tiny.pixels(LISTING)[p].transpose(2, 0, 1) for p in PARTS.test]))
    with torch.inference_mode():
        expected = network.eval()(normalise(images, torch.device("cpu")))
    torch.testing.assert_close(training.evaluate(PARTS.test).outputs, expected)


def states_offered(training: Finetuning, scores: Sequence[float]) -> list[dict[str, Tensor]]:
    """Give each epoch's evaluation a score; return a list that fills with the state at each."""
    states: list[dict[str, Tensor]] = []
    remaining = iter(scores)
    real = training.evaluate

    def evaluate(positions: Sequence[int]) -> Evaluation:
        states.append(tiny.state(training.model))
        found = real(positions)
        found.metrics[training._config.select_by] = next(remaining)
        return found

    training.evaluate = evaluate  # type: ignore[method-assign]
    return states


@pytest.mark.parametrize(
    ("scores", "best"),
    [((0.2, 0.5, 0.5, 0.1), 2), ((0.0, 0.0, 0.0, 0.0), 1), ((0.1, 0.2, 0.3, 0.4), 4), ((0.9, 0.5, 0.6, 0.7), 1)],
)
@pytest.mark.parametrize("metric", ["micro_f1_at_half", "macro_f1"])
def test_the_best_epochs_weights_are_those_tested(scores: Sequence[float], best: int, metric: str) -> None:
    """Each epoch by its own score, not by a running mean (D7); of equal ones the first; a copy, not an alias (D17)."""
    training = finetuning(fields={"finetune.epochs": 4, "finetune.select_by": metric})
    states = states_offered(training, scores)
    rows = list(training.run())
    assert [row[metric] for row in rows] == list(scores)
    assert (training.best.epoch, training.best.score) == (best, scores[best - 1])
    assert tiny.same(tiny.state(training.model), states[best - 1])
    assert not tiny.same(states[best - 1], states[best % 4])


def test_validation_does_not_wait_for_training_to_improve(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published code validated only after a better training score (D8), and could stop early (D17)."""
    steps = iter(range(1, 1000))

    def rising(*arguments: Any) -> Tensor:
        return focal_loss(*arguments) * next(steps) ** 2

    monkeypatch.setattr(finetune, "focal_loss", rising)
    training = finetuning(fields={"finetune.epochs": 8})
    rows = list(training.run())
    assert [row["loss"] for row in rows] == sorted(row["loss"] for row in rows)
    assert [row["validation_loss"] for row in rows] == sorted(row["validation_loss"] for row in rows)
    assert all(row["macro_f1"] is not None for row in rows)
    assert watched(training).evaluated == [list(PARTS.validation[:64]), list(PARTS.validation[64:])] * 8


def test_validation_loss_is_the_mean_over_the_validation_images() -> None:
    """The published one was divided by the number of training batches (D16)."""
    for labelled in (PARTS.labelled, PARTS.labelled[:13]):
        some = Parts(pretrain=(), labelled=labelled, validation=PARTS.validation, test=())
        training = finetuning(fields={"finetune.epochs": 1, "finetune.class_weights": "none"}, parts=some)
        (row,) = training.run()
        outputs = training.evaluate(PARTS.validation).outputs.numpy()
        expected = tiny.published_focal_loss(outputs, labels(PARTS.validation), np.ones(3))
        assert len(outputs) == 70  # batches of 64 and 6
        assert row["validation_loss"] == pytest.approx(expected, abs=1e-6)


def test_rows_hold_the_metrics_of_the_epochs_own_validation() -> None:
    training = finetuning(fields={"finetune.epochs": 2})
    for number, row in enumerate(training.run(), start=1):
        found = training.evaluate(PARTS.validation).metrics
        assert {name: row[name] for name in found if name in COLUMNS and name != "loss"} == {
            name: value for name, value in found.items() if name in COLUMNS and name != "loss"
        }
        assert (tuple(row), row["phase"], row["epoch"], row["epochs"]) == (COLUMNS, "finetune_cnn", number, 2)
        assert row["reused"] is False and row["cnn_feature_std"] is None


def test_evaluation_sees_every_image_once_in_order_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published test loader shuffled and dropped the last batch (D18); a reproduction's augmented (D10)."""
    training = finetuning()

    def forbidden(*_: Any) -> np.ndarray:
        raise AssertionError("augmentation in an evaluation")

    monkeypatch.setattr(loader, "augment", forbidden)
    found = training.evaluate(PARTS.validation)
    assert list(chain(*watched(training).evaluated)) == list(PARTS.validation) == list(found.positions)
    assert found.outputs.shape == (70, 3) and found.metrics["n"] == 70
    torch.manual_seed(7)
    again = training.evaluate(PARTS.validation)
    assert torch.equal(found.outputs, again.outputs) and found.metrics == again.metrics


@pytest.mark.parametrize("arm", ARMS)
def test_evaluation_changes_nothing(arm: str) -> None:
    """BatchNorm's statistics neither come from the images evaluated nor move."""
    training = finetuning(arm)
    before = tiny.state(training.model)
    whole = training.evaluate(PARTS.validation).outputs
    assert tiny.same(tiny.state(training.model), before)
    torch.testing.assert_close(training.evaluate(PARTS.validation[28:52]).outputs, whole[28:52])


def test_evaluations_do_not_add_up() -> None:
    """Metrics of one part do not remember the part before (D7)."""
    training = finetuning()
    alone = training.evaluate(PARTS.test).metrics
    training.evaluate(PARTS.validation)
    assert training.evaluate(PARTS.test).metrics == alone
    assert alone["n"] == 11


def test_metrics_are_those_of_the_outputs_alone() -> None:
    """No class is added for images without an answer (D19)."""
    training = finetuning()
    with torch.no_grad():
        for p in training.model.get_classifier().parameters():  # type: ignore[operator]
            p.zero_()
        training.model.get_classifier().bias[0] = -1.0  # type: ignore[operator]
    found = training.evaluate(PARTS.test)
    assert found.metrics["micro_f1_at_half"] == found.metrics["micro_recall_at_half"] == 0.0  # nobody is above a half
    expected = classification_metrics(found.outputs, torch.tensor(labels(PARTS.test)))
    assert {name: found.metrics[name] for name in expected} == expected
    assert np.array(found.metrics["confusion_matrix"]).shape == (3, 3)


def test_class_weights_come_from_the_labelled_images_by_name() -> None:
    """Rare classes weigh more (D4), and each weight meets its own class in the loss (D15)."""
    training = finetuning()
    assert training.class_weights == pytest.approx(WEIGHTS)
    found = training.evaluate(PARTS.test)
    outputs = found.outputs.numpy()
    expected = tiny.published_focal_loss(outputs, labels(PARTS.test), [WEIGHTS[name] for name in ("ant", "bee", "cow")])
    assert found.metrics["loss"] == pytest.approx(expected, abs=1e-6)
    some = Parts(pretrain=PARTS.pretrain, labelled=PARTS.labelled[2:], validation=PARTS.validation, test=PARTS.test)
    assert finetuning(parts=some).class_weights == pytest.approx({"ant": 13 / 6, "bee": 13 / 27, "cow": 13 / 6})


@pytest.mark.parametrize("arm", ARMS)
def test_the_new_head_is_a_function_of_seed_and_arm(arm: str) -> None:
    def head(described: Mapping[str, Any], start: int, name: str = arm) -> Tensor:
        model = tiny.arms()[arm]
        torch.manual_seed(start)
        finetuning(name, described, model=model)
        return model.get_classifier().weight.clone()  # type: ignore[operator]

    first = head({}, 1)
    assert first.shape[0] == 3
    assert torch.equal(first, head({}, 2))
    assert not torch.equal(first, head({"seed": 1}, 1))
    assert not torch.equal(first, head({}, 1, next(name for name in ARMS if name != arm)))


def test_finetuning_does_not_depend_on_torchs_generator() -> None:
    states = []
    for seed in (1, 2):
        training = finetuning("vit")
        torch.manual_seed(seed)
        list(training.run())
        states.append(tiny.state(training.model))
    assert tiny.same(*states)


@pytest.mark.parametrize("kind", ["imagenet", "model"])
def test_training_and_evaluation_see_the_arms_own_normalisation(kind: str) -> None:
    """The tiny ViT's timm configuration asks for a mean and a std of a half, not for ImageNet's (D23)."""
    training = finetuning("vit", {"data.normalisation": kind, "finetune.epochs": 1})
    constants = IMAGENET if kind == "imagenet" else Normalisation(mean=(0.5,) * 3, std=(0.5,) * 3)
    seen: list[Tensor] = []
    training.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    list(training.run())
    found = training.evaluate(PARTS.test)
    fresh = Batches(tiny.pixels(LISTING), seed=0, stream="finetune/vit")
    batches = [
        *fresh.training(PARTS.labelled, 8, 1, drop_last=False),
        *fresh.evaluation(PARTS.validation),
        *fresh.evaluation(PARTS.test),
    ]
    assert len(seen) == len(batches) == 5
    for images, batch in zip(seen, batches, strict=True):
        assert torch.equal(images, normalise(batch.images, torch.device("cpu"), constants))
    assert found.outputs.isfinite().all()


@pytest.mark.parametrize(("arm", "highest"), [("cnn", 3e-4), ("vit", 1e-4)])
def test_each_arm_has_its_own_learning_rate(arm: str, highest: float) -> None:
    """Two steps an epoch: one epoch of warm-up, then a cosine over the other three."""
    training = finetuning(arm, {"finetune.epochs": 4, **CORRECTED, "finetune.patience": 1})
    states_offered(training, [0.5, 0.4, 0.3, 0.2])
    rates = [row["learning_rate"] for row in training.run()]
    last = 1e-6 + (highest - 1e-6) * (1 + np.cos(np.pi / 6)) / 2
    assert rates == pytest.approx([highest, last]), "of four epochs, though it stops after the second"


def scored(training: Finetuning, scores: Sequence[float]) -> Finetuning:
    """Give the validation of each epoch its score, whichever object finishes it."""
    real = training.evaluate

    def evaluate(positions: Sequence[int]) -> Evaluation:
        found = real(positions)
        if positions is PARTS.validation and training.epoch < len(scores):
            found.metrics[training._config.select_by] = scores[training.epoch]
        return found

    training.evaluate = evaluate  # type: ignore[method-assign]
    return training


@pytest.mark.parametrize(
    ("patience", "scores", "epochs", "best"),
    [
        (0, (0.5, 0.4, 0.3, 0.2, 0.1, 0.6), 6, 6),
        (1, (0.1, 0.2, 0.2, 0.9, 0.9, 0.9), 3, 2),
        (2, (0.1, 0.2, 0.2, 0.3, 0.1, 0.2), 6, 4),
        (2, (0.3, 0.2, 0.3, 0.9, 0.9, 0.9), 3, 1),
        (3, (0.0, 0.0, 0.0, 0.0, 0.9, 0.9), 4, 1),
        (6, (0.5, 0.4, 0.3, 0.2, 0.1, 0.0), 6, 1),
    ],
)
def test_finetuning_stops_when_the_best_epoch_is_patience_epochs_ago(
    patience: int, scores: Sequence[float], epochs: int, best: int
) -> None:
    """The published rule compared with the epoch before and never fired (D17); an equal score is no better one."""
    fields = {"finetune.epochs": 6, "finetune.patience": patience, "finetune.select_by": "macro_f1"}
    training = finetuning(fields=fields)
    states = states_offered(training, scores)
    rows = list(training.run())
    assert [row["macro_f1"] for row in rows] == list(scores[:epochs])
    assert {row["epochs"] for row in rows} == {6}
    assert training.best.epoch == best
    assert tiny.same(tiny.state(training.model), states[best - 1])
    assert list(training.run()) == [], "it stays finished"


def test_a_stop_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="cass_tune")
    training = finetuning("vit", {"finetune.epochs": 6, "finetune.patience": 2})
    list(scored(training, (0.3, 0.2, 0.2, 0.9, 0.9, 0.9)).run())
    assert "vit: stopped after epoch 3; the best is epoch 1" in caplog.text


SCORES = (0.2, 0.4, 0.3, 0.5, 0.5, 0.1, 0.9, 0.9)
"""With a patience of 2 it stops after the sixth epoch."""


@pytest.mark.parametrize("recipe", list(RECIPES.values()), ids=list(RECIPES))
@pytest.mark.parametrize("steps", [3, 4, 7])
def test_a_finetuning_interrupted_between_any_two_steps_goes_on_exactly(recipe: Mapping[str, Any], steps: int) -> None:
    """In the middle of epochs and of evaluations, each of which has two batches."""

    def make() -> Finetuning:
        return scored(finetuning("vit", {"finetune.epochs": 8, **recipe, "finetune.patience": 2}), SCORES)

    whole = make()
    list(whole.run())
    assert (whole.epoch, whole.best.epoch) == (6, 4)
    training = trained_in_pieces(make, steps)
    assert numbers(training.rows) == numbers(whole.rows)
    assert training.best.epoch == 4
    assert tiny.same(training.state().tensors, whole.state().tensors)


@pytest.mark.parametrize("epoch", range(1, 7))
def test_a_finetuning_goes_on_exactly_from_the_end_of_any_epoch(epoch: int) -> None:
    """The one at which it is decided to stop, too, and the one before."""

    def make() -> Finetuning:
        return scored(finetuning("cnn", {"finetune.epochs": 8, **CORRECTED, "finetune.patience": 2}), SCORES)

    whole, first, second = make(), make(), make()
    list(whole.run())
    rows = first.run()
    for _ in range(epoch):
        next(rows)
    second.load(first.state().on_cpu())
    assert len(list(second.run())) == 6 - epoch
    assert numbers(second.rows) == numbers(whole.rows)
    assert tiny.same(second.state().tensors, whole.state().tensors)


BEFORE = {"finetune.optimiser": "adamw", "finetune.weight_decay": 0.05, "finetune.epochs": 6}
CHANGES = (
    Change(epoch=2, learning_rate=2e-3, vit_learning_rate=1e-4, weight_decay=0.2, clip_norm=0.01),
    Change(epoch=3, learning_rate=1e-4, weight_decay=0.1),
)


def in_force(training: Finetuning) -> tuple[float, list[float], float]:
    """Return the learning rate at the first step of a cosine, the groups' weight decays and the clipping."""
    stepper = training._stepper
    groups = stepper._optimisers[0].param_groups
    return stepper._schedules[0](0), [group["weight_decay"] for group in groups], stepper._clip_norm


@pytest.mark.parametrize("arm", ARMS)
def test_a_change_is_in_force_from_its_epoch_on(arm: str) -> None:
    training = finetuning(arm, {**BEFORE, "finetune.learning_rate": 1e-3, "finetune.changes": CHANGES})
    found = [in_force(training)]
    for _ in training.run():
        found.append(in_force(training))
    first = 2e-3 if arm == "cnn" else 1e-4
    before, between, after = (1e-3, [0.0, 0.05], 0.0), (first, [0.0, 0.2], 0.01), (1e-4, [0.0, 0.1], 0.0)
    assert found == [before, before, between, after, after, after, after]


@pytest.mark.parametrize("arm", ARMS)
def test_a_change_equals_another_finetuning_that_goes_on_from_there(arm: str) -> None:
    """One without changes, at the state of the first, with the values that the change brings from its start on."""
    changed = finetuning(arm, {**BEFORE, "finetune.changes": CHANGES[:1]})
    rows = changed.run()
    for _ in range(2):
        next(rows)
    values = {f"finetune.{name}": value for name, value in CHANGES[0].values().items()}
    other, unchanged = finetuning(arm, {**BEFORE, **values}), finetuning(arm, BEFORE)
    for training in (other, unchanged):
        training.load(changed.state().on_cpu())
        list(training.run())
    list(rows)
    assert numbers(changed.rows) == numbers(other.rows) != numbers(unchanged.rows)
    assert tiny.same(changed.state().tensors, other.state().tensors)


@pytest.mark.parametrize("steps", [6, 7])
def test_a_finetuning_with_changes_is_the_same_in_pieces(steps: int) -> None:
    def make() -> Finetuning:
        return finetuning("vit", {**BEFORE, "finetune.changes": CHANGES})

    whole = make()
    list(whole.run())
    training = trained_in_pieces(make, steps)
    assert numbers(training.rows) == numbers(whole.rows)
    assert tiny.same(training.state().tensors, whole.state().tensors)


def test_divergence_has_its_own_error() -> None:
    with pytest.raises(DivergedError, match="try a lower learning rate"):
        list(finetuning(fields={"finetune.learning_rate": 1e30}).run())


def test_an_evaluation_has_batches_of_the_size_that_is_asked_for() -> None:
    by_default, by_seven = finetuning("vit"), finetuning("vit", {"finetune.evaluation_batch_size": 7})
    one, other = (training.evaluate(range(70)).outputs for training in (by_default, by_seven))
    assert [len(batch) for batch in watched(by_default).evaluated] == [64, 6]
    assert [len(batch) for batch in watched(by_seven).evaluated] == [7] * 10
    assert torch.allclose(one, other, atol=1e-5)
