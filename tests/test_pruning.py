"""Asynchronous successive halving whose decisions do not depend on the clock."""

from __future__ import annotations

from typing import Any

import pytest

from cass_tune.pruning import Goal, Pruning, at, cutoffs, rungs

GOAL = Goal(metric="macro_f1", arms=("cnn", "vit"))


def rows(arm: str, *values: float) -> list[dict[str, Any]]:
    """Return finetuning rows whose selecting metric is the opposite of the one that is looked for."""
    return [
        {"phase": f"finetune_{arm}", "epoch": n, "macro_f1": value, "micro_f1_at_half": 1 - value}
        for n, value in enumerate(values, 1)
    ]


PRETRAINING: list[dict[str, Any]] = [{"phase": "pretrain", "epoch": 1, "loss": 0.0, "macro_f1": None}]


def test_the_value_is_that_of_the_selected_epoch_and_the_mean_of_the_arms_so_far() -> None:
    found = [*PRETRAINING, *rows("cnn", 0.2, 0.5, 0.1), *rows("vit", 0.4, 0.9)]
    assert GOAL.curve(found, "macro_f1", 3) == pytest.approx({1: 0.2, 2: 0.5, 3: 0.5, 4: 0.45, 5: 0.7})
    assert GOAL.curve(found, "micro_f1_at_half", 3) == pytest.approx({1: 0.2, 2: 0.2, 3: 0.1, 4: 0.25, 5: 0.25})
    only = Goal(metric="macro_f1", arms=("vit",))
    assert only.curve(found, "macro_f1", 3) == pytest.approx({1: 0.4, 2: 0.9})


def test_rungs_are_thirds_of_thirds() -> None:
    assert rungs(100) == [4, 11, 33]
    assert rungs(6) == [1, 2]
    assert rungs(2) == [1] and rungs(1) == []


def test_a_rung_is_passed_also_by_an_arm_that_stopped_early() -> None:
    curve = {1: 0.1, 2: 0.3, 11: 0.2}
    assert [at(curve, rung) for rung in (1, 2, 5, 11, 12)] == [0.1, 0.3, 0.3, 0.2, None]
    assert at({}, 1) is None and at({5: 0.1}, 3) is None


def test_the_best_third_of_those_that_got_there_sets_the_cutoff() -> None:
    others = [{1: value, 2: value + 0.1} for value in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
    assert dict(cutoffs(others, 6)) == {1: 0.5, 2: 0.6}
    assert dict(cutoffs(others[:2], 6)) == {}, "a third of two is nobody"
    short = [*others[:2], {1: 0.9}, {1: 0.0}]
    assert dict(cutoffs(short, 6)) == {1: 0.9}


def test_a_trial_stops_below_the_cutoff_and_says_where() -> None:
    pruning = Pruning(goal=GOAL, select_by="macro_f1", epochs=3, cutoffs=((1, 0.3), (4, 0.45)))
    assert Pruning.from_record(pruning.record()) == pruning
    assert pruning.reason(PRETRAINING) is None, "the pretraining's loss is never looked at"
    assert pruning.reason(rows("cnn", 0.3)) is None
    assert pruning.reason(rows("cnn", 0.2)) == (
        "after 1 of 6 epochs of finetuning: macro_f1 0.2000, the best third had 0.3000"
    )
    assert pruning.reason([*rows("cnn", 0.3, 0.5, 0.4), *rows("vit", 0.5)]) is None
    reason = pruning.reason([*rows("cnn", 0.3, 0.5, 0.4), *rows("vit", 0.3)])
    assert reason is not None and reason.startswith("after 4 of 6 epochs of finetuning: macro_f1 0.4000")
