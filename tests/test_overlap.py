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
