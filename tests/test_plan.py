"""What a study wants, its names and its order, and what of it must run."""

from __future__ import annotations

from typing import Any

import pytest

from cass_tune.config import ARMS, PROBES, Data, Pretrain, Trial, control, get_field, with_field
from cass_tune.data.catalog import list_images
from cass_tune.errors import UsageError
from cass_tune.identity import PROBES_VERSION, Inputs, segments, trial_digest
from cass_tune.plan import (
    Wanted,
    describe_data,
    grid,
    names,
    replicate,
    resolve,
    select,
    to_probe,
    to_run,
    with_controls,
)
from cass_tune.results import Results

INPUTS = Inputs(data="0" * 64, cnn="random", vit="random")
AXES = {"pretrain.batch_size": (8, 16), "data.label_fraction": (0.1, 1.0)}
CELLS = list(grid(Trial(), AXES))


def wanted(trials: list[Trial]) -> list[Wanted]:
    return resolve(trials, dict.fromkeys(trials, INPUTS))


def values(trials: list[Trial], *paths: str) -> list[tuple[Any, ...]]:
    return [tuple(get_field(trial, path) for path in paths) for trial in trials]


def test_a_grid_is_every_combination_the_last_axis_fastest() -> None:
    assert values(CELLS, *AXES) == [(8, 0.1), (8, 1.0), (16, 0.1), (16, 1.0)]
    assert list(grid(Trial(seed=4), {})) == [Trial(seed=4)]


def test_one_control_per_setting_of_data_and_finetuning() -> None:
    trials = with_controls(CELLS)
    assert trials[:4] == CELLS
    assert trials[4:] == [control(CELLS[0]), control(CELLS[1])]
    more = with_controls(grid(Trial(), {"finetune.epochs": (5, 9), "pretrain.epochs": (1, 2)}))
    assert values(more[4:], "pretrain.method", "finetune.epochs") == [("none", 5), ("none", 9)]


@pytest.mark.parametrize("path", ["pretrain.cnn", "pretrain.vit", "pretrain.weights", "pretrain.cnn_weights"])
def test_every_choice_of_starting_weights_has_its_control(path: str) -> None:
    trials = with_controls(grid(Trial(), {path: ("random", "timm"), "pretrain.batch_size": (8, 16)}))
    assert len(trials) == 4 + 2
    assert values(trials[4:], "pretrain.method", path) == [("none", "random"), ("none", "timm")]


def test_a_control_knows_no_share_of_the_pretraining_images() -> None:
    trials = with_controls(grid(Trial(), {"data.pretrain_fraction": (0.1, 1.0)}))
    assert len(trials) == 2 + 1


def test_equal_cells_are_one() -> None:
    assert with_controls([Trial(), Trial()]) == [Trial(), control(Trial())]


def test_a_study_of_controls_alone() -> None:
    cells = list(grid(control(Trial()), {"data.label_fraction": (0.1, 1.0)}))
    assert with_controls(cells) == cells


def test_replicas_come_seed_by_seed() -> None:
    trials = replicate(CELLS[:2], (3, 1))
    assert values(trials, "seed", "data.label_fraction") == [(3, 0.1), (3, 1.0), (1, 0.1), (1, 1.0)]


class TestSelect:
    trials = with_controls(CELLS)

    def test_nothing_keeps_all(self) -> None:
        assert select(self.trials, (), AXES) == self.trials

    def test_controls_stay_where_the_axis_does_not_matter(self) -> None:
        kept = select(self.trials, ["pretrain.batch-size=16"], AXES)
        assert kept == [*CELLS[2:], *self.trials[4:]]

    def test_controls_go_where_the_axis_matters(self) -> None:
        kept = select(self.trials, ["data.label_fraction=0.1"], AXES)
        assert kept == [CELLS[0], CELLS[2], self.trials[4]]

    def test_conditions_are_joined_by_and_values_by_or(self) -> None:
        kept = select(self.trials, ["data.label-fraction=1", "pretrain.batch-size=8,16"], AXES)
        assert kept == [CELLS[1], CELLS[3], self.trials[5]]

    @pytest.mark.parametrize(("path", "value"), [("data.split_seed", 20220608), ("pretrain.learning_rate", 1.23456789)])
    def test_numbers_are_compared_in_full(self, path: str, value: float) -> None:
        axes = {path: (value, value + 1e-7 if isinstance(value, float) else value + 1)}
        trials = list(grid(Trial(), axes))
        assert select(trials, [f"{path}={value}"], axes) == trials[:1]

    def test_texts(self) -> None:
        axes = {"finetune.class_weights": ("balanced", "none")}
        trials = list(grid(Trial(), axes))
        assert select(trials, ["finetune.class-weights=none"], axes) == trials[1:]

    def test_every_condition_that_fits_nothing_is_named(self) -> None:
        with pytest.raises(UsageError) as caught:
            select(self.trials, ["pretrain.epochs=5", "pretrain.batch-size=12,8", "16"], AXES)
        no_axis, no_value, no_condition = caught.value.problems
        assert "'pretrain.epochs=5'" in no_axis and "pretrain.batch-size, data.label-fraction" in no_axis
        assert "no cell has 12" in no_value and "8, 16" in no_value
        assert "'16'" in no_condition and "axis=value" in no_condition

    def test_conditions_that_leave_nothing(self) -> None:
        with pytest.raises(UsageError, match="leaves no cell"):
            select(self.trials, ["data.label-fraction=0.1", "data.label-fraction=1"], AXES)


class TestNames:
    def test_only_what_differs_is_shown(self) -> None:
        found = names(with_controls(CELLS))
        assert found[0] == "label_fraction=0.1 batch_size=8 seed=0"  # in the order of the sections
        assert found[4] == "none label_fraction=0.1 seed=0"

    def test_one_trial_is_its_seed(self) -> None:
        assert names([Trial(seed=2)]) == ["seed=2"]

    def test_a_name_that_two_sections_share_is_given_in_full(self) -> None:
        trials = list(grid(Trial(), {"pretrain.epochs": (1, 2), "finetune.epochs": (3,)}))
        assert names(trials) == ["epochs=1 seed=0", "epochs=2 seed=0"]
        trials = list(grid(Trial(), {"pretrain.epochs": (1, 2), "finetune.epochs": (3, 4)}))
        assert names(trials)[0] == "pretrain.epochs=1 finetune.epochs=3 seed=0"

    def test_controls_show_what_matters_to_them(self) -> None:
        trials = with_controls(grid(Trial(), {"pretrain.batch_size": (8, 16)}))
        assert names(trials) == ["batch_size=8 seed=0", "batch_size=16 seed=0", "none seed=0"]

    def test_names_of_different_trials_differ(self) -> None:
        trials = replicate(with_controls(CELLS), (0, 1))
        assert len(set(names(trials))) == len(trials) == 12


class TestResolve:
    def test_identities(self) -> None:
        first, second = wanted([Trial(), control(Trial())])
        assert first.digest == trial_digest(Trial(), INPUTS) and first.segments == segments(Trial(), INPUTS)
        assert [(segment.start, segment.end) for segment in first.segments] == [(0, 100)]
        assert second.segments == () and second.is_control
        assert second.record()["config"]["pretrain"]["method"] == "none"

    def test_trials_of_one_identity_are_wanted_once(self) -> None:
        moved = with_field(Trial(), "data.root", "/elsewhere")
        assert [item.trial for item in wanted([Trial(), moved, Trial(seed=1)])] == [Trial(), Trial(seed=1)]

    def test_without_inputs_there_are_no_identities(self) -> None:
        trials = [Trial(), Trial(seed=1)]
        found = resolve(trials, dict.fromkeys(trials))
        assert [(item.digest, item.segments) for item in found] == [(None, ())] * 2

    def test_inputs_may_differ(self) -> None:
        other = with_field(Trial(), "pretrain.weights", "random")
        inputs = {Trial(): Inputs(data="0" * 64, cnn="timm:a", vit="timm:b"), other: INPUTS}
        assert len({item.digest for item in resolve(list(inputs), inputs)}) == 2


class TestToRun:
    @pytest.fixture
    def items(self) -> list[Wanted]:
        return wanted([with_field(Trial(), "pretrain.batch_size", size) for size in (4, 8, 16, 32)])

    @pytest.fixture
    def results(self, items: list[Wanted], tmp_path: Any) -> Results:
        results = Results(tmp_path)
        folders = [results.trial(str(item.digest)) for item in items]
        folders[0].finish({})
        folders[1].fail("RuntimeError", "", "")
        folders[2].fail("Collapsed", "", "")
        return results

    @pytest.mark.parametrize(("redo", "sizes"), [("failed", [8, 16, 32]), ("all", [4, 8, 16, 32]), ("none", [32])])
    def test_redo(self, items: list[Wanted], results: Results, redo: str, sizes: list[int]) -> None:
        assert [item.trial.pretrain.batch_size for item in to_run(items, results, redo)] == sizes

    def test_unknown_identities_are_not_run(self, results: Results) -> None:
        assert to_run(resolve([Trial()], {Trial(): None}), results, "all") == []


class TestToProbe:
    @pytest.fixture
    def items(self) -> list[Wanted]:
        return wanted([Trial(), with_field(Trial(), "pretrain.batch_size", 8), control(Trial())])

    def test_finished_ones_that_lack_them_and_have_their_start(self, items: list[Wanted], tmp_path: Any) -> None:
        results = Results(tmp_path)
        assert to_probe(items, results, PROBES) == []
        for item in items:
            results.trial(str(item.digest)).finish({})
        assert to_probe(items, results, PROBES) == items[2:]
        (segment,) = items[0].segments
        results.stage(segment.stage).write_end(segment.end, {})
        assert to_probe(items, results, PROBES) == [items[0], items[2]]
        arms = {arm: {"knn": {}} for arm in ARMS}
        results.trial(str(items[2].digest)).write_probes({"version": PROBES_VERSION, "arms": arms})
        assert to_probe(items, results, ["knn"]) == items[:1]
        assert to_probe(items, results, PROBES) == [items[0], items[2]]
        assert to_probe(items, results, []) == []


def test_description_of_the_data() -> None:
    listing = list_images(Data())
    record = describe_data(listing)
    assert record["counts"]["test"] == dict.fromkeys(record["classes"], 50)
    assert (record["name"], record["fingerprint"], record["bad_images"]) == ("phantom", listing.fingerprint, {})


def test_trials_can_be_keys() -> None:
    assert {Trial(): 1}[Trial(pretrain=Pretrain(epochs=100))] == 1
