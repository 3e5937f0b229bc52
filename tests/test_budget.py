"""`--budget-hours`: nothing is started that cannot finish; then the tables are printed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cass_tune import budget, execution
from cass_tune.budget import Budget, Gate
from cass_tune.config import ARMS, Data, to_json
from cass_tune.data.listings import Listings
from cass_tune.ending import budget_line
from cass_tune.estimate import Estimator
from cass_tune.leases import Lease
from cass_tune.notices import Stop
from cass_tune.options import Settings
from cass_tune.pace import images_passed, kind
from cass_tune.plan import Wanted
from cass_tune.readiness import Readiness
from cass_tune.results import Folder, Results
from cass_tune.storage import write_json
from tests import small
from tests.grids import listing, paper_grid
from tests.objects import ObjectStore

LISTING = listing()
HOUR = 3600.0
EPOCH_S = 100.0
"""Of a pretraining."""


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Hours:
    """A budget over three lengths of one pretraining, all epochs of which take 100 s.

    Args:
        root: of the results.
        hours: of the budget.
        known: whether the pretraining's pace is known.
        redo: name of the run, if it computes every trial anew.
    """

    def __init__(self, root: Path | str, hours: float, *, known: bool = True, redo: str | None = None) -> None:
        self.items = paper_grid({"pretrain.epochs": (50, 100, 200)})
        self.results = Results(root)
        self.clock = Clock()
        estimator = Estimator(self.results, Listings([Data()], lambda _: LISTING), Settings(device="cpu"))
        config = to_json(self.items[0].trial)
        if known:
            images = images_passed(config, LISTING.counts(), "pretrain")
            estimator.measured({kind(config, "pretrain"): EPOCH_S / images}, "")
        self.budget = Budget(hours, 0.0, estimator, self.results, self.items, self.clock, redo)

    def of(self, epochs: int) -> Wanted:
        return next(w for w in self.items if w.trial.pretrain.epochs == epochs and not w.is_control)

    @property
    def control(self) -> Wanted:
        return next(item for item in self.items if item.is_control)

    def fitting(self) -> list[int]:
        """Return the lengths that fit."""
        return [epochs for epochs in (50, 100, 200) if self.budget.fits(self.of(epochs))]

    def row(self, item: Wanted, phase: str, seconds: float) -> None:
        self.budget.row(str(item.digest), {"phase": phase, "seconds": seconds, "reused": False})


def write_rows(folder: Folder, phase: str, epochs: int, *, checkpoint: bool) -> None:
    """Write what a training that was interrupted has left."""
    rows = [{"phase": phase, "epoch": epoch, "seconds": EPOCH_S} for epoch in range(1, epochs + 1)]
    write_json(folder.path / "config.json", {"digest": folder.digest})
    with folder.row_file("a1") as lines:
        for row in rows:
            lines.append(json.dumps(row))
    if checkpoint:
        state = {"rows": rows} if phase == "pretrain" else {"done": {}, "arm": "cnn", "part": {"rows": rows}}
        write_json(folder.checkpoints / "000001-abcdef.json", {"values": state})


class TestBudget:
    """Seconds that a trial will take against those that are left."""

    def test_what_fits(self, tmp_path: Path) -> None:
        hours = Hours(tmp_path, 3.0)  # 108 epochs
        assert hours.fitting() == [50, 100] and hours.budget.fits(hours.control)
        hours.clock.now = 1.0 * HOUR
        assert hours.fitting() == [50]
        hours.clock.now = 2.9 * HOUR
        assert hours.fitting() == [] and hours.budget.fits(hours.control), "nothing is known of its finetuning"
        hours.clock.now = 3.0 * HOUR
        assert not hours.budget.fits(hours.control)

    def test_what_is_unknown_is_started_until_the_end(self, tmp_path: Path) -> None:
        hours = Hours(tmp_path, 3.0, known=False)
        assert hours.fitting() == [50, 100, 200]
        hours.clock.now = 3.0 * HOUR
        assert hours.fitting() == []

    def test_it_learns_from_this_run(self, tmp_path: Path) -> None:
        hours = Hours(tmp_path, 3.0)
        hours.budget.started(str(hours.of(50).digest))
        hours.row(hours.of(50), "pretrain", EPOCH_S / 2)
        assert hours.fitting() == [50, 100, 200], "half of what was expected"
        hours.row(hours.control, "finetune_cnn", 1000.0)
        assert not hours.budget.fits(hours.control), "50 epochs of 1000 s"

    def test_it_learns_what_a_trial_takes_beside_its_epochs(self, tmp_path: Path) -> None:
        hours = Hours(tmp_path, 3.0)
        digest = str(hours.of(50).digest)
        hours.budget.started(digest)
        hours.row(hours.of(50), "pretrain", EPOCH_S)
        hours.clock.now = 600.0
        hours.budget.ended(digest)
        assert hours.fitting() == [50], "10 200 s are left: 100 epochs are 10 000 s, and 500 s more"

    def test_reused_epochs_teach_nothing(self, tmp_path: Path) -> None:
        hours = Hours(tmp_path, 3.0)
        hours.budget.row(str(hours.of(50).digest), {"phase": "pretrain", "seconds": 1.0, "reused": True})
        hours.budget.row(str(hours.of(50).digest), {"phase": "left", "seconds": None, "reused": None})
        assert hours.fitting() == [50, 100]

    def test_stored_ends_are_not_computed_again(self, tmp_path: Path) -> None:
        hours = Hours(tmp_path, 3.0)
        stage = hours.results.stage(hours.of(200).segments[0].stage)
        write_json(stage.path / "config.json", {"digest": stage.digest})
        write_json(stage.end(100) / "run.json", {})
        assert hours.fitting() == [50, 100, 200]

    @pytest.mark.parametrize("checkpoint", [True, False])
    def test_an_interrupted_pretraining_goes_on_from_its_checkpoint(self, tmp_path: Path, checkpoint: bool) -> None:
        hours = Hours(tmp_path, 3.0)
        stage = hours.results.stage(hours.of(200).segments[0].stage)
        write_rows(stage, "pretrain", 120, checkpoint=checkpoint)
        assert (200 in hours.fitting()) == checkpoint

    @pytest.mark.parametrize("checkpoint", [True, False])
    def test_an_interrupted_finetuning_too(self, tmp_path: Path, checkpoint: bool) -> None:
        hours = Hours(tmp_path, 1.0)
        hours.row(hours.control, "finetune_cnn", 100.0)
        hours.row(hours.control, "finetune_vit", 1.0)
        write_rows(hours.results.trial(str(hours.control.digest)), "finetune_cnn", 40, checkpoint=checkpoint)
        assert hours.budget.fits(hours.control) == checkpoint

    def test_finished_trials_always_fit(self, tmp_path: Path) -> None:
        hours = Hours(tmp_path, 3.0)
        folder = hours.results.trial(str(hours.of(200).digest))
        write_json(folder.path / "result.json", {})
        assert hours.fitting() == [50, 100, 200]

    def test_earlier_results_do_not_count_when_all_is_done_anew(self, tmp_path: Path) -> None:
        hours = Hours(tmp_path, 3.0, redo="now")
        for item in hours.items:
            write_json(hours.results.trial(str(item.digest)).path / "result.json", {})
        gate = Gate(hours.results, hours.budget, Readiness(hours.results, "now"))
        assert hours.fitting() == [50, 100]
        hours.results.trial(str(hours.of(200).digest)).begin("a1", "now")
        assert hours.fitting() == [50, 100, 200], "this run has finished it"
        hours.clock.now = 3.0 * HOUR
        assert not gate(hours.of(50)) and gate.is_closed([hours.of(50)])

    def test_an_earlier_checkpoint_neither(self, tmp_path: Path) -> None:
        hours = Hours(tmp_path, 1.0, redo="now")
        hours.row(hours.control, "finetune_cnn", 100.0)
        hours.row(hours.control, "finetune_vit", 1.0)
        write_rows(hours.results.trial(str(hours.control.digest)), "finetune_cnn", 40, checkpoint=True)
        assert not hours.budget.fits(hours.control)

    def test_the_gate_closes_when_nothing_will_ever_fit(self, tmp_path: Path) -> None:
        hours = Hours(tmp_path, 3.0)
        gate = Gate(hours.results, hours.budget)
        long, short = hours.of(200), hours.of(50)
        assert not gate(long) and gate(short)
        assert not gate.is_closed([long, short]) and gate.is_closed([long]) and not gate.is_closed([])
        stage = hours.results.stage(long.segments[0].stage)
        with Lease.acquire(stage.path, "a1"):
            assert not gate(short), "another process computes its pretraining"
            assert not gate.is_closed([long, short]), "which may soon be there"
            hours.clock.now = 3.0 * HOUR
            assert gate.is_closed([long, short])

    def test_a_trial_that_was_held_waits_a_while(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hours, now = Hours(tmp_path, 3.0), Clock()
        monkeypatch.setattr(budget.time, "monotonic", now)
        gate = Gate(hours.results, hours.budget)
        one, other = hours.of(50), hours.of(100)
        gate.hold_back(one)
        assert not gate(one) and gate(other) and not gate.is_closed([one])
        now.now = 31.0
        assert gate(one)

    def test_it_closes_when_the_time_is_over_while_the_store_is_away(self, object_store: ObjectStore) -> None:
        object_store.make_bucket("budget")
        hours = Hours("s3://budget/results", 3.0)
        gate = Gate(hours.results, hours.budget)
        with object_store.failing("GET|HEAD", 503, "SlowDown"):
            assert not gate.is_closed(hours.items)
            hours.clock.now = 3.0 * HOUR
            assert gate.is_closed(hours.items)

    def test_trials_that_wait_for_others_are_counted_apart(self, tmp_path: Path) -> None:
        hours = Hours(tmp_path, 3.0)
        gate = Gate(hours.results, hours.budget)
        with Lease.acquire(hours.results.stage(hours.of(50).segments[0].stage).path, "a1"):
            assert gate.waiting_for_others(hours.items) == 3
        assert gate.waiting_for_others(hours.items) == 0
        rest = "for longer than --budget-hours 3. The same command goes on with what is left, with as many hours again."
        assert budget_line(0, 3.0, 1) == f"1 trial waits for another process, {rest}"
        assert budget_line(1, 3.0, 2) == (
            "1 trial was not started, because it would not finish within --budget-hours 3. "
            f"2 trials wait for another process, {rest}"
        )

    def test_without_a_budget_the_gate_never_closes(self, tmp_path: Path) -> None:
        hours = Hours(tmp_path, 3.0)
        gate = Gate(hours.results, None)
        assert gate(hours.of(200)) and not gate.is_closed([hours.of(200)])


def slow_down(root: Path, phases: tuple[str, ...], seconds: float) -> None:
    """Let the epochs that have been computed seem to have taken so long."""
    for path in root.glob("*/*/epochs/*.jsonl"):
        rows: list[dict[str, Any]] = small.json_lines(path)
        slow = [{**row, "seconds": seconds} if row["phase"] in phases else row for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in slow))


FINETUNING = tuple(f"finetune_{arm}" for arm in ARMS)
ONE = ("--pretrain.learning-rate", "0.001")
TWO = (*ONE, "--seeds", "0", "1")


def a_study_in_which_the_second_cell_does_not_fit(root: Path, capsys: pytest.CaptureFixture[str], *how: str) -> None:
    """The pretraining of the second seed would take 2 x 1000 s, its control is quick; then there is time for it."""
    assert small.run(*ONE, *how, results=root) == 0
    slow_down(root, ("pretrain",), 1000.0)
    capsys.readouterr()
    assert small.run(*TWO, *how, "--budget-hours", "0.5", results=root) == 1
    out = capsys.readouterr().out
    assert "to run: 2" in out and "hours: about 0." in out and ", by earlier trials of the same kind" in out
    assert "  started  none seed=1" in out and "  started  seed=1" not in out and "stopping" not in out
    *_, one, two, three, four, last = out.splitlines()
    table = ["seed=0: done", "none seed=0: done", "seed=1: missing", "none seed=1: done"]
    assert [one, two, three, four] == table
    assert last == (
        "1 trial was not started, because it would not finish within --budget-hours 0.5. "
        "The same command goes on with what is left, with as many hours again."
    )
    assert small.run(*TWO, *how, "--budget-hours", "2", results=root) == 0
    assert "finished: 3 done; to run: 1" in capsys.readouterr().out


def test_in_this_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_study_in_which_the_second_cell_does_not_fit(tmp_path, capsys, "--local")


def test_nothing_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.run(*ONE, "--local", results=tmp_path) == 0
    slow_down(tmp_path, ("pretrain", *FINETUNING), 1000.0)
    assert small.run(*TWO, "--local", "--budget-hours", "1", results=tmp_path) == 1
    out = capsys.readouterr().out
    assert "seed=1: missing\nnone seed=1: missing\n2 trials were not started" in out


def test_a_failure_is_told_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A budget does not hide that trials failed, nor the other way round."""
    line = ["--local", "--pretrain.learning-rate", "0.001", "1e30", "--budget-hours", "1"]
    assert small.run(*line, results=tmp_path) == 1
    assert "not started" not in capsys.readouterr().out


def test_others_go_on_while_a_trial_finds_itself_held(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the records say: the trial goes to the end of the line, and is not started again and again."""
    assert small.run(*ONE, "--local", "--budget-hours", "1e-9", results=tmp_path) == 1
    one, control = (Results(tmp_path).trial(small.wanted(tmp_path)[name]) for name in ("seed=0", "none seed=0"))
    lease = Lease.acquire(one.path, "another")
    hold_back, others_were_done = Gate.hold_back, list[bool]()

    def note(self: Gate, item: Wanted) -> None:
        hold_back(self, item)
        others_were_done.append(control.is_finished())
        if control.is_finished():
            lease.release()

    monkeypatch.setattr(Gate, "hold_back", note)
    monkeypatch.setattr(Readiness, "__call__", lambda *_: True)
    monkeypatch.setattr(budget, "HELD_BACK_S", 1.0)
    assert small.run(*ONE, "--local", results=tmp_path) == 0
    assert others_were_done == [False, True]
    assert capsys.readouterr().out.count("is held by") == 2


@pytest.mark.ray
class TestByRay:
    """Trials that do not fit are never given a process."""

    def test_the_second_cell_does_not_fit(
        self, one_cpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        a_study_in_which_the_second_cell_does_not_fit(tmp_path, capsys)

    def test_nothing_is_started_in_advance(
        self, one_cpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All trials fit until the first one has begun, and none afterwards: none may be waiting for its place."""
        import ray

        def begun() -> int:
            return len(list(tmp_path.glob("trials/*/attempts")))

        class FirstAlone(Gate):
            def __call__(self, item: Wanted, live: Iterable[Wanted] = ()) -> bool:
                return not begun() and super().__call__(item, live)

            def is_closed(self, waiting: Iterable[Wanted]) -> bool:
                return begun() > 0

        monkeypatch.setattr(execution, "Gate", FirstAlone)
        all_cpus = str(int(ray.cluster_resources()["CPU"]))
        assert small.run("--budget-hours", "1", "--cpus-per-trial", all_cpus, results=tmp_path) == 1
        assert begun() == 1
        assert len(list(tmp_path.glob("trials/*/result.json"))) == 1, "which is finished: nothing is cut off"

    def test_a_trial_that_waits_for_a_place_does_not_keep_it_open(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from ray.tune.experiment import Trial

        from cass_tune.runner import tuner

        ended: list[object] = []
        monkeypatch.setattr(tuner, "_end", ended.append)
        over = lambda: "nothing that waits will fit"  # noqa: E731
        parts: Any = (None, None, None, None, Stop(), tmp_path / "stop", over, None, None)
        watcher = tuner._Watcher(*parts)
        trials: Any = [SimpleNamespace(status=status) for status in (Trial.PENDING, Trial.PAUSED)]
        watcher.on_step_end(0, trials)
        assert ended == [trials]
        trials[1].status = Trial.RUNNING
        monkeypatch.setattr(watcher, "_look_for_progress", lambda trials: None)
        watcher.on_step_end(0, trials)
        assert ended == [trials], "what runs is never cut off"

    def test_nothing_fits(self, one_cpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert small.run(*ONE, results=tmp_path) == 0
        slow_down(tmp_path, ("pretrain", *FINETUNING), 1000.0)
        assert small.run(*TWO, "--budget-hours", "1", results=tmp_path) == 1
        assert "none seed=1: missing\n2 trials were not started" in capsys.readouterr().out
