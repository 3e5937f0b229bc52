"""Measuring and sharing a card, by real Ray with a GPU that is only counted: the steps are taken on the CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from cass_tune import runner
from cass_tune.config import Trial, to_json
from cass_tune.durations import Durations
from cass_tune.fitting import is_enough
from cass_tune.memory import Card, Reading, section_of, shape
from cass_tune.pace import kind
from cass_tune.probe import Measured
from cass_tune.runner import Demand, Machine, machines, probing
from cass_tune.runner.probing import Together, probe_together, steps_per_second
from tests import small, tiny

SHORT = ("--pretrain.epochs", "1", "--finetune.epochs", "1")
CARD = Card(name="NVIDIA Test", total_gib=16.0)


def test_steps_per_second_counts_while_all_are_at_work() -> None:
    assert steps_per_second([[0.0, 1.0, 2.0, 3.0]]) == 1.0
    assert steps_per_second([[0.0, 1.0, 2.0, 3.0, 4.0], [1.0, 1.5, 2.0, 2.5, 3.0]]) == (2 + 4) / 2
    assert steps_per_second([[0.0, 1.0], [2.0, 3.0]]) == 0.0


@pytest.mark.parametrize(
    ("cpus", "limit_s", "rates", "expected", "is_over"),
    [
        (8, 100.0, {1: 100.0, 2: 190.0, 4: 300.0, 8: 400.0}, [1, 2, 4, 8], True),
        (8, 100.0, {1: 100.0, 2: 190.0, 4: 191.0}, [1, 2, 4], True),
        (8, 100.0, {1: 100.0, 2: None}, [1], False),
        (4, 100.0, {1: 100.0, 2: 190.0, 4: 300.0}, [1, 2, 4], False),
        (8, 25.0, {1: 100.0, 2: 190.0, 4: 300.0}, [1, 2], False),
    ],
    ids=["memory", "gain", "an error", "CPUs", "time"],
)
def test_what_was_measured_until_the_end_is_enough(
    monkeypatch: pytest.MonkeyPatch,
    cpus: int,
    limit_s: float,
    rates: Mapping[int, float | None],
    expected: Sequence[int],
    is_over: bool,
) -> None:
    now = [0.0]

    def rate(probers: Sequence[None], *_: object) -> float | None:
        now[0] += 10
        return rates[len(probers)]

    monkeypatch.setattr(probing, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": "one", "Resources": {"CPU": cpus, "GPU": 1}}])
    monkeypatch.setattr(probing, "_on_one_card", lambda most, *_: nullcontext([None] * most))
    monkeypatch.setattr(probing, "_rate", rate)
    kind = Together(trial=tiny.BASE, phase="pretrain", checkpointing=False, most=8)
    (found,) = probe_together([kind], cpus=1.0, node="one", limit_s=limit_s)
    assert list(found) == expected
    assert is_enough(found, kind.most) is is_over


def here() -> str:
    return ray.get_runtime_context().get_node_id()


@pytest.mark.ray
@pytest.mark.usefixtures("one_gpu")
class TestByRay:
    """Two CPUs, and one GPU that is only counted."""

    def test_a_machine_without_a_driver_names_no_card(self) -> None:
        assert machines() == []

    def test_trials_together_are_measured_as_far_as_there_are_cpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probing, "TOGETHER_S", 2.0)
        kind = Together(trial=tiny.BASE, phase="pretrain", checkpointing=False, most=8)
        options: dict[str, Any] = {"device": "cpu", "threads": 1, "workers": 0}
        (rates,) = probe_together([kind], cpus=1.0, node=here(), limit_s=300, **options)
        assert set(rates) in ({1}, {1, 2}) and all(rate > 0 for rate in rates.values())
        assert ray.available_resources().get("GPU", 0) == 1 or ray.get(_is_free.remote(), timeout=30)

    def test_without_time_nothing_is_measured(self) -> None:
        kind = Together(trial=tiny.BASE, phase="pretrain", checkpointing=False, most=2)
        assert probe_together([kind], cpus=1.0, node=here(), limit_s=0.5, device="cpu", threads=1, workers=0) == [{}]

    def test_a_study_measures_then_shares_and_remembers(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        speeds: list[tuple[str, int]] = []
        monkeypatch.setattr(Durations, "measured", lambda _, card, found: speeds.append((card, len(found))))
        asked = _on_a_card(monkeypatch, gib=3.0)
        line = ["--pretrain.learning-rate", "0.001", *SHORT]
        assert small.run(*line, "--probe-seconds", "300", results=tmp_path) == 0
        assert "NVIDIA Test (16 GiB): 2 trials, 2 at a time on one card" in capsys.readouterr().out
        records = [json.loads(path.read_text()) for path in tmp_path.glob("cards/*.json")]
        assert {record["shape"][0]: record["gib"] for record in records} == {
            "pretrain": {"8": 3.0},
            "finetune_cnn": {"16": 3.0},
            "finetune_vit": {"16": 3.0},
        }
        rates = {record["shape"][0]: record["together"] for record in records if record["together"]}
        together = {"1": 100.0, "2": 190.0, "4": 191.0}
        with_a_core = "1 CPUs, 1 threads, 0 workers"
        assert rates == {
            "pretrain": {with_a_core: {"8": together}},
            "finetune_vit": {with_a_core: {"16": together}},
        }
        assert asked == {"memory": 3, "together": 2}
        assert speeds == [(CARD.kind, 3)]
        assert small.run(*line, "--seeds", "1", "--probe-seconds", "300", results=tmp_path) == 0
        assert asked["together"] == 2, "what was measured is remembered"
        assert "NVIDIA Test (16 GiB): 2 trials, 2 at a time on one card" in capsys.readouterr().out

    def test_a_batch_that_does_not_fit_is_refused_before_the_start(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _on_a_card(monkeypatch, gib=None)
        line = ["--probe-seconds", "300", "--pretrain.learning-rate", "0.001", *SHORT]
        assert small.run(*line, results=tmp_path) == 2
        err = " ".join(capsys.readouterr().err.split())
        assert "--pretrain.batch-size 8 at 32 px does not fit on NVIDIA Test (16 GiB) with activation" in err
        assert not list(tmp_path.glob("trials/*"))


@ray.remote(num_gpus=1)
def _is_free() -> bool:
    return True


def _on_a_card(monkeypatch: pytest.MonkeyPatch, gib: float | None) -> dict[str, int]:
    """Let a study believe in a card on which every step takes so much memory; return what it asks to be measured."""
    asked = {"memory": 0, "together": 0}

    def probe_there(wanted: Sequence[tuple[Trial, str]], *, modes: Sequence[bool], **_: object) -> Measured:
        readings = [
            Reading(
                shape=shape(to_json(trial), phase),
                batch_size=getattr(trial, section_of(phase)).batch_size,
                checkpointing=mode,
                gib=gib,
            )
            for trial, phase in wanted
            for mode in (modes[:1] if gib else modes)
        ]
        asked["memory"] += len(wanted)
        per_image = {kind(to_json(trial), phase): 0.01 for trial, phase in wanted}
        return Measured(card=CARD, readings=readings, per_image=per_image)

    def together(kinds: Sequence[Together], **_: object) -> list[dict[int, float]]:
        asked["together"] += len(kinds)
        return [{1: 100.0, 2: 190.0, 4: 191.0} for _ in kinds]

    def on_cpu(*, device: str, **given: Any) -> Demand:
        assert device == "cuda"
        return Demand(device="cpu", **given)

    machine = {"name": "here", "label": "", "count": 1.0, "cards": (CARD,)}
    monkeypatch.setattr(runner, "machines", lambda: [Machine(node=here(), **machine)])
    monkeypatch.setattr(runner, "probe_there", probe_there)
    monkeypatch.setattr(runner, "probe_together", together)
    monkeypatch.setattr(runner, "Demand", on_cpu)
    return asked
