"""What the scheduler relies on in Ray Tune: trials that wait are paused and hold nothing until they are ready."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from cass_tune.runner import StudyScheduler, ray_session
from cass_tune.runner import scheduler as scheduler_module
from cass_tune.runner.scheduler import ASK_EVERY_S
from cass_tune.runner.trainable import HELD

pytestmark = pytest.mark.ray


@pytest.fixture(autouse=True)
def _ask_often(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask more often than every 2 s, to save time."""
    if request.node.name != "test_waiting_neither_spins_nor_asks_often":
        monkeypatch.setattr(scheduler_module, "ASK_EVERY_S", 0.2)


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    with ray_session(None):
        yield


class Recorder:
    """Readiness as a test wants it, places that are all alike, and the questions that were asked.

    Args:
        is_ready: given a trial's number and the numbers of those that are live.
        places: how many trials can run at once.
    """

    def __init__(self, is_ready: Callable[[int, list[int]], bool], places: int = 2) -> None:
        self._is_ready = is_ready
        self._places = places
        self.asked: list[float] = []

    def choose(self, waiting: Sequence[Trial], live: Sequence[Trial]) -> Trial | None:
        """Return the first trial that is ready."""
        free = waiting if len(live) < self._places else ()
        return next((trial for trial in free if self._ask(trial, live)), None)

    def _ask(self, trial: Trial, live: Sequence[Trial]) -> bool:
        self.asked.append(time.monotonic())
        return self._is_ready(trial.config["number"], [other.config["number"] for other in live])

    def is_stuck(self, trial: Trial, live: Sequence[Trial]) -> bool:
        """Return False."""
        return False


class Counting(StudyScheduler):
    """Notes when Ray Tune asks for a trial."""

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        self.calls = [*getattr(self, "calls", []), time.monotonic()]
        return super().choose_trial_to_run(tune_controller)


def work(config: dict[str, Any]) -> None:
    """Report some epochs; write when the trial starts, passes its first epoch, and ends."""
    folder = Path(config["folder"])
    (folder / f"process-{config['number']}").write_text(str(os.getpid()))
    (folder / f"started-{config['number']}").write_text(str(time.time()))
    for epoch in range(config["epochs"]):
        time.sleep(config["seconds"])
        if epoch and config.get("first_waits") and config["number"] == 0:
            _wait_for(folder / "started-1")
        (folder / f"epoch-{config['number']}-{epoch}").write_text(str(time.time()))
        tune.report({"score": config["number"], "epoch": epoch + 1})
    if config.get("fails") == config["number"]:
        raise RuntimeError("no luck")
    (folder / f"ended-{config['number']}").write_text(str(time.time()))


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(str(path))
        time.sleep(0.05)


def run(
    folder: Path,
    scheduler: TrialScheduler,
    numbers: int = 2,
    *,
    cpus: float = 0.5,
    epochs: int = 2,
    seconds: float = 0.1,
    retries: int = 0,
    **more: Any,
) -> tune.ResultGrid:
    (folder / "marks").mkdir()
    space = {"number": tune.grid_search(list(range(numbers))), "folder": str(folder / "marks"), "epochs": epochs}
    return tune.Tuner(
        tune.with_resources(work, {"cpu": cpus}),
        param_space={**space, "seconds": seconds, **more},
        tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=True, metric="score", mode="min"),
        run_config=tune.RunConfig(
            storage_path=str(folder / "ray"), verbose=0, failure_config=tune.FailureConfig(max_failures=retries)
        ),
    ).fit()


def failed(grid: tune.ResultGrid) -> dict[int, bool]:
    """Return by number whether a trial failed."""
    return {result.config["number"]: result.error is not None for result in grid if result.config}


def at(folder: Path, mark: str) -> float:
    """Return when a mark was written."""
    return float((folder / "marks" / mark).read_text())


def test_a_trial_that_is_not_ready_holds_no_cpu_and_starts_when_it_is(tmp_path: Path) -> None:
    """Both trials want all the CPUs there are: if the first one, which waits, held them, nothing would ever run."""
    is_ready = Recorder(lambda number, live: number == 1 or (tmp_path / "marks" / "ended-1").exists())
    grid = run(tmp_path, StudyScheduler(is_ready), cpus=_all_cpus())
    assert not grid.errors and len(grid) == 2
    assert at(tmp_path, "started-0") > at(tmp_path, "ended-1")


def test_it_starts_when_what_it_waits_for_is_there_not_when_the_other_trial_ends(tmp_path: Path) -> None:
    """After its first epoch, which the second trial waits for, the first trial waits for the second to start."""
    is_ready = Recorder(lambda number, live: number == 0 or (tmp_path / "marks" / "epoch-0-0").exists())
    grid = run(tmp_path, StudyScheduler(is_ready), first_waits=True)
    assert not grid.errors
    assert at(tmp_path, "epoch-0-0") < at(tmp_path, "started-1") < at(tmp_path, "ended-0")


def test_trials_start_in_order_and_no_more_than_there_is_room_for(tmp_path: Path) -> None:
    running: list[int] = []

    def is_ready(number: int, live: list[int]) -> bool:
        running.append(len(live))
        return True

    grid = run(tmp_path, StudyScheduler(Recorder(is_ready, 1)), numbers=4)
    assert not grid.errors
    starts = [at(tmp_path, f"started-{number}") for number in range(4)]
    assert starts == sorted(starts)
    assert set(running) == {0}


def test_the_next_trial_gets_the_process_of_the_one_that_has_ended(tmp_path: Path) -> None:
    """Though the trials are all known, and none is staged, which Ray Tune takes for a reason to end it."""
    run(tmp_path, StudyScheduler(Recorder(lambda number, live: True)), 6)
    processes = {(tmp_path / "marks" / f"process-{number}").read_text() for number in range(6)}
    assert len(processes) == 2


def test_no_process_is_kept_for_a_trial_that_is_not_ready(tmp_path: Path) -> None:
    """The second trial is ready some time after the first has ended, and another process than Ray Tune's own has to."""
    ended = tmp_path / "marks" / "ended-0"
    is_ready = lambda number, live: number == 0 or (ended.exists() and time.time() > at(tmp_path, "ended-0") + 3)  # noqa: E731
    begun = time.monotonic()
    grid = run(tmp_path, StudyScheduler(Recorder(is_ready)))
    assert not grid.errors and time.monotonic() - begun > 3
    processes = {(tmp_path / "marks" / f"process-{number}").read_text() for number in range(2)}
    assert len(processes) == 2


def test_after_a_failure_the_next_one_takes_over(tmp_path: Path) -> None:
    """Only one may run at a time; the first fails for good, the second goes on."""
    grid = run(tmp_path, StudyScheduler(Recorder(lambda number, live: not live)), fails=0)
    assert failed(grid) == {0: True, 1: False}
    assert (tmp_path / "marks" / "ended-1").exists()


def test_a_trial_that_is_tried_again_waits_until_it_is_ready(tmp_path: Path) -> None:
    """After its error the first trial is ready only when the second has ended."""

    def is_ready(number: int, live: list[int]) -> bool:
        marks = tmp_path / "marks"
        return number == 1 or not (marks / "started-0").exists() or (marks / "ended-1").exists()

    grid = run(tmp_path, StudyScheduler(Recorder(is_ready)), fails=0, retries=1, seconds=1.0, epochs=3)
    assert failed(grid) == {0: True, 1: False}
    assert at(tmp_path, "started-0") > at(tmp_path, "ended-1"), "the second attempt"


def test_a_trial_that_was_held_goes_to_the_end_of_the_line() -> None:
    """One that died is the first again."""
    places: Any = SimpleNamespace(choose=lambda waiting, live: waiting[0])
    scheduler = StudyScheduler(places)
    controller: Any = SimpleNamespace(
        get_trials=list,
        _set_trial_status=lambda trial, status: None,
        _resetting_trials=SimpleNamespace(discard=lambda trial: None),
    )
    trials: Any = [
        SimpleNamespace(trial_id=str(number), is_finished=lambda: False, set_status=lambda status: None)
        for number in range(3)
    ]
    for trial in trials:
        scheduler.on_trial_add(controller, trial)
    first, second, third = trials
    assert scheduler.choose_trial_to_run(controller) is first
    scheduler.on_trial_result(controller, first, {"phase": HELD})
    scheduler.on_trial_add(controller, first)
    assert scheduler.choose_trial_to_run(controller) is second
    scheduler.on_trial_result(controller, second, {"phase": "pretrain"})
    scheduler.on_trial_add(controller, second)
    assert [scheduler.choose_trial_to_run(controller) for _ in trials] == [second, third, first]


def test_waiting_neither_spins_nor_asks_often(tmp_path: Path) -> None:
    begun = time.monotonic()
    recorder = Recorder(lambda number, live: time.monotonic() > begun + 7)
    scheduler = Counting(recorder)
    grid = run(tmp_path, scheduler)
    assert not grid.errors
    waited = [moment for moment in recorder.asked if moment < begun + 7]
    rounds = sorted({round((moment - recorder.asked[0]) / ASK_EVERY_S) for moment in waited})
    assert len(waited) <= 2 * (7 / ASK_EVERY_S + 2), "both trials, every 2 s"
    assert len(rounds) >= 2, "it did wait"
    assert sum(call < begun + 7 for call in scheduler.calls) <= 7 / 0.1 + 1, "a pause of 0.1 s while nothing runs"


def test_nothing_starts_any_more_when_the_study_is_being_stopped(tmp_path: Path) -> None:
    started = tmp_path / "marks" / "started-0"
    scheduler = StudyScheduler(Recorder(lambda number, live: not live), started.exists)

    class End(tune.Callback):
        """Ends the run as the study does: by Ray Tune's own signal, once nothing runs."""

        def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
            if trials and trials[0].is_finished():
                for trial in trials:
                    trial.init_local_path()
                os.kill(os.getpid(), signal.SIGUSR1)

    (tmp_path / "marks").mkdir()
    tune.Tuner(
        tune.with_resources(work, {"cpu": 0.5}),
        param_space={
            "number": tune.grid_search([0, 1]),
            "folder": str(tmp_path / "marks"),
            "epochs": 2,
            "seconds": 0.1,
        },
        tune_config=tune.TuneConfig(scheduler=scheduler),
        run_config=tune.RunConfig(storage_path=str(tmp_path / "ray"), verbose=0, callbacks=[End()]),
    ).fit()
    assert (tmp_path / "marks" / "ended-0").exists()
    assert not (tmp_path / "marks" / "started-1").exists()


def test_another_scheduler_decides_about_the_trials_that_run(tmp_path: Path) -> None:
    inner = ASHAScheduler(time_attr="epoch", max_t=8, grace_period=1, reduction_factor=2)
    scheduler = StudyScheduler(Recorder(lambda number, live: True), inner=inner)
    grid = run(tmp_path, scheduler, numbers=4, epochs=8)
    assert not grid.errors
    reached = {result.config["number"]: result.metrics["epoch"] for result in grid if result.config and result.metrics}
    assert reached[0] == 8
    assert reached[3] < 8, "the worst is stopped early"


def _all_cpus() -> float:
    import ray

    return float(ray.cluster_resources()["CPU"])
