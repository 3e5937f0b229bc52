"""A trial's loader processes leave signals to the trial, and end with it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import small

REPOSITORY = Path(__file__).parents[1]
CODE = "import sys; from tests import small; sys.exit(small.run(*sys.argv[1:]))"


def loaders(process: int) -> list[int]:
    """Return the loader processes that a process has started."""
    children = [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return [child for child in children if Path(f"/proc/{child}/comm").read_text().startswith("pt_data_worker")]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_ends_with_them(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """Of Ctrl-C a report is written, in which Python may collect what the interruption kept."""
    line = ["--local", "--workers", "2", "--pretrain.epochs", "2000", "--pretrain.learning-rate", "0.001"]
    command = [sys.executable, "-c", CODE, "--results", str(tmp_path), *line]
    with subprocess.Popen(
        command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as study:
        try:
            until = time.monotonic() + 120
            while not list(tmp_path.glob("stages/*/epochs/*.jsonl")) or len(loaders(study.pid)) < 2:
                assert study.poll() is None and time.monotonic() < until
                time.sleep(0.1)
            processes = loaders(study.pid)
            study.send_signal(number)
            out, _ = study.communicate(timeout=100)
        finally:
            study.kill()
    assert study.returncode == code, out
    assert "the same command goes on from it" in out
    assert not [each for each in processes if Path(f"/proc/{each}").exists()]


def test_the_numbers_of_a_trial_are_the_same_with_them(tmp_path: Path) -> None:
    line = ["--local", "--pretrain.learning-rate", "0.001"]
    rows = []
    for workers in ("0", "2"):
        assert small.run(*line, "--workers", workers, results=tmp_path / workers) == 0
        found = [small.json_lines(path) for path in sorted((tmp_path / workers).glob("*/*/epochs/*.jsonl"))]
        rows.append([(row["loss"], row["macro_f1"]) for file in found for row in file])
    assert len(rows[0]) > 8 and sorted(map(str, rows[0])) == sorted(map(str, rows[1]))
