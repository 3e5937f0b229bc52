"""A trial waits while another process computes it or its pretraining."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cass_tune.identity import Segment
from cass_tune.leases import Lease
from cass_tune.plan import Wanted
from cass_tune.readiness import Readiness
from cass_tune.results import Results
from cass_tune.storage import write_json
from tests import tiny
from tests.grids import paper_grid
from tests.objects import ObjectStore

STAGE = "5" * 64


def wanted(digest: str, stage: str | None = STAGE, epochs: int = 2) -> Wanted:
    trial = tiny.trial({"pretrain.epochs": epochs})
    segments = (Segment(stage=stage, start=0, end=epochs),) if stage else ()
    return Wanted(trial=trial, name=digest[0], inputs=None, digest=digest, segments=segments)


ONE, OTHER, LONGER, CONTROL = wanted("1" * 64), wanted("2" * 64), wanted("3" * 64, epochs=4), wanted("4" * 64, None)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path)


def test_nothing_stands_in_the_way(results: Results) -> None:
    assert all(Readiness(results)(item) for item in (ONE, LONGER, CONTROL))


def test_a_trial_that_another_process_computes(results: Results) -> None:
    is_ready = Readiness(results)
    folder = results.trial(str(ONE.digest))
    with Lease.acquire(folder.path, "a1"):
        assert not is_ready(ONE) and is_ready(CONTROL)
        write_json(folder.path / "result.json", {})
        assert is_ready(ONE), "its stored rows can be told at once"


def test_an_earlier_result_does_not_count_when_all_is_done_anew(results: Results) -> None:
    is_ready = Readiness(results, redo="now")
    folder = results.trial(str(ONE.digest))
    folder.begin("a1", "before")
    write_json(folder.path / "result.json", {})
    with Lease.acquire(results.stage(STAGE).path, "a1"):
        assert not is_ready(ONE)
        folder.begin("a2", "now")
        assert is_ready(ONE), "this run has finished it"


def test_a_pretraining_that_another_process_computes(results: Results) -> None:
    is_ready = Readiness(results)
    stage = results.stage(STAGE)
    with Lease.acquire(stage.path, "a1"):
        assert not is_ready(ONE) and not is_ready(LONGER) and is_ready(CONTROL)
        write_json(stage.end(2) / "run.json", {})
        assert is_ready(ONE), "as soon as it is stored"
        assert not is_ready(LONGER)


def test_a_pretraining_that_a_trial_of_this_driver_computes(results: Results) -> None:
    is_ready = Readiness(results)
    assert not is_ready(OTHER, live=[ONE])
    assert is_ready(CONTROL, live=[ONE])
    write_json(results.stage(STAGE).end(2) / "run.json", {})
    assert is_ready(OTHER, live=[ONE]), "it is finetuning"


def test_a_pretraining_that_could_not_be_stored_is_computed_by_the_next_at_once(results: Results) -> None:
    """The trial that has computed it is being finetuned, and nobody holds the stage."""
    finetuned = {str(ONE.digest)}
    is_ready = Readiness(results, has_pretrained=finetuned.__contains__)
    assert is_ready(OTHER, live=[ONE]) and not is_ready(OTHER, live=[LONGER])
    with Lease.acquire(results.stage(STAGE).path, "a1"):
        assert not is_ready(OTHER, live=[ONE])


def test_a_decay_waits_for_the_fork_of_its_trunk(results: Results) -> None:
    trunk, short, long = (
        "6" * 64,
        decayed("7" * 64, trunk="6" * 64, start=4),
        decayed("8" * 64, trunk="6" * 64, start=8),
    )
    is_ready = Readiness(results)
    with Lease.acquire(results.stage(trunk).path, "a1"):
        assert not is_ready(short) and not is_ready(short, live=[long])
        write_json(results.stage(trunk).end(4) / "run.json", {})
        assert is_ready(short) and is_ready(short, live=[long]), "while the trunk goes on"
        assert not is_ready(long)
    assert not is_ready(long, live=[long])
    with Lease.acquire(results.stage(short.segments[-1].stage).path, "a1"):
        assert not is_ready(short), "another process computes its decay"


def decayed(digest: str, trunk: str, start: int) -> Wanted:
    segments = (Segment(stage=trunk, start=0, end=start), Segment(stage=digest[::-1], start=start, end=start + 1))
    trial = tiny.trial({"pretrain.epochs": start + 1})
    return Wanted(trial=trial, name=digest[0], inputs=None, digest=digest, segments=segments)


def test_a_round_asks_about_each_stage_once(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the paper's grid, three trials compute the pretrainings that 24 others wait for."""
    cells = [item for item in paper_grid() if not item.is_control]
    live, waiting = cells[:3], cells[3:]
    assert len(waiting) == 24 and len({item.segments[0].stage for item in live}) == 3
    asked: Counter[str] = Counter()

    def counted(name: str, ask: Callable[[Path], Any]) -> Callable[[Path], Any]:
        return lambda path: (asked.update([name]), ask(path))[1]

    for name in ("exists", "read_bytes"):
        monkeypatch.setattr(Path, name, counted(name, getattr(Path, name)))
    is_ready = Readiness(results)
    with is_ready.round():
        assert not any(is_ready(item, live) for item in waiting)
    assert asked["exists"] + asked["read_bytes"] <= 2 * 9, "whether each end is there, and where each stage lies"
    for item in live:
        write_json(results.stage(item.segments[0].stage).end(100) / "run.json", {})
    with is_ready.round():
        assert sum(is_ready(item, live) for item in waiting) == 9, "the next round sees what is new"


def test_while_the_store_is_away_nothing_starts(object_store: ObjectStore) -> None:
    object_store.make_bucket("ready")
    is_ready = Readiness(Results("s3://ready/results"))
    assert is_ready(ONE)
    with object_store.failing("GET|HEAD", 503, "SlowDown"):
        assert not is_ready(ONE)
