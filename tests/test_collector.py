"""What the garbage collector passes over."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cass_tune.collector import import_spared

MODULE = "import gc\nwas_enabled = gc.isenabled()\nstays = [[] for _ in range(100)]\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "spared_module.py").write_text(MODULE)
    yield tmp_path
    gc.unfreeze()
    sys.modules.pop("spared_module", None)


def test_nothing_is_collected_during_an_import_and_what_is_imported_is_spared() -> None:
    frozen = gc.get_freeze_count()
    import_spared("spared_module")
    module = sys.modules["spared_module"]
    assert gc.isenabled() and not module.was_enabled
    assert gc.get_freeze_count() >= frozen + len(module.stays)
    assert not any(item is module.stays for item in gc.get_objects())


def test_what_comes_later_is_not_spared() -> None:
    import_spared("spared_module")
    frozen, later = gc.get_freeze_count(), [[] for _ in range(100)]
    import_spared("spared_module")
    assert gc.get_freeze_count() <= frozen
    assert any(item is later for item in gc.get_objects())


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        import_spared("spared_module")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_failing_import_leaves_the_collector_on(folder: Path) -> None:
    (folder / "spared_module.py").write_text("raise ZeroDivisionError\n")
    with pytest.raises(ZeroDivisionError):
        import_spared("spared_module")
    assert gc.isenabled()
