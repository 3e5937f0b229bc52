"""The probe: how long steps take, before the first trial; it leaves no trace in any number."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cass_tune.config import ARMS, Data, Finetune, Pretrain, Trial, to_json
from cass_tune.pace import PHASES, kind
from cass_tune.probe import Measured, probe
from cass_tune.results import Results
from tests import small

TRIAL = Trial(
    data=Data(image_size_px=32),
    pretrain=Pretrain(cnn="test_resnet.r160_in1k", vit="test_vit.r160_in1k", weights="gone", batch_size=8),
    finetune=Finetune(batch_size=4),
)
KINDS = [(TRIAL, phase) for phase in PHASES]
ON_CPU: dict[str, Any] = {"device": "cpu", "threads": 1, "workers": 0}
TIMES = ("seconds", "images_per_second", "peak_memory_gib", "utilisation")


def test_a_probe_of_the_small_networks(tmp_path: Path) -> None:
    """Given the whole minute it needs a fraction of it; the weights, which are not there, are not read."""
    begun = time.monotonic()
    found = probe(KINDS, **ON_CPU, limit_s=60)
    assert found.problems == []
    assert set(found.per_image) == {kind(to_json(TRIAL), phase) for phase in PHASES}
    assert all(0 < each < 1 for each in found.per_image.values())
    assert found.took_s <= time.monotonic() - begun < 20
    assert list(tmp_path.iterdir()) == []


def test_it_changes_nothing_of_torch() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    probe(KINDS[:1], device="cpu", threads=threads + 1, workers=0, limit_s=60)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_it_ends_in_time() -> None:
    """Steps of whole batches would take longer than there is: the small ones are used, or the first of all."""
    large = Trial(
        data=Data(image_size_px=64),
        pretrain=Pretrain(cnn=TRIAL.pretrain.cnn, vit=TRIAL.pretrain.vit, batch_size=4096),
        finetune=Finetune(batch_size=4096),
    )
    begun = time.monotonic()
    found = probe([(large, phase) for phase in PHASES], **ON_CPU, limit_s=3)
    assert time.monotonic() - begun < 15
    assert len(found.per_image) == 3 and found.problems == []


def test_no_time_at_all() -> None:
    found = probe(KINDS, **ON_CPU, limit_s=0)
    assert found.per_image == {} and found.problems == ["no time was left for 3 of 3 kinds of step"]


def test_what_fails_is_a_problem_and_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from cass_tune.training.pretrain import Pretraining

    def broken(self: Pretraining, until: int | None = None) -> Iterator[Any]:
        raise RuntimeError("CUDA out of memory.\nTried to allocate")
        yield

    monkeypatch.setattr(Pretraining, "run", broken)
    found = probe(KINDS, **ON_CPU, limit_s=60)
    assert found.problems == ["RuntimeError: CUDA out of memory."]
    assert {each[0] for each in found.per_image} == {f"finetune_{arm}" for arm in ARMS}


def numbers(root: Path) -> dict[str, object]:
    """Return every number of every trial that does not tell a time or a place."""
    found: dict[str, object] = {}
    for path in sorted(root.glob("*/*/epochs/*.jsonl")):
        rows = [{name: value for name, value in row.items() if name not in TIMES} for row in small.json_lines(path)]
        found.setdefault(path.parent.parent.name, rows)
    for path in root.glob("trials/*/result.json"):
        found[f"result {path.parent.name}"] = json.loads(path.read_text())["arms"]
    for path in root.glob("trials/*/*.safetensors"):
        found[f"{path.parent.name}/{path.name}"] = path.read_bytes()
    return found


class TestInAStudy:
    """Before its first trial."""

    def test_numbers_are_the_same_with_and_without(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert small.run("--local", "--probe-seconds", "60", results=tmp_path / "with") == 0
        lines = capsys.readouterr().out.splitlines()
        (measured,) = (line for line in lines if "by a probe of " in line)
        assert measured.startswith("hours: less than 0.01 machine-hours, by a probe of ")
        assert lines.index(measured) < lines.index(next(line for line in lines if line.startswith("  started")))
        assert small.run("--local", results=tmp_path / "without") == 0
        assert "probe of" not in capsys.readouterr().out
        found = numbers(tmp_path / "with")
        assert len(found) == 3 + 2 + 3 + 3 * 2, "rows of trials and pretrainings, results, networks"
        assert found == numbers(tmp_path / "without")

    def test_it_is_left_out_when_earlier_trials_tell(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        line = ["--local", "--pretrain.learning-rate", "0.001"]
        assert small.run(*line, results=tmp_path) == 0
        asked: list[int] = []
        monkeypatch.setattr("cass_tune.probe.probe", lambda wanted, **_: asked.append(len(wanted)) or Measured())
        assert small.run(*line, "--seeds", "0", "1", "--probe-seconds", "60", results=tmp_path) == 0
        assert asked == []
        assert small.run(*line, "--pretrain.batch-size", "4", "--probe-seconds", "60", results=tmp_path) == 0
        assert asked == [1], "the pretraining with another batch size; the control has finetuned these networks"

    @pytest.mark.parametrize("raises", [False, True])
    def test_a_probe_that_fails_stops_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, raises: bool
    ) -> None:
        def fail(wanted: object, **_: object) -> Measured:
            if raises:
                raise torch.OutOfMemoryError("no luck")
            return Measured(problems=["OutOfMemoryError: no luck"])

        monkeypatch.setattr("cass_tune.probe.probe", fail)
        line = ["--local", "--pretrain.learning-rate", "0.001", "--probe-seconds", "60"]
        assert small.run(*line, results=tmp_path) == 0
        out = capsys.readouterr().out
        assert "probe: OutOfMemoryError: no luck\n" in out and out.count("hours: not known before") == 2


@pytest.mark.ray
@pytest.mark.usefixtures("one_cpu")
class TestByRay:
    """In an actor, where trials run."""

    def test_it_measures(self) -> None:
        from cass_tune.runner import probe_there

        found = probe_there(KINDS, **ON_CPU, resources={"cpu": 1.0, "gpu": 0.0}, limit_s=60)
        assert len(found.per_image) == 3 and found.problems == []

    def test_one_that_finds_no_place_is_not_waited_for(self) -> None:
        from cass_tune.runner import probe_there

        begun = time.monotonic()
        found = probe_there(KINDS, **ON_CPU, resources={"cpu": 500.0, "gpu": 0.0}, limit_s=4)
        assert found.per_image == {} and found.problems[0].startswith("GetTimeoutError: ")
        assert time.monotonic() - begun < 4

    def test_one_whose_process_dies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from cass_tune.runner import probe_there, probing

        class Dies(probing._Prober):
            def measure(self, wanted: object, options: object) -> Measured:
                os._exit(1)

        monkeypatch.setattr(probing, "_Prober", Dies)
        found = probe_there(KINDS, **ON_CPU, resources={"cpu": 1.0, "gpu": 0.0}, limit_s=60)
        assert found.per_image == {} and len(found.problems) == 1

    @pytest.mark.parametrize("where", [[], ["--address", "auto"]])
    def test_a_study_probes_first_and_says_what_it_takes(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: list[str]
    ) -> None:
        line = ["--pretrain.learning-rate", "0.001", "--probe-seconds", "60", *where]
        assert small.run(*line, results=tmp_path) == 0
        lines = capsys.readouterr().out.splitlines()
        (measured,) = (line for line in lines if "by a probe of " in line)
        assert lines.index(measured) < lines.index(next(line for line in lines if line.startswith("  started")))
        assert Results(tmp_path).trial(small.wanted(tmp_path)["seed=0"]).is_finished()
