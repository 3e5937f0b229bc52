"""Which ends of pretrainings are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from cass_tune.config import Trial
from cass_tune.console import Console
from cass_tune.execution import Execution
from cass_tune.identity import Segment
from cass_tune.keeping import Keep, Keeping, gigabytes
from cass_tune.leases import Lease
from cass_tune.options import Settings
from cass_tune.plan import Wanted
from cass_tune.results import Results, StageFolder
from cass_tune.storage import write_json
from tests.small import local

STAGE, ONE, OTHER = "5" * 64, "1" * 64, "2" * 64


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path)


def stored(results: Results, *epochs: int) -> StageFolder:
    stage = results.stage(STAGE)
    for epoch in epochs:
        local(stage.end(epoch)).mkdir(parents=True)
        local(stage.end(epoch) / "cnn.safetensors").write_bytes(b"x" * 1000)
        stage.write_end(epoch, {})
    return stage


def finish(results: Results, digest: str) -> None:
    write_json(results.trial(digest).path / "result.json", {})


@pytest.mark.parametrize(
    ("keep", "before", "after"),
    [("all", [2, 3, 4], [2, 3, 4]), ("wanted", [2, 4], [2, 4]), ("unfinished", [2, 4], [4])],
)
def test_ends_from_which_trials_are_finetuned(
    results: Results, keep: Keep, before: list[int], after: list[int]
) -> None:
    stage = stored(results, 2, 3, 4)  # nobody wants 3
    stage.want({2: [ONE], 4: [ONE, OTHER]})
    keeping = Keeping(results, keep)
    assert (keeping.tidy([STAGE]) > 1000) == (keep != "all")
    assert stage.ends() == before
    finish(results, ONE)
    keeping.tidy([STAGE])
    assert stage.ends() == after
    finish(results, OTHER)
    keeping.tidy([STAGE])
    assert stage.ends() == ([] if keep == "unfinished" else after)


@pytest.mark.parametrize("is_trunk", [False, True])
def test_trials_that_will_run_again_keep_what_they_need(results: Results, is_trunk: bool) -> None:
    stage = stored(results, 2, 4)
    stage.want({2: [ONE], 4: [OTHER]}, is_trunk=is_trunk)
    finish(results, ONE)
    finish(results, OTHER)
    keeping = Keeping(results, "unfinished")
    keeping.tidy([STAGE], {ONE})
    assert stage.ends() == [2]
    keeping.tidy([STAGE])
    assert stage.ends() == []


def test_a_study_that_is_redone_keeps_what_its_other_trials_need(results: Results) -> None:
    """Their earlier results do not free the end that they start from."""
    stage = stored(results, 2)
    stage.want({2: [ONE, OTHER]})
    segments = (Segment(stage=STAGE, start=0, end=2),)
    items = [Wanted(trial=Trial(), name="", inputs=None, digest=w, segments=segments) for w in (ONE, OTHER)]
    settings = Settings(keep_stages="unfinished", redo="all")
    tidy = Execution(settings, results, Console(), study="small", preset="demo")._tidy_after(items)
    finish(results, ONE)
    finish(results, OTHER)
    tidy(ONE)
    assert stage.ends() == [2]
    tidy(OTHER)
    assert stage.ends() == []


def test_a_trunk_keeps_its_furthest_fork(results: Results) -> None:
    stage = stored(results, 2, 4)
    stage.want({2: [ONE], 4: [OTHER]}, is_trunk=True)
    keeping = Keeping(results, "wanted")
    keeping.tidy([STAGE])
    assert stage.ends() == [2, 4], "decays that are not finished go on from them"
    finish(results, ONE)
    finish(results, OTHER)
    keeping.tidy([STAGE])
    assert stage.ends() == [4]


def test_checkpoints_that_were_left_go_when_every_wanted_end_is_stored(results: Results) -> None:
    stage = stored(results, 2)
    stage.want({2: [ONE], 4: [OTHER]})
    local(stage.checkpoints).mkdir(parents=True)
    keeping = Keeping(results, "all")
    keeping.tidy([STAGE])
    assert stage.checkpoints.exists(), "the end of epoch 4 is still to come"
    stored(results, 4)
    with Lease.acquire(stage.path, "a1"):
        keeping.tidy([STAGE])
        assert stage.checkpoints.exists(), "somebody works there"
    keeping.tidy([STAGE])
    assert not stage.checkpoints.exists()


@pytest.mark.parametrize("name", ["config.json", "wanted/x.json", "epoch-0002/run.json"])
def test_damaged_records_stop_nothing(results: Results, name: str, caplog: pytest.LogCaptureFixture) -> None:
    stage = stored(results, 2)
    stage.want({2: [ONE]})
    path = local(stage.path) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    assert Keeping(results, "wanted").tidied([STAGE]) == ["pretrainings kept: 1, 0.001 MB"]
    assert len(caplog.messages) == (name == "wanted/x.json")


def test_what_is_kept_and_freed_is_told(results: Results) -> None:
    stage = stored(results, 2, 3)
    stage.want({2: [ONE]})
    keeping = Keeping(results, "wanted")
    (line,) = keeping.tidied([STAGE])
    assert line.startswith("pretrainings kept: 1, 0.001 MB; 0.001 MB deleted, which --keep-stages wanted does not keep")
    assert keeping.tidied([STAGE]) == [line.partition(";")[0]]
    assert Keeping(results, "wanted").tidied(["6" * 64]) == []


def test_sizes_in_words() -> None:
    assert [gigabytes(size) for size in (2.5e6, 1.35e9, 61.2e9)] == ["2.5 MB", "1.35 GB", "61.2 GB"]
