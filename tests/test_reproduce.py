"""A finished trial run again: identical, or what differs; and that nothing of the first run changes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from cass_tune.config import PROBES, with_field
from cass_tune.reproduce import main
from cass_tune.results import Results
from tests import tiny
from tests.runs import Run, run

TRIAL = tiny.trial()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(TRIAL, tmp_path_factory.mktemp("first"), probes=PROBES)


@pytest.fixture(scope="module")
def again(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a second run, kept."""
    into = tmp_path_factory.mktemp("again")
    assert main([finished.folder.id, "--results", str(finished.root), "--into", str(into)]) == 0
    return into


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_identical(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(finished.root)
    assert main([finished.folder.id[:5], "--results", str(finished.root)]) == 0
    text = capsys.readouterr().out
    for part in ("epochs: pretrain", "epochs: finetune_vit", "result: cnn", "predictions", "weights: vit"):
        (line,) = [line for line in text.splitlines() if line.strip().startswith(part)]
        assert line.endswith("identical")
    assert "IDENTICAL: all " in text and "NOT" not in text
    assert not (finished.root / "reproduced").exists()
    assert tree(finished.root) == before, "the second run has left something, or changed the first"


def edit_row(folder: Path) -> None:
    (path,) = (folder / "epochs").glob("*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["loss"] += 1e-7
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_result(folder: Path) -> None:
    result = json.loads((folder / "result.json").read_text())
    result["arms"]["vit"]["test"]["macro_f1"] = 0.25
    (folder / "result.json").write_text(json.dumps(result))


def edit_predictions(folder: Path) -> None:
    table = pq.read_table(folder / "predictions.parquet")
    outputs = table.column("outputs").to_pylist()
    outputs[3][0] += 0.5
    column = pa.array(outputs, table.schema.field("outputs").type)
    place = table.schema.get_field_index("outputs")
    pq.write_table(table.set_column(place, "outputs", column), folder / "predictions.parquet")


def edit_weights(folder: Path) -> None:
    tensors = load_file(folder / "cnn.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + 1
    save_file(tensors, folder / "cnn.safetensors")


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (edit_row, "epochs: finetune_cnn"),
        (edit_result, "result: vit"),
        (edit_predictions, "predictions"),
        (edit_weights, "weights: cnn"),
    ],
)
def test_says_what_differs(
    finished: Run,
    again: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    edit: Callable[[Path], None],
    expected: str,
) -> None:
    root = Path(shutil.copytree(finished.root, tmp_path / "root"))
    edit(root / "trials" / finished.folder.id)
    assert main([finished.folder.id, "--results", str(root), "--into", str(again)]) == 1
    text = capsys.readouterr().out
    lines = [line.strip() for line in text.splitlines() if "DIFFERS" in line]
    assert [line.partition("  ")[0] for line in lines] == [expected]
    assert f"NOT IDENTICAL: 1 of 10 parts differ, {expected} first" in text
    assert f"was already run again in {again}; delete that folder" in text
    if edit is edit_row:
        assert "from epoch 2 on: loss was" in lines[0] and "(by 1e-07)" in lines[0]
    assert again.exists()


def test_a_trial_that_is_not_there(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = finished.folder.id
    root = Path(shutil.copytree(finished.root, tmp_path / "root"))
    shutil.copytree(root / "trials" / name, root / "trials" / f"{name[:4]}ffffffff")
    for text, expected in (("zz", "No trial 'zz' below "), (name[:4], f"2 trials begin with {name[:4]!r}")):
        assert main([text, "--results", str(root)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {expected}") and f"There are: {min(name, f'{name[:4]}ffffffff')}" in error


def write(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_a_trial_that_cannot_be_compared(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = finished.folder.id

    def said(number: int, change: Callable[[Path], None]) -> str:
        root = Path(shutil.copytree(finished.root, tmp_path / str(number)))
        change(root / "trials" / name)
        assert main([name, "--results", str(root)]) == 2
        assert not (root / "reproduced").exists()
        return capsys.readouterr().err

    assert "has no result to compare with: it is missing" in said(0, lambda f: (f / "result.json").unlink())
    older = said(1, lambda f: write(f / "result.json", lambda record: record.update(results_version=0)))
    assert "by version 0 of this code's numbers, which is now 1" in older
    edited = said(2, lambda f: write(f / "config.json", lambda record: record["trial"].update(seed=7)))
    assert "its identity differs" in edited
    gpu = said(3, lambda f: write(f / "environment.json", lambda record: record.update(devices=["cuda (NVIDIA X)"])))
    assert "and this machine has no GPU" in gpu


def test_interrupted_it_goes_on(tmp_path: Path) -> None:
    first = run(with_field(TRIAL, "finetune.epochs", 30), tmp_path / "root")
    command = [sys.executable, "-m", "cass_tune.reproduce", first.folder.id, "--results", str(first.root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    epochs = first.root / "reproduced" / first.folder.id / "trials" / first.folder.id / "epochs"
    deadline = time.monotonic() + 120
    while not any(path.read_text().count("\n") > 2 for path in epochs.glob("*.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed  trial" in done.stdout and "IDENTICAL: all " in done.stdout
    assert Results(first.root).trial(first.folder.digest).is_finished()
