"""A trial that was interrupted between any two steps ends with the numbers of an undisturbed one, bit for bit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cass_tune import leases
from cass_tune.config import ARMS, Trial
from cass_tune.data.phantom import phantom_listing
from cass_tune.errors import Interrupted
from cass_tune.identity import segments, trial_digest
from cass_tune.leases import Holder
from cass_tune.notices import Stop
from cass_tune.results import Results, StageFolder, TrialFolder
from cass_tune.storage import write_json
from cass_tune.trial import RunOptions, read_inputs, run_trial
from tests import tiny
from tests.small import local

TRIAL = tiny.trial({"data.pretrain_fraction": 0.3, "finetune.batch_size": 4})
LISTING = phantom_listing()
UNTIMED = {"seconds", "images_per_second", "peak_memory_gib", "utilisation", "reused"}


class StopAfter(Stop):
    """Asks to stop after so many looks at it, that is: between any two steps that a test chooses."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def reason(self) -> str | None:
        self.looks -= 1
        return "the test stops it" if self.looks < 0 else None


def folders(root: Path, trial: Trial = TRIAL) -> tuple[TrialFolder, StageFolder]:
    inputs = read_inputs(trial, LISTING)
    results = Results(root)
    return results.trial(trial_digest(trial, inputs)), results.stage(segments(trial, inputs)[-1].stage)


def run(root: Path, options: RunOptions | None = None, stop: Stop | None = None, trial: Trial = TRIAL) -> list[Any]:
    return list(run_trial(trial, Results(root), options or RunOptions(), stop=stop or Stop()))


def numbers(root: Path, trial: Trial = TRIAL) -> dict[str, Any]:
    """Return everything about a finished trial that must not depend on interruptions."""
    folder, stage = folders(root, trial)
    result = folder.result()
    assert result is not None
    rows = [*stage.end_record(trial.pretrain.epochs)["rows"], *folder.rows()]
    files = [folder.path / f"{arm}.safetensors" for arm in ARMS] + [folder.predictions]
    files += [stage.end(trial.pretrain.epochs) / f"{name}.safetensors" for name in (*ARMS, "state")]
    return {
        "arms": result["arms"],
        "rows": [{key: value for key, value in row.items() if key not in UNTIMED} for row in rows],
        "files": {f"{path.parent.name}/{path.name}": content(local(path)) for path in files},
    }


def content(path: Path) -> str:
    """Return a hash of what a file holds; safetensors orders its metadata by chance."""
    if path.suffix != ".safetensors":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("undisturbed")
    run(root)
    return numbers(root)


def interrupted_runs(root: Path, looks: int, **options: Any) -> int:
    """Run the trial with a stop after so many looks, again and again until it is finished; return the interruptions."""
    for count in range(200):
        try:
            run(root, RunOptions(**options), StopAfter(looks))
        except Interrupted:
            continue
        return count
    raise AssertionError("it never ends")


@pytest.mark.parametrize("looks", [9, 14])
def test_any_number_of_interruptions_changes_no_number(tmp_path: Path, undisturbed: dict[str, Any], looks: int) -> None:
    """In the middle of epochs of both phases, and of evaluations."""
    assert interrupted_runs(tmp_path, looks, probes=()) > 3  # probes begin anew, and look more often than this
    assert numbers(tmp_path) == undisturbed
    folder, stage = folders(tmp_path)
    assert not folder.checkpoints.exists()
    assert not stage.checkpoints.exists()
    resumed = [attempt["resumed"] for attempt in folder.attempts()]
    assert {position["phase"] for position in resumed if position} == {"pretrain", "finetune_cnn", "finetune_vit"}
    assert any(position["batch"] for position in resumed if position), "one was in the middle of an epoch"


def test_activation_checkpointing_changes_no_number_whoever_goes_on_with_it(tmp_path: Path, undisturbed: Any) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, RunOptions(activation_checkpointing=True), StopAfter(9))
    with pytest.raises(Interrupted):
        run(tmp_path, RunOptions(activation_checkpointing=False), StopAfter(30))
    run(tmp_path, RunOptions(activation_checkpointing=True))
    assert numbers(tmp_path) == undisturbed
    folder, _ = folders(tmp_path)
    assert [attempt["activation_checkpointing"] for attempt in folder.attempts()] == [True, False, True]
    environment = folder.environment()
    assert environment is not None and environment["activation_checkpointing"] is True


def test_rows_of_earlier_attempts_come_first_and_are_marked(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, stop=StopAfter(30))
    rows = run(tmp_path)
    expected = [(phase, epoch) for phase in ("pretrain", "finetune_cnn", "finetune_vit") for epoch in (1, 2)]
    assert [(row["phase"], row["epoch"]) for row in rows] == expected
    reused = [row["reused"] for row in rows]
    assert reused == sorted(reused, reverse=True)
    assert {True, False} == set(reused)


def test_rows_that_a_killed_process_had_not_written_are_written_again(tmp_path: Path, undisturbed: Any) -> None:
    """As in an object store, where rows are written every ten seconds."""
    for looks in (30, 45):
        with pytest.raises(Interrupted):
            run(tmp_path, stop=StopAfter(looks))
        in_progress = "trials" if list(tmp_path.glob("stages/*/epoch-*/run.json")) else "stages"
        for path in tmp_path.glob(f"{in_progress}/*/epochs/*.jsonl"):
            path.unlink()
    run(tmp_path)
    folder, stage = folders(tmp_path)
    written = [*stage.rows(), *folder.rows()]
    expected = [(phase, epoch) for phase in ("pretrain", "finetune_cnn", "finetune_vit") for epoch in (1, 2)]
    assert [(row["phase"], row["epoch"]) for row in written] == expected
    assert numbers(tmp_path) == undisturbed


@pytest.mark.parametrize("part", ["trial", "stage"])
def test_what_a_machine_that_is_gone_held_is_taken_over(
    tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(leases, "EXPIRY_S", 0.5)
    monkeypatch.setattr(leases, "CONFIRM_S", 0.5)
    with pytest.raises(Interrupted):
        run(tmp_path, stop=StopAfter(9))
    folder, stage = folders(tmp_path)
    there = Holder.this_process("theirs").record() | {"machine": "another/boot/1", "host": "gone"}
    write_json((folder if part == "trial" else stage).path / "holder.json", there)
    run(tmp_path)
    assert numbers(tmp_path) == undisturbed
