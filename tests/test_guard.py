"""How a command line ends: one message and an exit code, whatever happens in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cass_tune.console import Console
from cass_tune.errors import StorageError, Terminated, UsageError
from cass_tune.guard import guarded

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("one", "two"), 2, "error: one\nerror: two\n"),
        (StorageError(None, "away"), 75, "error: away\n"),
        (RuntimeError("a fault"), 70, "This is a mistake of the program."),
        (KeyboardInterrupt(), 130, ""),
        (Terminated(), 143, ""),
    ],
)
def test_ends(error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise error

    assert guarded(work, Console()) == code
    out, err = capsys.readouterr()
    assert said in err
    assert ("the same command goes on" in out) == (code in (130, 143))


def test_a_command_that_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: 1, Console()) == 1
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_has_enough(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "studies.paper_grid", "--dry-run", "--results", str(tmp_path)]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=0
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 141
