"""What trials have in common, who computes it, and in what order trials start."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cass_tune.config import Dino, Trial, with_field
from cass_tune.identity import Inputs, trial_digest
from cass_tune.plan import Wanted, grid, replicate, resolve, with_controls
from cass_tune.results import Results
from cass_tune.sharing import (
    computed,
    in_order,
    nothing_stored,
    own_epochs,
    register,
    unshared_reason,
    wanted_ends,
)
from cass_tune.study import Study
from studies import batch_ablation, label_fraction_ablation, paper_grid

INPUTS = Inputs(data="0" * 64, cnn="random", vit="random")
AXES = {
    "data.label_fraction": (0.01, 0.1, 1.0),
    "pretrain.batch_size": (8, 16, 32),
    "pretrain.epochs": (50, 100, 200),
}


def grid_of(seeds: Sequence[int] = (0,), **fields: Any) -> list[Wanted]:
    base = Trial()
    for name, value in fields.items():
        base = with_field(base, f"pretrain.{name}", value)
    trials = replicate(with_controls(grid(base, AXES)), seeds)
    return resolve(trials, dict.fromkeys(trials, INPUTS))


def settings(items: Sequence[Wanted]) -> list[tuple[int, int, int]]:
    return [(w.trial.seed, w.trial.pretrain.batch_size, w.trial.pretrain.epochs) for w in items if not w.is_control]


@pytest.mark.parametrize(
    ("schedule", "epochs"), [("cosine", 3 * 200), ("wsd", 690), ("cosine_to_end", 3 * (50 + 100 + 200))]
)
def test_epochs_of_the_papers_grid(schedule: str, epochs: int) -> None:
    """3,150 epochs are asked for; one trunk of 160 epochs and decays of 10, 20 and 40 make 230 per batch size."""
    items = in_order(grid_of(schedule=schedule))
    assert sum(item.trial.pretrain.epochs for item in items if not item.is_control) == 3150
    own = own_epochs(items, nothing_stored)
    assert sum(own.values()) == epochs
    assert all(own[str(item.digest)] == 0 for item in items if item.is_control)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_the_order_does_not_change_the_sum_where_all_ends_are_published(schedule: str) -> None:
    items = grid_of(schedule=schedule)
    expected = sum(own_epochs(in_order(items), nothing_stored).values())
    shortest_first = sorted(items, key=lambda item: item.trial.pretrain.epochs)
    assert sum(own_epochs(shortest_first, nothing_stored).values()) == expected
    random.Random(0).shuffle(items)
    assert sum(own_epochs(items, nothing_stored).values()) == expected


def test_what_is_stored_is_not_computed_again() -> None:
    items = in_order(grid_of())
    stages = wanted_ends(items)
    stored = {stage: [100] for stage in stages}
    own = own_epochs(items, lambda stage: stored[stage])
    # from 100 to 200, and the end of 50, which a run from 100 on does not pass
    assert sum(own.values()) == 3 * (100 + 50)
    assert sum(own_epochs(items, lambda stage: [50, 100, 200]).values()) == 0


def test_a_fork_of_a_trunk_that_is_stored_leaves_the_decay() -> None:
    items = in_order(grid_of(schedule="wsd"))
    trunks = {item.segments[0].stage for item in items if item.segments}
    own = own_epochs(items, lambda stage: [40, 80, 160] if stage in trunks else [])
    assert sum(own.values()) == 3 * (10 + 20 + 40)


@pytest.mark.parametrize(
    ("schedule", "then", "alone", "ends"),
    [("cosine", 300, 600, 6), ("wsd", 390, 690, 9), ("cosine_to_end", 750, 1050, 3)],
)
def test_a_study_stores_on_its_way_what_others_go_on_from(schedule: str, then: int, alone: int, ends: int) -> None:
    """The batch ablation runs through 50 epochs, or the trunk of 40, where trials of the grid leave."""

    def trials(study: Study) -> list[Wanted]:
        cells = with_controls(grid(with_field(Trial(), "pretrain.schedule", schedule), study.axes))
        return in_order(resolve(cells, dict.fromkeys(cells, INPUTS), study.passes))

    own, stored = computed(trials(batch_ablation.STUDY), nothing_stored)
    assert (sum(own.values()), sum(map(len, stored.values()))) == (300, ends)
    its = trials(paper_grid.STUDY)
    assert sum(own_epochs(its, lambda stage: stored.get(stage, ())).values()) == then
    assert sum(own_epochs(its, nothing_stored).values()) == alone
    assert sum(own_epochs(trials(label_fraction_ablation.STUDY), lambda stage: stored.get(stage, ())).values()) == 0


def test_the_shorter_trial_of_the_other_study_wants_what_is_passed(tmp_path: Path) -> None:
    """So that of a trunk it is kept until that trial is finished (`--keep-stages wanted`)."""
    trial = with_field(with_field(Trial(), "pretrain.schedule", "wsd"), "pretrain.warmup_epochs", 10)
    shorter = with_field(trial, "pretrain.epochs", 50)
    (item,) = resolve([trial], {trial: INPUTS}, (5, 50, 100, 200))
    register([item], Results(tmp_path))
    trunk = Results(tmp_path).stage(item.segments[0].stage)
    assert trunk.wanted_ends() == {40: {trial_digest(shorter, INPUTS)}, 80: {item.digest}} and trunk.is_trunk()


def test_longest_chains_first_within_a_seed_controls_last() -> None:
    items = in_order(grid_of(seeds=(0, 1)))
    assert len(items) == 60
    assert [item.trial.seed for item in items] == [0] * 30 + [1] * 30
    assert settings(items[:3]) == [(0, 8, 200), (0, 16, 200), (0, 32, 200)]
    assert [item.is_control for item in items[:30]] == [False] * 27 + [True] * 3
    own = own_epochs(items, nothing_stored)
    assert [own[str(item.digest)] for item in items[:30]] == [200] * 3 + [0] * 27


def test_of_different_chains_the_longest_first() -> None:
    trials = [with_field(Trial(), "pretrain.epochs", 10), with_field(Trial(), "pretrain.batch_size", 8)]
    items = in_order(resolve(trials, dict.fromkeys(trials, INPUTS)))
    assert settings(items) == [(0, 8, 100), (0, 16, 10)]


def test_every_stage_knows_who_wants_which_end(tmp_path: Path) -> None:
    results, items = Results(tmp_path), grid_of(schedule="wsd")
    register(items, results)
    register(items[:3], results)
    trunk, decay = (results.stage(segment.stage) for segment in items[0].segments)
    assert {epoch: len(trials) for epoch, trials in trunk.wanted_ends().items()} == {40: 3, 80: 3, 160: 3}
    assert {epoch: len(trials) for epoch, trials in decay.wanted_ends().items()} == {50: 3}
    assert str(items[0].digest) in trunk.wanted_ends()[40]
    assert trunk.is_trunk() and not decay.is_trunk()


def test_what_cannot_be_shared_is_explained() -> None:
    assert unshared_reason(grid_of()) is None and unshared_reason(grid_of(schedule="wsd")) is None
    assert "cosine_to_end depends on the number of epochs" in str(unshared_reason(grid_of(schedule="cosine_to_end")))
    decayed = grid_of(optimiser="adamw", weight_decay=0.04, weight_decay_end=0.4)
    assert "--pretrain.weight-decay-end leads to depends on the number of epochs" in str(unshared_reason(decayed))
    one_length = [item for item in grid_of(schedule="cosine_to_end") if item.trial.pretrain.epochs == 50]
    assert unshared_reason(one_length) is None


def test_dino_shares_unless_its_momentum_knows_the_end() -> None:
    """Two stages (batch sizes) with one end per length, or a pretraining of its own for each length."""
    apart, shared = (
        [replace(item.trial, pretrain=replace(item.trial.pretrain, method="dino"), dino=dino) for item in grid_of()]
        for dino in (Dino(), Dino(momentum=0.9, momentum_end=0.9))
    )
    found = [resolve(trials, dict.fromkeys(trials, INPUTS)) for trials in (apart, shared)]
    stages = [len({item.segments[-1].stage for item in items}) for items in found]
    lengths = {item.trial.pretrain.epochs for item in grid_of()}
    assert stages[0] == stages[1] * len(lengths) > stages[1]
    assert "--dino.momentum-end leads to depends on the number of epochs" in str(unshared_reason(found[0]))
    assert unshared_reason(found[1]) is None
