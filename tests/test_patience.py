"""What is full or away is tried again for a while."""

from __future__ import annotations

import errno

import pytest

from cass_tune import patience
from cass_tune.errors import StorageError
from cass_tune.patience import patiently


def test_a_write_is_tried_again_while_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_DELAY_S", 0.01)
    failures = [StorageError(errno.ENOSPC, "full"), StorageError(errno.EIO, "broken")]
    between: list[int] = []

    def write() -> str:
        if failures:
            raise failures.pop(0)
        return "written"

    assert patiently(write, lambda: between.append(1)) == "written"
    assert between == [1, 1]


@pytest.mark.parametrize(("number", "patience_s"), [(errno.EACCES, 120), (errno.EROFS, 120), (errno.ENOSPC, 0)])
def test_not_when_waiting_is_of_no_use(monkeypatch: pytest.MonkeyPatch, number: int, patience_s: float) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", patience_s)
    monkeypatch.setattr(patience, "_FIRST_DELAY_S", 0.01)
    tries: list[int] = []

    def write() -> None:
        tries.append(1)
        raise StorageError(number, "no")

    with pytest.raises(StorageError, match="no"):
        patiently(write)
    assert len(tries) <= 2


def test_waiting_ends_when_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def write() -> None:
        raise StorageError(errno.ENOSPC, "full")

    def between() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        patiently(write, between)
