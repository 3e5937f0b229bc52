"""A trial waits while another process computes it or its pretraining."""

from __future__ import annotations

from pathlib import Path

import pytest

from cass_tune.leases import Lease
from cass_tune.plan import Wanted
from cass_tune.readiness import Readiness
from cass_tune.results import Results
from cass_tune.storage import write_json
from tests import tiny
from tests.objects import ObjectStore

STAGE = "5" * 64


def wanted(digest: str, stage: str | None = STAGE, epochs: int = 2) -> Wanted:
    trial = tiny.trial({"pretrain.epochs": epochs})
    return Wanted(trial=trial, name=digest[0], inputs=None, digest=digest, stage=stage)


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


def test_while_the_store_is_away_nothing_starts(object_store: ObjectStore) -> None:
    object_store.make_bucket("ready")
    is_ready = Readiness(Results("s3://ready/results"))
    assert is_ready(ONE)
    with object_store.failing("GET|HEAD", 503, "SlowDown"):
        assert not is_ready(ONE)
