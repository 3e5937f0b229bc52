"""A trial that runs out of a GPU's memory is tried again alone on a card, once; Ray's GPUs here are only counted."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cass_tune.results import Record, Results
from cass_tune.runner.retries import Retries
from cass_tune.runner.trainable import FAILED, OUT_OF_MEMORY
from cass_tune.training import card_memory
from cass_tune.trial import RunOptions
from tests import small
from tests.short_of_memory import MESSAGE
from tests.test_retries import WANTED, Tune

AGAIN = "the GPU's memory was not enough; it is tried again"
COMMON = ("--pretrain.learning-rate", "0.001", "--max-failures", "0")


def method(name: str) -> tuple[str, str]:
    return "--pretrain.method", f"tests.short_of_memory:{name}"


def attempts(root: Path) -> list[Record]:
    """Return the attempts at the trial that has a pretraining."""
    (digest,) = (digest for name, digest in small.wanted(root).items() if not name.startswith("none"))
    return Results(root).trial(digest).attempts()


@pytest.mark.ray
@pytest.mark.usefixtures("one_gpu")
class TestByRay:
    """On half a GPU."""

    SHARE = ("--gpus-per-trial", "0.5", "--device", "cpu")

    def test_it_is_tried_again_with_a_whole_card(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert small.run(*self.SHARE, *COMMON, *method("NeedsACard"), results=tmp_path) == 0
        assert f"{AGAIN} alone on a card" in capsys.readouterr().out
        first, second = attempts(tmp_path)
        assert first["ended"] | {"time": "", "position": None} == {
            "how": "failed",
            "type": "OutOfMemoryError",
            "message": MESSAGE,
            "out_of_memory": True,
            "time": "",
            "position": None,
        }
        assert second["ended"]["how"] == "finished"
        assert (first["activation_checkpointing"], second["activation_checkpointing"]) == (False, True)

    def test_a_second_time_fails_it_with_what_to_do(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert small.run(*self.SHARE, *COMMON, *method("Always"), results=tmp_path) == 1
        out = " ".join(capsys.readouterr().out.split())
        assert out.count(AGAIN) == 1
        assert "OutOfMemoryError: The GPU's memory was not enough, alone on a card either. Give a smaller " in out
        assert [attempt["ended"]["how"] for attempt in attempts(tmp_path)] == ["failed", "failed"]
        assert small.run("--status", *method("Always"), results=tmp_path) == 0
        assert "Give a smaller --pretrain.batch-size or" in capsys.readouterr().out


class TestInThisProcess:
    """With --local, where no other trial is at work."""

    def test_it_is_tried_again_with_activation_checkpointing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert small.run("--local", *COMMON, *method("NeedsCheckpointing"), results=tmp_path) == 0
        assert f"{AGAIN} once" in capsys.readouterr().out
        first, second = attempts(tmp_path)
        assert (first["activation_checkpointing"], second["activation_checkpointing"]) == (False, True)
        assert second["ended"]["how"] == "finished"

    def test_not_where_that_is_switched_off(self, tmp_path: Path) -> None:
        off = ("--activation-checkpointing", "off")
        assert small.run("--local", *off, *COMMON, *method("NeedsCheckpointing"), results=tmp_path) == 1
        assert [attempt["activation_checkpointing"] for attempt in attempts(tmp_path)] == [False, False]


class TestTheDriver:
    """What it makes of the rows that a trial reports."""

    @pytest.fixture
    def tune(self, tmp_path: Path) -> Tune:
        return Tune(Retries(Results(tmp_path), max_failures=0))

    def test_once_is_no_failure(self, tune: Tune) -> None:
        tune.report(OUT_OF_MEMORY)
        assert tune.trial.max_failures == -1
        assert tune.retries.recovered(tune.trial, WANTED) == OUT_OF_MEMORY

    def test_twice_is(self, tune: Tune) -> None:
        outcomes = []
        for _ in range(2):
            tune.report(OUT_OF_MEMORY)
            outcomes.append(tune.dies())
        assert outcomes == [True, False]

    def test_one_that_failed_for_good_is_not_tried_again(self, tune: Tune) -> None:
        tune.report(OUT_OF_MEMORY)
        tune.report(FAILED)
        assert not tune.dies()


@pytest.mark.parametrize(("memories", "chosen"), [([], []), ([80], []), ([80, 40, 40], [1])])
def test_of_several_cards_that_with_the_least_memory_is_used(
    monkeypatch: pytest.MonkeyPatch, memories: list[int], chosen: list[int]
) -> None:
    """The calls of torch.cuda are imitated."""
    found: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(memories))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda n: SimpleNamespace(total_memory=memories[n]))
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    card_memory.use_least_card()
    assert found == chosen


class TestTheCap:
    """A process's part of a card's memory; the calls of torch.cuda are imitated."""

    @pytest.fixture
    def fractions(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        found: list[float] = []
        properties = type("Properties", (), {"name": "NVIDIA Test", "total_memory": 20 * 2**30})
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", found.append)
        return found

    @pytest.mark.parametrize(("part", "expected"), [(0.5, 0.5 - 0.6 / 20), (1.0, 1.0), (0.04, 0.02)])
    def test_it_leaves_room_for_the_context(self, fractions: list[float], part: float, expected: float) -> None:
        card_memory.cap_memory(part)
        assert fractions == [pytest.approx(expected)]

    @pytest.mark.parametrize(
        ("place", "fractions_set", "checkpointing"),
        [
            ({"device": "cuda", "share": 0.5, "cap": 0.5, "checkpointing": True}, [0.47], True),
            ({"device": "cuda", "share": 1.0, "cap": 1.0, "checkpointing": False}, [1.0], False),
            ({"device": "cpu", "share": 0.5, "cap": 0.5, "checkpointing": True}, [], True),
            (None, [0.22], False),
        ],
    )
    def test_a_trial_runs_as_it_fits_in_the_place_that_it_got(
        self,
        fractions: list[float],
        monkeypatch: pytest.MonkeyPatch,
        place: Mapping[str, Any] | None,
        fractions_set: list[float],
        checkpointing: bool,
    ) -> None:
        """A process that is used again has the next trial's cap; without a fit it has the part that Ray gave it."""
        module = importlib.import_module("cass_tune.runner.trainable")
        monkeypatch.setattr(module, "_assigned_gpus", lambda: 0.25)
        options = module._placed(RunOptions(device="cuda"), place)
        assert options.device == (place or {}).get("device", "cuda")
        assert options.activation_checkpointing is checkpointing
        assert fractions == pytest.approx(fractions_set)
