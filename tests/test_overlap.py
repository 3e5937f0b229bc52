"""Studies that overlap: the second computes only what the first did not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from studies import batch_ablation, paper_grid
from tests import small

COMMON = {
    "--data.pretrain-fraction": "0.2",
    "--finetune.epochs": "1",
    "--seeds": "0",
    "--probe-seconds": "0",
    "--pretrain.batch-size": ("8", "16"),
}


def run(study: object, results: Path, **options: tuple[str, ...]) -> int:
    """Run a study of the paper, small, in this process."""
    given = {**COMMON, **{f"--{name.replace('__', '.').replace('_', '-')}": words for name, words in options.items()}}
    words = [word for name, value in given.items() for word in (name, *((value,) if isinstance(value, str) else value))]
    arguments = ["--local", "--device", "cpu", "--results", str(results), *words]
    return study.STUDY.main(small.report, arguments)  # type: ignore[attr-defined]


def epochs(results: Path, kind: str) -> Counter[tuple[str, str, int]]:
    """Return how often each epoch was computed, by folder, phase and epoch."""
    return Counter(
        (path.parent.parent.name, row["phase"], row["epoch"])
        for path in results.glob(f"{kind}/*/epochs/*.jsonl")
        for row in map(json.loads, path.read_text().splitlines())
    )


@pytest.mark.parametrize(("recipe", "first", "both"), [("as_described", 10, 20), ("corrected", 10, 23)])
def test_the_grid_after_a_longer_batch_ablation(
    recipe: str, first: int, both: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ablation runs through what the grid's shortest trials go on from: 5 epochs, or a trunk of 4."""
    few = {"recipe": (recipe,), "data__pretrain_fraction": ("0.05",), "pretrain__batch_size": ("16",)}
    few |= {"finetune__warmup_epochs": ("0",), "data__label_fraction": ("0.1",)}
    assert run(batch_ablation, tmp_path, **few) == 0
    assert epochs(tmp_path, "stages").total() == first
    assert " ends of pretrainings (1 of them for other studies)" in capsys.readouterr().out
    assert run(paper_grid, tmp_path, **few) == 0
    assert f", 35 epochs asked for, {both - first} to run" in capsys.readouterr().out
    assert epochs(tmp_path, "stages").total() == both and set(epochs(tmp_path, "stages").values()) == {1}


def test_the_grid_after_the_batch_ablation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(batch_ablation, tmp_path, pretrain__epochs=("2",)) == 0
    before = {kind: epochs(tmp_path, kind) for kind in ("stages", "trials")}
    assert len(before["stages"]) == 2 * 2 and len(before["trials"]) == (2 + 1) * 2
    capsys.readouterr()
    grid = {"data__label_fraction": ("0.1", "1.0"), "pretrain__epochs": ("2", "3")}
    assert run(paper_grid, tmp_path, **grid) == 0
    out = capsys.readouterr().out
    assert "8 cells and 2 controls" in out and "finished: 3 done; to run: 7" in out
    assert "pretraining: 2 distinct, 20 epochs asked for, 2 to run" in out
    after = {kind: epochs(tmp_path, kind) for kind in ("stages", "trials")}
    assert set(after["stages"].values()) == set(after["trials"].values()) == {1}, "nothing was computed twice"
    assert len(after["stages"]) == 2 * 3 and len(after["trials"]) == (8 + 2) * 2
    assert run(paper_grid, tmp_path, **grid) == 0
    assert epochs(tmp_path, "trials") == after["trials"]
