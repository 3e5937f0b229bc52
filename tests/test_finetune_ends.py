"""A finetuning that goes on from the end of a shorter one gives the numbers of one that starts at its start."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cass_tune import finetune_steps
from cass_tune.checkpoints import Checkpoints
from cass_tune.config import ARMS, Change, Trial
from cass_tune.errors import Interrupted
from cass_tune.finetune_ends import shorter_by
from cass_tune.notices import Stop
from cass_tune.results import Results, TrialFolder
from cass_tune.trial import RunOptions, run_trial
from tests import runs, tiny
from tests.small import local

EPOCHS = 1
FIRST = Change(epoch=1, learning_rate=1e-4, vit_learning_rate=5e-5, weight_decay=0.2, clip_norm=1.0)
SECOND = Change(epoch=2, learning_rate=2e-3, weight_decay=0.01)


def trial(generation: int, changes: Sequence[Change] = (FIRST, SECOND)) -> Trial:
    epochs = EPOCHS * (generation + 1)
    own = tuple(change for change in changes if change.epoch < epochs)
    fields = {"pretrain.method": "none", "finetune.optimiser": "adamw", "finetune.weight_decay": 0.05}
    return tiny.trial({**fields, "finetune.epochs": epochs, "finetune.changes": own})


def run(generation: int, root: Path, **options: Any) -> runs.Run:
    return runs.run(trial(generation), root, generation_epochs=EPOCHS, **options)


def computed(found: runs.Run) -> int:
    return sum(not row["reused"] for row in found.rows)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    """The trial of the third generation without any before it."""
    return runs.run(trial(2), tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def _two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("two") / "results"
    for generation in range(2):
        assert computed(run(generation, root)) == len(ARMS) * EPOCHS
    return root


@pytest.fixture
def two(_two: Path, tmp_path: Path) -> Path:
    """A results root with two generations."""
    return Path(shutil.copytree(_two, tmp_path / "results"))


def before(root: Path) -> TrialFolder:
    """Return the folder of the second generation's trial."""
    return runs.Run(trial=trial(1), root=root, rows=[]).folder


def test_generation_by_generation_equals_alone(alone: runs.Run, two: Path) -> None:
    found = run(2, two)
    assert computed(found) == len(ARMS) * EPOCHS
    assert found.numbers() == alone.numbers()
    seconds = {arm: sum(r["seconds"] for r in found.folder.rows() if r["phase"] == f"finetune_{arm}") for arm in ARMS}
    assert {arm: found.result["seconds"][arm] for arm in ARMS} == pytest.approx(seconds)
    marks = [row["reused"] for row in found.folder.rows() if row["phase"] == "finetune_cnn"]
    assert marks == [True] * 2 * EPOCHS + [False] * EPOCHS, "the records tell what was computed"


def _gone(path: Path) -> None:
    for file in path.rglob("*.safetensors"):
        file.unlink()


def _changed(path: Path) -> None:
    for file in path.rglob("*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content)


def _torn(path: Path) -> None:
    for file in path.rglob("*.json"):
        file.write_text(file.read_text()[:-9])


@pytest.mark.parametrize("damage", [_gone, _changed, _torn])
def test_a_damaged_end_is_no_error(alone: runs.Run, two: Path, damage: Any) -> None:
    damage(local(before(two).end("vit")))
    found = run(2, two)
    assert found.numbers() == alone.numbers()
    assert computed(found) == EPOCHS + 3 * EPOCHS, "the CNN goes on, the ViT starts anew"


def test_ends_are_kept_and_looked_for_in_a_population_alone(alone: runs.Run, two: Path) -> None:
    folder = before(two)
    assert not (local(alone.folder.path) / "ends").exists()
    assert all(Checkpoints(folder.end(arm)).names() for arm in ARMS)
    assert computed(runs.run(trial(2), two)) == 3 * EPOCHS * len(ARMS)
    folder.remove_ends()
    assert not (local(folder.path) / "ends").exists()


def test_interrupted_after_every_epoch_it_ends_the_same(alone: runs.Run, tmp_path: Path) -> None:
    for generation in range(3):
        rows = _in_pieces(trial(generation), tmp_path)
    found = runs.Run(trial=trial(2), root=tmp_path, rows=rows)
    assert found.numbers() == alone.numbers()
    fresh = [row for row in found.folder.rows() if not row["reused"]]
    assert len(fresh) == len(ARMS) * EPOCHS


def _in_pieces(described: Trial, root: Path) -> list[dict[str, Any]]:
    for steps in range(1, 200):
        stop = Stop()
        try:
            return list(_stopping(run_trial(described, Results(root), OPTIONS, stop=stop), stop, steps))
        except Interrupted:
            continue
    raise AssertionError("it never ends")


OPTIONS = RunOptions(generation_epochs=EPOCHS)


def _stopping(rows: Iterator[dict[str, Any]], stop: Stop, after: int) -> Iterator[dict[str, Any]]:
    fresh = 0
    for row in rows:
        yield row
        fresh += not row["reused"]
        if fresh == 1:
            stop.request(f"piece {after}")


def test_an_end_that_could_not_be_stored_is_stored_by_the_next_attempt(
    alone: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    store, kept = finetune_steps.keep_end, []

    def once(attempt: Any, training: Any) -> None:
        if training.epoch == EPOCHS and not kept:
            kept.append(attempt.name)
            attempt._checkpointer.save()
            killed()
        store(attempt, training)

    monkeypatch.setattr(finetune_steps, "keep_end", once)
    with pytest.raises(Killed):
        run(0, tmp_path)
    for generation in range(3):
        found = run(generation, tmp_path)
    assert computed(found) == len(ARMS) * EPOCHS and found.numbers() == alone.numbers()


def test_the_shorter_trial_follows_from_the_description() -> None:
    assert shorter_by(trial(2), EPOCHS) == trial(1)
    assert shorter_by(trial(1), EPOCHS) == trial(0)
    assert shorter_by(trial(0), EPOCHS) is None
    assert shorter_by(trial(2), 0) is None
    assert shorter_by(tiny.trial({"finetune.epochs": 4, "finetune.schedule": "cosine_to_end"}), EPOCHS) is None
    assert shorter_by(tiny.trial({"finetune.epochs": 4, "finetune.patience": 1}), EPOCHS) is None
