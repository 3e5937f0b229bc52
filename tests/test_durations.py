"""How long trials take on which card, what counts with a pretraining, and who starts first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cass_tune.config import to_json
from cass_tune.durations import Durations, Speeds
from cass_tune.errors import UsageError
from cass_tune.fitting import Fit
from cass_tune.placement import Node
from cass_tune.plan import Wanted
from cass_tune.runner.placing import Demand
from tests.fits import given
from tests.grids import paper_grid
from tests.schedules import Grid

WHAT, OTHER = ("pretrain", "a"), ("pretrain", "b")


class TestSpeeds:
    """Cards against one another."""

    def test_nothing_is_known(self) -> None:
        assert Speeds().factor("A") == 1.0
        assert Speeds().seconds("A", WHAT, 10) is None

    def test_one_kind_of_card_is_no_slower_than_itself(self) -> None:
        speeds = Speeds()
        speeds.learn("A", WHAT, 20, 10)
        assert speeds.factor("A") == speeds.factor("B") == 1.0
        assert speeds.seconds("B", WHAT, 5) == pytest.approx(10)

    def test_what_ran_on_one_kind_is_judged_on_the_other(self) -> None:
        """B takes three times as long with what both have run."""
        speeds = Speeds()
        for card, seconds in (("A", 10), ("B", 30)):
            speeds.learn(card, WHAT, seconds, 10)
        speeds.learn("A", OTHER, 50, 10)
        assert speeds.factor("B") / speeds.factor("A") == pytest.approx(3)
        assert speeds.seconds("B", OTHER, 10) == pytest.approx(150)
        assert speeds.seconds("A", OTHER, 10) == pytest.approx(50)


def epoch_rows(item: Wanted, phase: str, count: int, seconds: float) -> list[dict[str, Any]]:
    return [{"phase": phase, "seconds": seconds, "reused": False, "epoch": n + 1} for n in range(count)]


class TestTrials:
    """The paper's grid."""

    items: Sequence[Wanted] = paper_grid()

    def durations(self, speeds: Mapping[str, float] | None = None) -> tuple[Grid, Durations]:
        grid = Grid(self.items, speeds or {"A": 1.0})
        return grid, grid.durations()

    def test_a_trial_that_pretrains_takes_that_and_its_finetuning(self) -> None:
        grid, durations = self.durations()
        assert durations.seconds(self.items[0], "A") == pytest.approx(grid.work_s(self.items[0], 0))

    def test_it_takes_longer_on_a_slower_card(self) -> None:
        _, durations = self.durations({"A": 1.0, "B": 4.0})
        on = {card: durations.seconds(self.items[0], card) or 0.0 for card in ("A", "B")}
        assert on["A"] == pytest.approx(4 * on["B"])

    def test_less_is_left_with_every_epoch(self) -> None:
        grid, durations = self.durations()
        item = self.items[0]
        config = to_json(item.trial)
        epoch_s = grid.epoch_s(config, "pretrain")
        for row in epoch_rows(item, "pretrain", 150, epoch_s):
            durations.learn(item, "A", row)
        assert durations.seconds(item, "A") == pytest.approx(grid.work_s(item, 150))
        durations.learn(item, "A", epoch_rows(item, "finetune_vit", 1, grid.epoch_s(config, "finetune_vit"))[0])
        assert (durations.seconds(item, "A") or 0) < grid.work_s(item, 200) / 2, "the CNN was finished by patience"

    def test_a_reused_epoch_teaches_nothing(self) -> None:
        _, durations = self.durations()
        before = durations.seconds(self.items[0], "A")
        durations.learn(self.items[0], "A", {"phase": "pretrain", "seconds": 1e9, "reused": True})
        durations.learn(self.items[0], "A", {"phase": "held", "seconds": 1e9, "reused": False})
        assert durations.seconds(self.items[0], "A") == before

    def test_a_pretraining_counts_with_the_longest_that_waits_for_it(self) -> None:
        """Trials of 1 % of the labels pretrain, those of all labels wait for them."""
        grid, durations = self.durations()
        first = self.items[0]
        assert (first.trial.data.label_fraction, first.trial.pretrain.epochs) == (0.01, 200)
        longest = max(grid.work_s(item, 0) for item in self.items)
        assert longest > grid.work_s(first, 0)
        judge = durations._common_judge(self.items)
        assert durations._chain(first, judge) == pytest.approx(longest)

    def test_what_is_only_probed_comes_last(self) -> None:
        grid = Grid(self.items[1:], {"A": 1.0})
        durations = grid.durations()
        assert durations.seconds(self.items[0], "A") == 0.0
        assert durations.in_order(self.items, 4)[-1] is self.items[0]

    def test_unknown_times(self) -> None:
        grid = Grid(self.items, {})
        grid.epoch_s = lambda config, phase: None  # type: ignore[assignment,method-assign,return-value]
        estimator: Any = SimpleNamespace(counts=grid.counts, finetuning=grid.finetuning, judge=grid.epoch_s)
        durations = Durations(estimator, self.items, {str(self.items[0].digest): 200})
        assert durations.seconds(self.items[0], "A") is None
        assert durations.in_order(self.items[::-1], 1)[0] is self.items[0], "by the images that pass"

    def test_seed_by_seed_unless_the_study_would_wait_in_the_end(self) -> None:
        items = paper_grid(seeds=(0, 1))
        durations = Grid(items, {"A": 1.0}).durations()
        few = [item.trial.seed for item in durations.in_order(items, 2)]
        assert few == sorted(few)
        many = durations.in_order(items, 64)
        chains = [(item.trial.seed, item.trial.pretrain.batch_size) for item in many[:6] if not item.is_control]
        assert {seed for seed, _ in chains} == {0, 1}, "all six pretrainings first"
        assert [item.trial.pretrain.epochs for item in many[:6]] == [200] * 6


def share(demand: Demand, item: Wanted, kind: str) -> float | None:
    fit = demand.fit(item, kind)
    return None if fit is None else fit.share


class TestDemand:
    """What a trial asks for on a kind of machine."""

    def demand(self, share: float = 0.25, **more: Any) -> Demand:
        return Demand(cpus=1, fitting=given(share), uses_cards=share > 0, device="cuda", **more)

    def test_the_share_of_a_card_and_nothing_without_one(self) -> None:
        item = paper_grid()[0]
        assert share(self.demand(), item, "A") == 0.25
        assert share(self.demand(1 / 3), item, "A") == pytest.approx(0.3333)
        assert share(self.demand(), item, "cpu") is None
        assert share(self.demand(0), item, "A") == share(self.demand(0), item, "cpu") == 0

    def test_the_kind_of_card_is_the_machines_own_or_else_that_of_its_label(self) -> None:
        demand = self.demand(kinds={"a": "A100 (40 GiB)", "b": "A100 (80 GiB)", "A100": "A100 (40 GiB)"})
        machines = [("a", "A100"), ("b", "A100"), ("new", "A100"), ("other", "T4"), ("none", "cpu")]
        found = [demand.named(Node(name=name, kind=label, cards=1, cpus=1)).kind for name, label in machines]
        assert found == ["A100 (40 GiB)", "A100 (80 GiB)", "A100 (40 GiB)", "T4", "cpu"]

    def test_what_is_only_probed_needs_no_card(self) -> None:
        item = paper_grid()[0]
        demand = self.demand(probed={str(item.digest)})
        assert (share(demand, item, "cpu"), share(demand, item, "A")) == (0, 0.25)

    def test_what_is_tried_again_alone_gets_a_whole_card(self) -> None:
        item = paper_grid()[0]
        alone = Fit(checkpointing=True)
        demand = self.demand(alone=alone)
        assert demand.fit(item, "A", is_alone=True) == alone
        assert demand.fit(item, "A") == Fit(share=0.25, cap=0.25)

    def test_it_goes_to_no_card_on_which_it_does_not_fit(self) -> None:
        def fitting(wanted: Wanted, kind: str) -> Fit:
            if kind == "small":
                raise UsageError("it does not fit")
            return Fit()

        kinds = {"a": "small", "b": "large", "": "small"}
        demand = Demand(cpus=1, fitting=fitting, uses_cards=True, device="cuda", kinds=kinds)
        item = paper_grid()[0]
        assert (share(demand, item, "small"), share(demand, item, "large")) == (None, 1.0)
        alone = replace(demand, kinds={"a": "small"})
        assert share(alone, item, "small") == 1.0, "it fits nowhere, and fails there with what to do"
