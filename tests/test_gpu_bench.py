"""The one command that measures what the card gives a trial, at its smallest and on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cass_tune.training.determinism import prepare_torch
from tests import tiny
from tests.benchmarks.gpu.__main__ import PARTS, main
from tests.benchmarks.gpu.stepping import Images, Rung, ladder, operations_per_image, step_of

pytestmark = pytest.mark.slow

LINE = (
    f"--device cpu --cnn {tiny.CNN} --vit {tiny.VIT} --size 32 --batches 2 --compile-batches --evaluation 2 "
    "--seconds 0.01 --matrix 32 --workers 0 --processes 1 --seeds 0 1 --epochs 1 --equality-size 32 "
    "--label-fraction 0.05 --root"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path: Path = tmp_path_factory.mktemp("bench") / "bench.json"
    assert main([*LINE.split(), "", "--out", str(path)]) == 0
    prepare_torch(torch.device("cpu"), 1)
    return json.loads(path.read_text())


def test_every_part_is_measured(found: dict[str, Any]) -> None:
    assert set(PARTS) < set(found) and found["device"].startswith("cpu (")
    assert set(found["peak"]) == {"fp32", "bf16", "tf32"} and min(found["peak"].values()) > 0
    rows = [*found["ladder"], *found["arms"], *found["evaluation"], *found["packing"]]
    assert all(row["images_per_second"] > 0 for row in rows)
    assert found["synchronisations"] == [
        {"pipeline": name, "per_step": None} for name in ("torchvision-1", "device-1")
    ], "only a GPU tells"


def test_the_ladder_leads_from_the_notebook_to_this_package(found: dict[str, Any]) -> None:
    names = [row["name"] for row in found["ladder"]]
    assert names[:-3] == [rung.name for rung in ladder("bf16") if not rung.compiled]
    assert names[-3:] == ["ours, fp32", "ours, bf16", "ours, bf16, loading (0 workers)"]
    for row in found["ladder"]:
        assert row["share_of_peak"] > 0 and row["steps"] >= 1


def test_precisions_are_compared_seed_by_seed(found: dict[str, Any]) -> None:
    assert [(row["arm"], row["precision"]) for row in found["equality"]] == [
        (arm, name) for arm in ("cnn", "vit") for name in ("fp32", "bf16")
    ]
    for row in found["equality"]:
        assert row["seeds"] == 2 and 0 <= row["macro_f1"] <= 1
        if row["precision"] != "fp32":
            assert row["low"] <= row["difference"] <= row["high"]
            assert row["within_noise"] is (row["low"] <= 0 <= row["high"])


@pytest.mark.parametrize("rung", [rung for rung in ladder("bf16") if not rung.compiled], ids=lambda rung: rung.name)
def test_a_rung_takes_steps_that_learn(rung: Rung) -> None:
    images = Images(batch=4, size_px=32, device=torch.device("cpu"))
    arms = dict(tiny.arms().items())
    before = {arm: tiny.state(model) for arm, model in arms.items()}
    losses: list[float] = []
    step = step_of(rung, arms, images, losses.append)
    for _ in range(8):
        step()
    assert losses[-1] < losses[0]
    assert all(tiny.same(tiny.state(arms[arm]), before[arm]) for arm in arms), "copies are trained"


def test_operations_are_counted_forward_and_backward() -> None:
    """Of a linear layer: 2 x inputs x outputs forward, the same for its weights; its input wants no gradient."""

    class Flat(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input.flatten(1))

    size = 4
    assert operations_per_image({"cnn": Flat(3 * size * size, 5)}, size) == 2 * 2 * 3 * size * size * 5
