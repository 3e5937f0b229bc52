"""Pretrainings that share their beginning: each trial's numbers are those of the trial alone, bit for bit."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cass_tune import pretrain_steps, stages, storage
from cass_tune.checkpoints import Checkpoints
from cass_tune.config import Trial
from cass_tune.errors import Held, Interrupted
from cass_tune.identity import Inputs, trial_digest
from cass_tune.leases import Lease
from cass_tune.notices import Stop
from cass_tune.plan import Wanted, resolve
from cass_tune.readiness import Readiness
from cass_tune.results import Results, StageFolder
from cass_tune.sharing import in_order, own_epochs, register
from cass_tune.trial import RunOptions, read_inputs, run_trial
from tests import tiny
from tests.methods.variants import VARIANTS
from tests.runs import LISTING, Run, run
from tests.small import local

CORRECTED = {
    "data.normalisation": "model",
    "pretrain.schedule": "wsd",
    "pretrain.warmup_epochs": 1,
    "pretrain.decay_fraction": 0.4,
    "pretrain.optimiser": "adamw",
    "pretrain.weight_decay": 0.05,
    "pretrain.clip_norm": 1.0,
    "pretrain.vit_learning_rate": 1e-4,
}
RECIPES = pytest.mark.parametrize("fields", [{}, CORRECTED], ids=["as_described", "corrected"])
LENGTHS = (2, 3, 5)


def trials(fields: dict[str, Any]) -> list[Trial]:
    return [tiny.trial({**fields, "pretrain.epochs": epochs}) for epochs in LENGTHS]


def wanted(given: list[Trial]) -> list[Wanted]:
    inputs: dict[Trial, Inputs | None] = {trial: read_inputs(trial, LISTING) for trial in given}
    return resolve(given, inputs)


def trained(found: Run) -> int:
    """Return how many epochs of pretraining a run has computed."""
    return sum(row["phase"] == "pretrain" and not row["reused"] for row in found.rows)


@pytest.fixture(scope="module", params=[{}, CORRECTED], ids=["as_described", "corrected"])
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Each trial in a results root of its own."""
    return [run(trial, tmp_path_factory.mktemp("alone")) for trial in trials(request.param)]


def files_of(found: Run) -> dict[str, str]:
    """Return the checksums of the networks and the state at the end of a pretraining."""
    return found.stage().end_record(found.trial.pretrain.epochs)["files"]


def test_trials_that_share_equal_each_alone(alone: list[Run], tmp_path: Path) -> None:
    items = in_order(wanted([found.trial for found in alone]))
    assert items[0].trial.pretrain.epochs == max(LENGTHS)
    register(items, Results(tmp_path))
    own = own_epochs(items, lambda stage: ())
    by_trial = {found.trial: found for found in alone}
    for item in items:
        found = run(item.trial, tmp_path)
        assert trained(found) == own[str(item.digest)]
        assert found.numbers() == by_trial[item.trial].numbers()
        assert files_of(found) == files_of(by_trial[item.trial])
        assert [row["epochs"] for row in found.rows if row["phase"] == "pretrain"] == [item.trial.pretrain.epochs] * (
            item.trial.pretrain.epochs
        )
    again = run(items[0].trial, tmp_path)
    assert [row["reused"] for row in again.rows] == [True] * len(again.rows)


def test_the_shortest_first_goes_on_from_it(alone: list[Run], tmp_path: Path) -> None:
    """Nobody has said what is wanted: each trial goes on from the longest stored prefix."""
    for expected in alone:
        found = run(expected.trial, tmp_path)
        assert found.numbers() == expected.numbers()
    computed = {(path.parent.parent.name, row["epoch"]) for path in tmp_path.glob("stages/*/epochs/*.jsonl")
                for row in map(json.loads, path.read_text().splitlines())}  # fmt: skip
    assert len(computed) == (5 if len(alone[0].segments) == 1 else 3 + 1 + 1 + 2)


def test_an_interrupted_leader_leaves_its_work_to_the_next(alone: list[Run], tmp_path: Path) -> None:
    """A stage in progress belongs to the stage, not to the trial that computes it."""
    items = in_order(wanted([found.trial for found in alone]))
    register(items, Results(tmp_path))
    stop = Stop()
    steps = 0
    with pytest.raises(Interrupted):
        for row in run_trial(items[0].trial, Results(tmp_path), RunOptions(probes=()), stop=stop):
            steps += 1
            if row["epoch"] == 2:
                stop.request("the test wants it")
    assert steps == 2
    other = replace(items[0].trial, data=replace(items[0].trial.data, label_fraction=0.2))
    found = run(other, tmp_path)
    assert trained(found) == max(LENGTHS) - 2, "it goes on from the checkpoint of the other trial"
    for expected in alone:
        assert run(expected.trial, tmp_path).numbers() == expected.numbers()


def damage(path: Path) -> None:
    """Change one bit of a file's last byte; of a record, cut it short."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content) if path.suffix == ".safetensors" else bytes(content[:100]))


@pytest.mark.parametrize("name", ["cnn.safetensors", "run.json"])
def test_a_damaged_end_is_computed_again_and_said_once(alone: list[Run], tmp_path: Path, name: str) -> None:
    register(wanted([found.trial for found in alone]), Results(tmp_path))
    run(alone[-1].trial, tmp_path)
    first = alone[0]
    damaged = Run(trial=first.trial, root=tmp_path, rows=[])
    stage, epoch = damaged.stage(0), first.segments[0].end
    damage(local(stage.end(epoch)) / name)
    found = run(first.trial, tmp_path)
    assert found.numbers() == first.numbers()
    assert trained(found) == first.trial.pretrain.epochs
    assert found.folder.log.read_text().count("is damaged") == 1
    assert files_of(found) == files_of(first), "it is stored anew"


SHORT = tiny.trial({"pretrain.epochs": 2, "finetune.epochs": 1})
OTHER = replace(SHORT, data=replace(SHORT.data, label_fraction=0.2))
"""From the same pretraining."""


def test_a_damaged_end_counts_for_nobody_while_another_process_holds_the_stage(tmp_path: Path) -> None:
    """A trial that found it, and leaves because the stage is held, is not told again and again that it can start."""
    stage = run(SHORT, tmp_path).stage()
    damage(local(stage.end(2)) / "vit.safetensors")
    is_ready = Readiness(Results(tmp_path))
    (item,) = wanted([OTHER])
    with Lease.acquire(stage.path, "another"):
        assert is_ready(item)
        with pytest.raises(Held):
            run(OTHER, tmp_path)
        assert not is_ready(item)
    assert is_ready(item) and trained(run(OTHER, tmp_path)) == 2


def test_an_end_that_goes_while_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process tidies up after the networks have been read."""
    run(SHORT, tmp_path)
    load = stages.load_arms

    def load_and_lose(stage: StageFolder, epoch: int) -> stages.End | None:
        end = load(stage, epoch)
        stage.remove_end(epoch)
        return end

    monkeypatch.setattr(stages, "load_arms", load_and_lose)
    found = run(OTHER, tmp_path)
    assert trained(found) == 0 and found.result["stage"]["reused"]


def test_a_damaged_record_of_what_is_wanted_counts_as_none(tmp_path: Path) -> None:
    stage = run(SHORT, tmp_path).stage()
    (path,) = (local(stage.path) / "wanted").glob("*.json")
    path.write_bytes(b"")
    found = run(OTHER, tmp_path)
    assert found.folder.log.read_text().count(f"{path} is damaged") == 1
    assert stage.wanted_ends() == {2: {found.folder.digest}}
    path.write_bytes(b"")
    register(wanted([SHORT]), Results(tmp_path))
    assert len(stage.wanted_ends()[2]) == 2, "it is written again"


def test_the_end_is_stored_although_the_checkpoint_found_is_exactly_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full when the pretraining ended, and the trial had to leave."""
    stop = Stop()
    with no_space(monkeypatch, lambda path: "/epoch-" in path, patience_s=30), pytest.raises(Interrupted):
        for row in run_trial(SHORT, Results(tmp_path), RunOptions(probes=()), stop=stop):
            if row["epoch"] == 2:
                stop.request("the test wants it")
    stage = Run(trial=SHORT, root=tmp_path, rows=[]).stage()
    assert stage.ends() == [] and Checkpoints(stage.checkpoints).names()
    found = run(SHORT, tmp_path)
    assert trained(found) == 0 and [row["epoch"] for row in found.rows[:2]] == [1, 2]
    assert stage.ends() == [2] and not stage.checkpoints.exists()
    assert found.numbers() == run(SHORT, tmp_path / "alone").numbers()


def test_what_a_missing_end_costs_counts_from_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tiny.trial({"pretrain.epochs": 3, "finetune.epochs": 1})
    register(wanted([SHORT, long, replace(long, data=OTHER.data)]), Results(tmp_path))
    with no_space(monkeypatch, lambda path: "/epoch-0003" in path):
        log = run(long, tmp_path).folder.log.read_text()
    assert "1 other trials that need the pretraining of 3 epochs" in log and "(1 x 1 epochs)" in log


def test_a_longer_prefix_is_not_used(alone: list[Run], tmp_path: Path) -> None:
    """Nobody wanted the shorter ends when the long one ran."""
    run(alone[-1].trial, tmp_path)
    found = run(alone[0].trial, tmp_path)
    assert trained(found) == alone[0].trial.pretrain.epochs and found.numbers() == alone[0].numbers()


@contextmanager
def no_space(
    monkeypatch: pytest.MonkeyPatch, is_full: Callable[[str], bool], *, patience_s: float = 0.0
) -> Iterator[None]:
    """Let writes of some files fail as on a full disk."""

    def step(name: str, path: storage.AnyPath) -> None:
        if is_full(str(path)):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(storage, "between_steps", step)
        context.setattr(pretrain_steps, "PUBLISH_S", patience_s)
        yield


def test_without_space_for_an_end_the_study_goes_on_and_says_what_it_costs(
    alone: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = in_order(wanted([found.trial for found in alone]))
    register(items, Results(tmp_path))
    leader, expected = items[0].trial, alone[-1]
    with no_space(monkeypatch, lambda path: "/epoch-" in path):
        found = run(leader, tmp_path)
    assert found.numbers() == expected.numbers()
    assert not list(tmp_path.glob("stages/*/epoch-*/*")), "nothing half-written takes room"
    log = found.folder.log.read_text()
    assert "No space left on device" in log and "The study goes on without it: " in log
    epochs = alone[0].segments[0].end
    assert f"trials that need the pretraining of {epochs} epochs will have to compute it again (1 x {epochs}" in log
    again = run(leader, tmp_path)
    assert len(again.rows) == len(found.rows) and all(row["reused"] for row in again.rows)
    for other in alone[:-1]:
        assert run(other.trial, tmp_path).numbers() == other.numbers()


@RECIPES
def test_a_trial_says_itself_which_ends_it_wants(fields: dict[str, Any], tmp_path: Path) -> None:
    found = run(tiny.trial({**fields, "pretrain.epochs": 5}), tmp_path)
    for number, segment in enumerate(found.segments):
        assert found.stage(number).wanted_ends() == {segment.end: {found.folder.digest}}
        assert found.stage(number).is_trunk() == (number < len(found.segments) - 1)
    assert trial_digest(found.trial, read_inputs(found.trial, LISTING)) == found.folder.digest


@pytest.mark.parametrize("name", ["dino", "supervised", "predictor"])
def test_every_method_goes_on_from_a_shared_end(name: str, tmp_path: Path) -> None:
    """A whole trial, finetuning included, whose pretraining another one began."""
    fields = {**VARIANTS[name], "finetune.epochs": 1}
    short, long = (tiny.trial({**fields, "pretrain.epochs": epochs}) for epochs in (1, 2))
    alone = run(long, tmp_path / "alone")
    run(short, tmp_path / "shared")
    found = run(long, tmp_path / "shared")
    assert (trained(found), trained(alone)) == (1, 2)
    assert found.numbers() == alone.numbers() and files_of(found) == files_of(alone)
