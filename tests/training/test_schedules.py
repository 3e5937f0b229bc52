"""Learning rates by step: the published schedule (D12 is the method's own and stays), and those of other recipes."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cass_tune.config import ARMS, Finetune, Pretrain
from cass_tune.training.schedules import cosine, cosine_to_end, schedule_of, warmed_up, wsd

EPOCHS = st.integers(1, 60)
RATE = st.floats(1e-5, 1)


@pytest.mark.parametrize(("highest", "lowest", "t_max"), [(1e-3, 1e-6, 16), (3e-4, 1e-6, 16), (0.1, 0.01, 7)])
def test_equals_torch_stepped_every_batch(highest: float, lowest: float, t_max: int) -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=highest)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=t_max, eta_min=lowest)
    for step in range(100):
        assert cosine(step, highest, lowest, t_max) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-9)
        optimiser.step()
        scheduler.step()


@pytest.mark.parametrize(("batches", "epoch", "logged"), [(297, 1, 1.2133e-4), (297, 2, 1.238e-5), (286, 1, 2.886e-4)])
def test_gives_the_learning_rates_of_the_published_logs(batches: int, epoch: int, logged: float) -> None:
    """The released notebook's log (297 batches an epoch) and a reproduction's (286)."""
    assert cosine(epoch * batches, 3e-4, 1e-6, 16) == pytest.approx(logged, rel=1e-3)


@pytest.mark.parametrize("config", [Pretrain(), Finetune(), Pretrain(epochs=3), Finetune(epochs=3)])
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("epoch_steps", [1, 7])
def test_the_default_is_the_published_one_of_both_arms_whatever_the_length(
    config: Pretrain | Finetune, arm: str, epoch_steps: int
) -> None:
    schedule = schedule_of(config, arm, epoch_steps)
    assert [schedule(step) for step in range(40)] == [
        cosine(step, config.learning_rate, 1e-6, 16) for step in range(40)
    ]


def test_warm_up_is_linear_and_then_constant() -> None:
    assert [warmed_up(step, 0.8, 4) for step in range(7)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8])
    assert [warmed_up(step, 0.8, 0) for step in range(3)] == [0.8, 0.8, 0.8]
    assert warmed_up(10**9, 0.1, 7) == 0.1


def test_corners_of_warm_up_constant_decay() -> None:
    """100 steps: 10 of warm-up, constant up to 80, 20 of decay."""
    found = [wsd(step, 1.0, 0.1, 10, 80, 100) for step in range(101)]
    assert found[0] == pytest.approx(0.1) and found[4] == pytest.approx(0.5)
    assert found[9:81] == [1.0] * 72, "the decay begins at the highest rate"
    assert found[85] == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(0.25)))
    assert found[99] == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(0.95)))
    assert found[100] == pytest.approx(0.1)
    assert all(later < earlier for earlier, later in pairwise(found[80:]))


def test_corners_of_one_cosine_to_the_end() -> None:
    found = [cosine_to_end(step, 1.0, 0.1, 10, 110) for step in range(111)]
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert (found[9], found[10]) == (1.0, 1.0)
    assert found[60] == pytest.approx(0.55)
    assert found[110] == pytest.approx(0.1)
    assert all(later < earlier for earlier, later in pairwise(found[10:]))
    assert cosine_to_end(500, 1.0, 0.1, 10, 110) == pytest.approx(0.1), "it does not rise again"


@pytest.mark.parametrize(
    ("epochs", "warmup", "expected"),
    [
        (1, 0, [1, 1 - math.sqrt(0.5)]),
        (2, 1, [0.5, 1, 1, 1 - math.sqrt(0.5)]),
        (3, 1, [0.5, 1, 1, 1, 1, 1 - math.sqrt(0.5)]),
        (3, 2, [0.25, 0.5, 0.75, 1, 1, 1 - math.sqrt(0.5)]),
    ],
)
def test_short_runs(epochs: int, warmup: int, expected: list[float]) -> None:
    """Two steps an epoch; the last epoch decays."""
    config = Pretrain(schedule="wsd", epochs=epochs, warmup_epochs=warmup, learning_rate=1.0, min_learning_rate=1e-12)
    assert [schedule_of(config, "cnn", 2)(step) for step in range(2 * epochs)] == pytest.approx(expected)


def test_a_decay_that_begins_within_the_warm_up_begins_at_its_rate() -> None:
    """10 steps of warm-up of which the trunk has 8."""
    found = [wsd(step, 1.0, 0.0, 10, 8, 12) for step in range(12)]
    assert found[:9] == pytest.approx([(step + 1) / 10 for step in range(9)])
    assert found[9] == pytest.approx(0.9 * 0.5)


@given(st.data(), EPOCHS, EPOCHS, st.integers(1, 9), RATE, RATE, st.sampled_from(ARMS))
def test_the_trunk_does_not_depend_on_the_number_of_epochs(
    data: st.DataObject, one: int, other: int, epoch_steps: int, rate: float, vit_rate: float, arm: str
) -> None:
    """Not even where the warm-up is longer than the shorter trunk, and whatever share of each decays."""
    warmup = data.draw(st.integers(0, min(one, other) - 1))
    fractions = st.floats(0.01, 0.5)
    fields: dict[str, Any] = {"warmup_epochs": warmup, "learning_rate": rate, "vit_learning_rate": vit_rate}
    first, second = (
        Pretrain(schedule="wsd", epochs=epochs, decay_fraction=data.draw(fractions), **fields)
        for epochs in (one, other)
    )
    trunk = epoch_steps * min(first.trunk_epochs, second.trunk_epochs)
    a, b = (schedule_of(config, arm, epoch_steps) for config in (first, second))
    assert [a(step) for step in range(trunk)] == [b(step) for step in range(trunk)]
    alone = warmed_up(first.trunk_epochs * epoch_steps, rate if arm == "cnn" else vit_rate, warmup * epoch_steps)
    assert a(first.trunk_epochs * epoch_steps) == pytest.approx(alone), "the decay goes on from the trunk's rate"


@given(EPOCHS, st.integers(1, 9), st.sampled_from(["wsd", "cosine_to_end"]), st.sampled_from(["cnn", "vit"]), st.data())
def test_rates_lie_between_the_lowest_and_the_highest_and_fall_after_the_warm_up(
    epochs: int, epoch_steps: int, name: Any, arm: str, data: st.DataObject
) -> None:
    warmup = data.draw(st.integers(0, epochs - 1))
    config = Pretrain(schedule=name, epochs=epochs, warmup_epochs=warmup, vit_learning_rate=1e-4)
    found = [schedule_of(config, arm, epoch_steps)(step) for step in range(epochs * epoch_steps)]
    assert max(found) <= (1e-3 if arm == "cnn" else 1e-4)
    assert min(found) > 0
    assert all(later <= earlier for earlier, later in pairwise(found[warmup * epoch_steps :]))


@pytest.mark.parametrize("kind", [Pretrain, Finetune])
@pytest.mark.parametrize("name", ["cosine", "cosine_to_end"])
def test_each_arm_has_its_own_highest_rate(kind: type[Pretrain] | type[Finetune], name: Any) -> None:
    config = kind(schedule=name, learning_rate=0.5, vit_learning_rate=0.25)
    assert [schedule_of(config, arm, 3)(0) for arm in ARMS] == pytest.approx([0.5, 0.25])
    both = kind(schedule=name, learning_rate=0.5)
    assert [schedule_of(both, arm, 3)(0) for arm in ARMS] == pytest.approx([0.5, 0.5])
