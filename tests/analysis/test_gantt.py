"""Attempts by machine: phases, ends, places and pauses."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.patches import Rectangle

from analysis.frames import records, where
from analysis.gantt import gantt
from analysis.gantt_drawing import gantt_figure, pauses
from cass_tune.leases import Lease
from tests.analysis.synthetic import SMALL, Root, cells

TRIALS = cells(SMALL, "pretrain.batch_size", [8, 16], (0,))
CONTROL, EIGHT, SIXTEEN = TRIALS
STAGE = "5" * 64


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path)
    root.segments[EIGHT] = [{"stage": STAGE, "start": 0, "end": 2}]
    root.plan(TRIALS)
    return root


def spans(root: Root, attempt: str) -> list[tuple]:
    return [
        (row["phase"], row["start_s"], row["end_s"], row["ended"])
        for row in records(where(gantt(root.study), {"attempt": attempt}))
    ]


def test_phases_follow_each_other_and_the_rest_is_other(root: Root) -> None:
    root.attempt(CONTROL, "a", "12:00:00", "12:00:05")
    root.attempt(EIGHT, "b", "12:00:10", "12:01:00")
    root.compute(STAGE, "pretrain", [10, 12], attempt="b")
    root.compute(EIGHT, "finetune_cnn", [5], attempt="b")
    root.compute(EIGHT, "finetune_vit", [3, 4], attempt="b")
    assert spans(root, "a") == [("other", 0, 5, "finished")]
    assert spans(root, "b") == [
        ("pretrain", 10, 32, None),
        ("finetune_cnn", 32, 37, None),
        ("finetune_vit", 37, 44, None),
        ("other", 44, 60, "finished"),
    ]


def test_each_attempt_has_what_it_computed_itself(root: Root) -> None:
    root.attempt(EIGHT, "a", "12:00:00", "12:00:20", "interrupted")
    root.attempt(EIGHT, "b", "12:01:00", "12:01:20", "failed")
    root.attempt(EIGHT, "c", "12:02:00", "12:02:20")
    root.compute(STAGE, "pretrain", [8], attempt="a")
    root.compute(STAGE, "pretrain", [8, 9], attempt="b")  # the first row is only written again
    root.compute(EIGHT, "finetune_cnn", [20], attempt="c")
    assert spans(root, "a") == [("pretrain", 0, 8, None), ("other", 8, 20, "interrupted")]
    assert spans(root, "b") == [("pretrain", 60, 69, None), ("other", 69, 80, "failed")]
    assert spans(root, "c") == [("finetune_cnn", 120, 140, "finished")]


def test_an_attempt_for_which_the_gpu_was_too_small_is_marked(root: Root) -> None:
    ended = {"how": "failed", "time": "2026-01-01T12:00:20+00:00", "out_of_memory": True}
    root.attempt(EIGHT, "a", "12:00:00", "12:00:20", ended=ended)
    root.attempt(EIGHT, "b", "12:01:00", "12:01:20")
    assert spans(root, "a") == [("other", 0, 20, "out_of_memory")]
    (legend,) = gantt_figure(gantt(root.study), "A title").legends
    assert "GPU memory not enough" in [text.get_text() for text in legend.get_texts()]


def test_training_does_not_last_longer_than_its_attempt(root: Root) -> None:
    root.attempt(EIGHT, "a", "12:00:00", "12:00:10")
    root.compute(STAGE, "pretrain", [50], attempt="a")
    assert spans(root, "a") == [("pretrain", 0, 10, "finished")]


def test_a_dead_process_ends_with_its_last_epoch(root: Root) -> None:
    root.attempt(EIGHT, "a", "12:00:00", None)
    root.compute(STAGE, "pretrain", [7, 8], attempt="a")
    assert spans(root, "a") == [("pretrain", 0, 15, "died")]


def test_a_held_trial_runs_until_its_last_heartbeat(root: Root) -> None:
    root.attempt(EIGHT, "a", "12:00:00", None)
    with Lease.acquire(root.results.trial(root.digest(EIGHT)).path, "a"):
        ((phase, start, end, ended),) = spans(root, "a")
    assert (phase, start, ended) == ("other", 0, "running") and end > 0


def test_attempts_at_the_same_time_have_places_of_their_own(root: Root) -> None:
    root.attempt(CONTROL, "a", "12:00:00", "12:00:10")
    root.attempt(EIGHT, "b", "12:00:05", "12:00:20")
    root.attempt(SIXTEEN, "c", "12:00:05", "12:00:20", host="two")
    root.attempt(CONTROL, "d", "12:00:10", "12:00:20")
    found = gantt(root.study)
    assert found[["attempt", "host", "place"]].values.tolist() == [
        ["a", "one", 1],
        ["b", "one", 2],
        ["c", "two", 1],
        ["d", "one", 1],
    ]
    (panel,) = gantt_figure(found, "A title").axes
    assert [text.get_text() for text in panel.get_yticklabels()] == ["one, 1", "one, 2", "two"]


def test_long_pauses_are_cut_out(root: Root) -> None:
    assert pauses([(0, 10), (10.5, 20), (120, 130), (125, 140)]) == [(20, 120)]
    assert pauses([(0, 10), (2, 3), (10, 20)]) == []
    root.attempt(CONTROL, "a", "12:00:00", "12:01:00")
    root.attempt(EIGHT, "b", "14:01:00", "14:02:00", "interrupted", host="two")
    (panel,) = gantt_figure(gantt(root.study), "A title").axes
    drawn = [bar for bar in panel.patches if isinstance(bar, Rectangle)]
    bars = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in drawn)
    assert bars == [pytest.approx((0, 1)), pytest.approx((1, 2))]
    assert panel.get_xlabel() == "Time since the first start, without pauses (min)"
    assert [text.get_text() for text in panel.texts] == ["2.0 h pause"]


def test_without_any_attempt_there_is_nothing(root: Root) -> None:
    assert gantt(root.study).empty
