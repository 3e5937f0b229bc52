"""A trial whose test is left out, as in a search: nothing of the test images is known until it is tested later."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cass_tune.config import ARMS, PROBES
from cass_tune.data.loader import Batches
from cass_tune.data.splits import Parts
from cass_tune.training.finetune import Finetuning
from tests import runs, tiny

TRIAL = tiny.trial()
probed = partial(runs.run, probes=PROBES)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return probed(TRIAL, tmp_path_factory.mktemp("straight"))


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return the positions of every evaluation."""
    found: list[tuple[int, ...]] = []
    evaluate = Finetuning.evaluate

    def evaluated(self: Finetuning, positions: Any) -> Any:
        found.append(tuple(positions))
        return evaluate(self, positions)

    monkeypatch.setattr(Finetuning, "evaluate", evaluated)
    return found


def parts() -> Parts:
    from cass_tune.data.splits import split

    return split(runs.LISTING, TRIAL.data, TRIAL.seed)


def test_without_a_test_the_test_images_are_never_looked_at(
    straight: runs.Run, looked_at: list[tuple[int, ...]], tmp_path: Path
) -> None:
    run = probed(TRIAL, tmp_path, test=False)
    assert set(looked_at) == {tuple(parts().validation)}
    folder, record = run.folder, run.folder.validated()
    assert (folder.status(), folder.result()) == ("untested", None)
    assert record is not None and folder.outcome() == record
    for arm in ARMS:
        assert without_test(straight.result["arms"][arm]) == record["arms"][arm]
    assert "test" not in record["images"]
    assert set(pq.read_table(folder.predictions)["split"].to_pylist()) == {"validation"}


def test_nothing_loads_a_test_image_before_the_trial_is_tested(
    straight: runs.Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither the evaluation nor the probes, which come with the test."""
    loaded: set[int] = set()
    load = Batches._load

    def recorded(self: Batches, batches: list[list[tuple[int, int]]]) -> Any:
        loaded.update(position for batch in batches for _, position in batch)
        return load(self, batches)

    monkeypatch.setattr(Batches, "_load", recorded)
    run = probed(TRIAL, tmp_path, test=False)
    assert loaded and not loaded & set(parts().test)
    assert run.folder.probes() is None
    tested = probed(TRIAL, tmp_path)
    assert loaded >= set(parts().test)
    assert untimed(tested.folder.probes()) == untimed(straight.folder.probes()) is not None


def untimed(record: Any) -> Any:
    """Return a record without its seconds."""
    if not isinstance(record, Mapping):
        return record
    return {name: untimed(value) for name, value in record.items() if name != "seconds"}


def without_test(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "test"}


def test_a_later_test_trains_nothing_and_gives_the_same_numbers(
    straight: runs.Run, looked_at: list[tuple[int, ...]], tmp_path: Path
) -> None:
    probed(TRIAL, tmp_path, test=False)
    before = len(looked_at)
    tested = probed(TRIAL, tmp_path)
    assert looked_at[before:] == [tuple(parts().test)] * 2
    assert all(row["reused"] for row in tested.rows)
    assert tested.numbers() == straight.numbers()
    folder = tested.folder
    assert (folder.status(), folder.validated(), folder.checkpoints.exists()) == ("done", None, False)


def test_a_search_takes_a_tested_trial_as_it_is(looked_at: list[tuple[int, ...]], tmp_path: Path) -> None:
    first = probed(TRIAL, tmp_path)
    before = len(looked_at)
    again = probed(TRIAL, tmp_path, test=False)
    assert len(looked_at) == before and again.result == first.result
    assert again.folder.validated() is None


def test_an_untested_trial_is_not_run_again_without_a_test(looked_at: list[tuple[int, ...]], tmp_path: Path) -> None:
    first = probed(TRIAL, tmp_path, test=False)
    before = len(looked_at)
    again = probed(TRIAL, tmp_path, test=False)
    assert len(looked_at) == before
    assert all(row["reused"] for row in again.rows) and len(again.rows) == len(first.rows)


@pytest.mark.parametrize("kept", ["damaged", "lost", "none"])
def test_where_weights_are_not_kept_the_arm_is_finetuned_again(straight: runs.Run, tmp_path: Path, kept: str) -> None:
    keep = "none" if kept == "none" else "all"
    folder = probed(TRIAL, tmp_path, test=False, keep_weights=keep).folder
    if kept == "lost":
        (folder.path / "cnn.safetensors").unlink()
    if kept == "damaged":
        (folder.path / "cnn.safetensors").write_bytes(b"nothing")
    tested = probed(TRIAL, tmp_path)
    assert tested.numbers() == straight.numbers()
    computed = {row["phase"] for row in tested.rows if not row["reused"]}
    assert computed == ({"finetune_cnn"} if kept == "damaged" else {"finetune_cnn", "finetune_vit"})
