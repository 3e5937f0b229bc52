"""Which part of a card a trial takes, from what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cass_tune.config import to_json
from cass_tune.errors import UsageError
from cass_tune.fitting import (
    Fit,
    Fitter,
    best_together,
    is_enough,
    largest_batch,
    most_together,
    numbers_to_try,
    part,
)
from cass_tune.memory import CONTEXT_GIB, Card, Footprints, Host, Reading, shape
from cass_tune.pace import PHASES
from cass_tune.plan import Wanted
from cass_tune.results import Results
from tests import tiny

CARD = Card(name="NVIDIA T4", total_gib=15.0)
LARGE = Card(name="NVIDIA H200", total_gib=140.0)
TRIAL = tiny.trial({"pretrain.batch_size": 64, "finetune.batch_size": 16})
WANTED = Wanted(trial=TRIAL, name="seed=0", inputs=None, digest="a" * 64)
Readings = Mapping[tuple[str, int, bool], float | None]
FITS: Readings = {("pretrain", 64, False): 3.0, ("finetune_cnn", 16, False): 1.0, ("finetune_vit", 16, False): 2.0}


@pytest.fixture
def known(tmp_path: Path) -> Footprints:
    return Footprints(Results(tmp_path))


def learn(known: Footprints, readings: Readings, card: Card = CARD, trial: Any = TRIAL) -> None:
    known.add(
        card,
        [
            Reading(shape=shape(to_json(trial), phase), batch_size=batch, checkpointing=checkpointing, gib=gib)
            for (phase, batch, checkpointing), gib in readings.items()
        ],
    )


def learn_rates(known: Footprints, rates: Mapping[int, float], batch: int = 64, *, checkpointing: bool = False) -> None:
    known.add_rates(CARD, shape(to_json(TRIAL), "pretrain"), batch, rates, host=Host(), checkpointing=checkpointing)


@pytest.mark.parametrize(
    ("need", "card", "expected"),
    [(0.5, 140, 8), (3.0, 15.0, 3), (7.0, 15.0, 1), (6.2, 15.0, 2), (20.0, 15.0, 1)],
)
def test_memory_for_so_many_with_margin_and_context(need: float, card: float, expected: int) -> None:
    assert most_together(need, card) == expected
    if 1 < expected < 8:
        assert expected * (1.1 * need + CONTEXT_GIB) <= card < (expected + 1) * (1.1 * need + CONTEXT_GIB)


@pytest.mark.parametrize("trials", range(1, 9))
def test_so_many_shares_are_a_card_by_rays_count(trials: int) -> None:
    """Ray rounds to 1/10000: six times 0.1667 would be more than a card."""
    assert trials * round(part(trials), 4) <= 1 < (trials + 1) * part(trials)


def test_numbers_to_try() -> None:
    assert [numbers_to_try(most) for most in (1, 2, 3, 8)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8]]


@pytest.mark.parametrize(
    ("rates", "most", "expected"),
    [
        ({1: 100.0, 2: 180.0, 4: 200.0, 8: 201.0}, 8, 4),
        ({1: 100.0, 2: 104.0, 4: 300.0}, 8, 1),
        ({1: 100.0, 2: 180.0, 4: 200.0}, 3, 2),
        ({1: 100.0}, 8, 1),
        ({2: 100.0}, 8, 1),
        ({}, 8, 1),
    ],
)
def test_more_together_only_while_it_pays(rates: Mapping[int, float], most: int, expected: int) -> None:
    assert best_together(rates, most) == expected


@pytest.mark.parametrize(
    ("rates", "most", "expected"),
    [
        ({1: 100.0, 2: 180.0, 4: 181.0}, 8, True),
        ({1: 100.0, 2: 102.0}, 8, True),
        ({1: 100.0, 2: 180.0, 3: 250.0}, 3, True),
        ({1: 100.0, 2: 180.0, 3: 250.0}, 8, False),
        ({1: 100.0}, 8, False),
        ({}, 8, False),
    ],
)
def test_a_measurement_is_over_where_more_gain_too_little_or_do_not_fit(
    rates: Mapping[int, float], most: int, expected: bool
) -> None:
    assert is_enough(rates, most) is expected


@pytest.mark.parametrize(
    ("gib", "room", "expected"),
    [
        ({2: 1.2, 4: 1.4, 512: None}, 11.0, 90),
        ({2: 1.2, 4: 1.4, 64: None}, 11.0, 63),
        ({2: 1.2, 512: None}, 11.0, None),
        ({2: 1.2, 4: 1.2}, 11.0, None),
        ({2: 1.2, 4: 1.4}, 0.5, 0),
    ],
)
def test_the_largest_batch_by_a_line(gib: Mapping[int, float | None], room: float, expected: int | None) -> None:
    assert largest_batch(gib, room) == expected


class TestFitter:
    """What a trial gets."""

    def test_a_whole_card_before_anything_is_measured(self, known: Footprints) -> None:
        assert Fitter(known)(WANTED, CARD.kind) == Fit(1.0, 1.0, False)

    def test_a_whole_card_before_speed_together_is_measured(self, known: Footprints) -> None:
        learn(known, FITS)
        assert Fitter(known)(WANTED, CARD.kind) == Fit(1.0, 1.0, False)

    def test_the_part_that_does_most_work_and_has_memory(self, known: Footprints) -> None:
        learn(known, FITS)
        learn_rates(known, {1: 100.0, 2: 150.0, 3: 190.0, 4: 500.0})
        assert Fitter(known)(WANTED, CARD.kind) == Fit(0.3333, 1 / 3, False)

    def test_a_measurement_of_another_batch_or_card_is_none(self, known: Footprints) -> None:
        learn(known, {("pretrain", 32, False): 3.0, **dict.fromkeys(list(FITS)[1:], 1.0)})
        learn_rates(known, {1: 100.0, 2: 200.0})
        fitter = Fitter(known)
        assert fitter(WANTED, CARD.kind).share == fitter(WANTED, LARGE.kind).share == 1.0
        assert not fitter.is_known(TRIAL, "pretrain", CARD.kind)
        assert fitter.is_known(TRIAL, "finetune_cnn", CARD.kind)

    def test_cards_of_one_name_with_different_memory_are_two_kinds(self, known: Footprints) -> None:
        larger = replace(CARD, total_gib=30.0)
        learn(known, {**FITS, ("pretrain", 64, False): None, ("pretrain", 64, True): None})
        learn(known, FITS, larger)
        assert Fitter(known).refusals([WANTED], [CARD.kind])
        assert Fitter(known)(WANTED, larger.kind) == Fit(1.0, 1.0, False)

    def test_it_is_remembered(self, known: Footprints, tmp_path: Path) -> None:
        learn(known, FITS)
        learn_rates(known, {1: 100.0, 2: 150.0})
        later = Footprints(Results(tmp_path))
        assert Fitter(later)(WANTED, CARD.kind) == Fit(0.5, 0.5, False)
        for phase in PHASES:
            assert Fitter(later).is_known(TRIAL, phase, CARD.kind)

    def test_speed_together_is_known_once_it_was_measured_to_the_end(self, known: Footprints, tmp_path: Path) -> None:
        learn(known, FITS)
        for rates, share in (({1: 100.0}, 1.0), ({1: 100.0, 2: 150.0}, 0.5), ({1: 100.0, 2: 150.0, 3: 151.0}, 0.5)):
            Fitter(known).learn_rates(TRIAL, CARD.kind, rates, checkpointing=False)
            for fitter in (Fitter(known), Fitter(Footprints(Results(tmp_path)))):
                assert fitter.knows_rates(TRIAL, CARD.kind, checkpointing=False) is (len(rates) == 3)
                assert fitter(WANTED, CARD.kind).share == share

    def test_no_more_is_measured_than_there_are_cores_for(self, known: Footprints) -> None:
        learn(known, FITS)
        fitter = Fitter(known)
        fitter.learn_rates(TRIAL, CARD.kind, {1: 100.0, 2: 150.0}, checkpointing=False)
        assert [fitter.knows_rates(TRIAL, CARD.kind, checkpointing=False, places=n) for n in (1, 2, 3)] == [
            True,
            True,
            False,
        ]

    @pytest.mark.parametrize("host", [Host(cpus=2.0), Host(threads=2), Host(workers=1)], ids=str)
    def test_speed_together_is_that_of_the_same_cores_threads_and_workers(
        self, known: Footprints, tmp_path: Path, host: Host
    ) -> None:
        learn(known, FITS)
        learn_rates(known, {1: 100.0, 2: 150.0, 3: 190.0})
        other = Fitter(known, host=host)
        assert not other.knows_rates(TRIAL, CARD.kind, checkpointing=False) and other(WANTED, CARD.kind) == Fit()
        other.learn_rates(TRIAL, CARD.kind, {1: 100.0, 2: 101.0}, checkpointing=False)
        for fitter, share in (Fitter(known), 0.3333), (other, 1.0):
            assert fitter.knows_rates(TRIAL, CARD.kind, checkpointing=False)
            assert fitter(WANTED, CARD.kind).share == share

    def test_speeds_of_an_earlier_version_are_unknown(self, known: Footprints, tmp_path: Path) -> None:
        learn(known, FITS)
        for path in tmp_path.glob("cards/*.json"):
            record = json.loads(path.read_text())
            del record["together"]
            path.write_text(json.dumps({**record, "rates": {"64": {"1": 100.0, "2": 150.0, "3": 190.0}}}))
        fitter = Fitter(Footprints(Results(tmp_path)))
        assert not fitter.knows_rates(TRIAL, CARD.kind, checkpointing=False)
        assert fitter.is_known(TRIAL, "pretrain", CARD.kind) and fitter(WANTED, CARD.kind) == Fit()
        fitter.learn_rates(TRIAL, CARD.kind, {1: 100.0, 2: 101.0}, checkpointing=False)
        assert Fitter(Footprints(Results(tmp_path))).knows_rates(TRIAL, CARD.kind, checkpointing=False)

    def test_a_damaged_record_is_no_measurement(self, known: Footprints, tmp_path: Path) -> None:
        learn(known, FITS)
        for path in tmp_path.glob("cards/*.json"):
            path.write_text("{")
        assert Fitter(Footprints(Results(tmp_path)))(WANTED, CARD.kind) == Fit()

    def test_checkpointing_where_a_batch_does_not_fit_otherwise(self, known: Footprints) -> None:
        learn(known, {**FITS, ("pretrain", 64, False): None, ("pretrain", 64, True): 9.0})
        assert Fitter(known)(WANTED, CARD.kind) == Fit(1.0, 1.0, True)
        assert Fitter(known).refusals([WANTED], [CARD.kind]) == []

    def test_one_that_does_not_fit_is_refused_with_what_would(self, known: Footprints) -> None:
        learn(known, {**FITS, ("pretrain", 64, False): None, ("pretrain", 64, True): None})
        learn(known, {("pretrain", 2, True): 1.6, ("pretrain", 4, True): 2.2})
        with pytest.raises(UsageError) as caught:
            Fitter(known)(WANTED, CARD.kind)
        assert caught.value.problems == (
            "--pretrain.batch-size 64 at 32 px does not fit on NVIDIA T4 (15 GiB) with activation checkpointing. "
            "Give --pretrain.batch-size 40 (about the largest that fits), or a card with more memory.",
        )
        assert Fitter(known).refusals([WANTED, WANTED], [CARD.kind]) == list(caught.value.problems)
        assert Fitter(known).refusals([WANTED], [CARD.kind, LARGE.kind]) == [], "it can run on the other kind"

    def test_without_checkpointing_it_is_proposed(self, known: Footprints) -> None:
        learn(known, {**FITS, ("finetune_cnn", 16, False): None})
        (problem,) = Fitter(known, mode="off").refusals([WANTED], [CARD.kind])
        assert problem.startswith(
            "--finetune.batch-size 16 at 32 px does not fit on NVIDIA T4 (15 GiB). Give a smaller "
        )
        assert "--activation-checkpointing auto" in problem

    def test_a_given_part_is_taken_and_capped(self, known: Footprints) -> None:
        assert Fitter(known, 0.25)(WANTED, CARD.kind) == Fit(0.25, 0.25, False)
        assert Fitter(known, 1.0)(WANTED, CARD.kind) == Fit(1.0, 1.0, False)

    def test_a_given_part_that_is_too_small_is_checkpointed_or_refused(self, known: Footprints) -> None:
        learn(known, {**FITS, ("pretrain", 64, True): 1.0})
        assert Fitter(known, 0.2)(WANTED, CARD.kind) == Fit(0.2, 0.2, True)
        (problem,) = Fitter(known, 0.2, "off").refusals([WANTED], [CARD.kind])
        assert "does not fit on --gpus-per-trial 0.2 of NVIDIA T4 (15 GiB)." in problem
        assert problem.endswith("or a larger --gpus-per-trial.")

    def test_a_control_has_no_pretraining(self, known: Footprints) -> None:
        learn(known, {**FITS, ("pretrain", 64, False): None, ("pretrain", 64, True): None})
        alone = tiny.trial({"pretrain.method": "none", "finetune.batch_size": 16})
        item = Wanted(trial=alone, name="control", inputs=None, digest="b" * 64)
        assert Fitter(known)(item, CARD.kind) == Fit()

    def test_on_the_cpu_nothing_is_shared(self, known: Footprints) -> None:
        assert Fitter(known)(WANTED, "cpu") == Fit(0.0, 1.0, False)
        assert Fitter(known, mode="on")(WANTED, "cpu").checkpointing


@pytest.mark.parametrize(
    ("path", "value", "phases"),
    [
        ("pretrain.compile", True, ["pretrain"]),
        ("finetune.compile", True, ["finetune_cnn", "finetune_vit"]),
        ("finetune.evaluation_batch_size", 256, ["finetune_cnn", "finetune_vit"]),
        ("finetune.precision", "bf16", ["finetune_cnn", "finetune_vit"]),
        ("finetune.batch_size", 32, []),
    ],
)
def test_what_changes_the_memory_of_a_step_makes_another_shape(path: str, value: Any, phases: list[str]) -> None:
    changed = tiny.trial({"pretrain.batch_size": 64, path: value})
    assert [phase for phase in PHASES if shape(to_json(changed), phase) != shape(to_json(TRIAL), phase)] == phases


def test_the_shape_of_records_before_a_field_is_that_of_its_neutral_value() -> None:
    old = to_json(TRIAL)
    for section in ("pretrain", "finetune"):
        for name in ("compile", "precision", "evaluation_batch_size"):
            old[section].pop(name, None)
    assert all(shape(old, phase) == shape(to_json(TRIAL), phase) for phase in PHASES)
