"""Kernels without a deterministic form are named in the trial's environment."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cass_tune.results import Results
from cass_tune.storage import read_json
from cass_tune.training.determinism import Alerts, prepare_torch
from cass_tune.training.pretrain import Pretraining
from cass_tune.trial import RunOptions, run_trial
from tests import tiny


def nondeterministic() -> None:
    torch.zeros(3).put_(torch.tensor([1]), torch.tensor([2.0]))


@pytest.fixture
def _captured() -> Iterator[None]:
    logging.captureWarnings(True)
    yield
    logging.captureWarnings(False)


@pytest.mark.filterwarnings("default")
def test_every_block_hears_of_a_kernel_once(_captured: None) -> None:
    prepare_torch(torch.device("cpu"), 1)
    for _ in range(2):
        alerts = Alerts()
        with alerts.listening():
            nondeterministic()
        assert alerts.kernels == {"put_"}


@pytest.mark.filterwarnings("default")
def test_the_environment_names_it_also_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is used in the pretraining alone; the trial's own record takes it over from there."""
    original = Pretraining._train

    def train(self: Any) -> dict[str, Any]:
        nondeterministic()
        return original(self)

    monkeypatch.setattr(Pretraining, "_train", train)
    list(run_trial(tiny.BASE, Results(tmp_path), RunOptions()))
    for kind in ("trials", "stages"):
        (path,) = tmp_path.glob(f"{kind}/*/environment.json")
        record = read_json(path)
        assert record is not None and record["nondeterministic"] == ["put_"]


def test_nothing_is_named_otherwise(tmp_path: Path) -> None:
    list(run_trial(tiny.BASE, Results(tmp_path), RunOptions()))
    (path,) = tmp_path.glob("trials/*/environment.json")
    record = read_json(path)
    assert record is not None and record["nondeterministic"] == []
