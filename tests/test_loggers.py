"""Trackers beside Ray's own records: refused before anything runs when their package is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cass_tune import extras
from tests import small


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda package: None)
    assert small.run("--log-to", name, results=tmp_path) == 2
    error = capsys.readouterr().err
    assert (
        f'--log-to {name} needs the package {name}, which is not installed: pip install "cass-tune[trackers]".' in error
    )
    assert not list(tmp_path.glob("trials/*"))
