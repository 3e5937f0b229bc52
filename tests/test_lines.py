"""Files that only grow, on a disk and in an object store."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cass_tune import lines as lines_module
from cass_tune.errors import StorageError
from cass_tune.lines import Lines
from cass_tune.objects import ObjectPath
from cass_tune.storage import AnyPath, write_text
from tests.disks import file_limit
from tests.objects import ObjectStore, wait_until


def test_lines_are_added_to_what_is_there(root: AnyPath) -> None:
    path = root / "log" / "a.txt"
    with Lines(path):
        pass
    assert not path.exists(), "without a line there is no file"
    with Lines(path) as lines:
        lines.append("one")
        lines.flush()
        assert path.read_text(encoding="utf-8") == "one\n"
        lines.append("zwei ä \udcff")
    assert path.read_text(encoding="utf-8") == "one\nzwei ä \\udcff\n"
    with Lines(path) as lines:
        lines.append("three")
    lines.close()
    assert path.read_text(encoding="utf-8").splitlines() == ["one", "zwei ä \\udcff", "three"]
    with pytest.raises(ValueError, match="is closed"):
        lines.append("four")


def test_lines_of_an_object_appear_by_themselves(bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "OBJECT_INTERVAL_S", 0.02)
    path = bucket / "log.txt"
    with Lines(path) as lines:
        for number in range(3):
            lines.append(f"line {number}")
            wait_until(lambda number=number: path.exists() and path.read_text().endswith(f"line {number}\n"))
    assert path.read_text() == "line 0\nline 1\nline 2\n"


def test_lines_do_not_wait_for_a_store_that_is_away(
    object_store: ObjectStore,
    bucket: ObjectPath,
    told: Callable[[], list[str]],
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines_module, "OBJECT_INTERVAL_S", 0.02)
    path = bucket / "log.txt"
    write_text(path, "earlier\n")
    lines = Lines(path)
    object_store.pause()
    try:
        lines.append("first")
        wait_until(told)  # its thread has found the outage
        started = time.monotonic()
        for number in range(1000):
            lines.append(f"line {number}")
        took_s = time.monotonic() - started
    finally:
        object_store.resume()
    lines.close()
    assert took_s < 5
    assert path.read_text().splitlines() == ["earlier", "first", *(f"line {number}" for number in range(1000))]
    (warning,) = [text for text in told() if "again" in text and "reached again" not in text]
    assert warning.startswith(f"{path} cannot be reached, which is tried again: AWS Error NETWORK_CONNECTION")


def test_lines_that_are_refused_are_said_once_and_written_later(
    object_store: ObjectStore, bucket: ObjectPath, told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "OBJECT_INTERVAL_S", 0.01)
    path = bucket / "log.txt"
    with Lines(path) as lines, object_store.failing("PUT", 403, "AccessDenied", times=3):
        lines.append("x")
        wait_until(path.exists)
    (warning,) = told()
    assert warning.startswith(
        f"{path} is not up to date, which is tried again: {path} cannot be used: AWS Error ACCESS_"
    )
    assert path.read_text() == "x\n"


def test_lines_on_a_full_disk_are_written_when_there_is_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines(tmp_path / "log.txt")
    with file_limit(4096):
        for number in range(100):
            lines.append(f"{number:099d}")
        assert (tmp_path / "log.txt").stat().st_size == 4096
        with pytest.raises(StorageError, match=r"Cannot write .*log.txt: File too large.*ulimit -f"):
            lines.flush()
    (warning,) = caplog.records
    assert "log.txt is not up to date, which is tried again: Cannot write" in warning.getMessage()
    lines.append("the last")
    lines.close()
    text = (tmp_path / "log.txt").read_text().splitlines()
    assert text == [*(f"{number:099d}" for number in range(100)), "the last"]


def test_lines_that_are_not_complete_are_an_error_unless_there_is_another(tmp_path: Path) -> None:
    with file_limit(10):
        with pytest.raises(StorageError, match="File too large"), Lines(tmp_path / "one.txt") as lines:
            lines.append("x" * 20)
        with pytest.raises(ZeroDivisionError), Lines(tmp_path / "another.txt") as lines:
            lines.append("x" * 20)
            raise ZeroDivisionError
