"""Running trials by Ray Tune: what is handed to it, what is made of its events, and how it is stopped."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial

from cass_tune.config import to_json
from cass_tune.errors import StorageError, Terminated
from cass_tune.notices import Source, Stop, every, stopped_by_signals
from cass_tune.objects import ObjectPath
from cass_tune.patience import patience
from cass_tune.plan import Wanted
from cass_tune.results import Record, Results
from cass_tune.run_options import RunOptions
from cass_tune.runner.leaving import leaving_for_sure
from cass_tune.runner.loggers import loggers
from cass_tune.runner.places import PlaceManager, managing
from cass_tune.runner.placing import Demand, Placing
from cass_tune.runner.retries import Retries
from cass_tune.runner.scheduler import ASK_EVERY_S, StudyScheduler
from cass_tune.runner.searcher import MOST_TRIALS, TrialSearcher
from cass_tune.runner.trainable import HELD, LEFT, OUT_OF_MEMORY, UNSAVED, trainable
from cass_tune.storage import AnyPath, write_text

if TYPE_CHECKING:
    from cass_tune.budget import Gate
    from cass_tune.durations import Durations
    from cass_tune.events import TrialEvents
    from cass_tune.run import Further

logger = logging.getLogger(__name__)

ASK_OBJECTS_EVERY_S = 10.0
"""Least time between two rounds of questions to an object store about the trials that wait."""
STOP_S = 25.0
"""How long running trials have to save their state when the study is stopped."""


def run_trials(
    wanted: Sequence[Wanted],
    results: Results,
    options: RunOptions,
    *,
    study: str,
    demand: Demand,
    durations: Durations,
    events: TrialEvents,
    stop: Stop,
    gate: Gate,
    leave: Callable[[bool], None],
    failures: Mapping[str, str | None],
    supply: Further | None = None,
    log_to: Sequence[str] = (),
) -> None:
    """Run trials by Ray Tune within a session.

    A trial that fails leaves the others running; its error is in its folder (`TrialFolder.failure`). One whose process
    or machine is lost goes on elsewhere.

    Args:
        wanted: trials to run, in order.
        results: root of all records; every node must see it.
        options: how a trial runs; `stop_file` is set here.
        study: names the folder of Ray's own records.
        demand: what trials ask for; told about those that ran out of memory.
        durations: how long they take; they learn from every epoch.
        events: told about every start, row and end.
        stop: a request to stop the study.
        gate: says which trial may start, and when none of those that wait ever will.
        failures: identity of the recorded failure by trial, of those that were there when the command began.
        supply: further trials; `failures` is complete when it returns one.
        log_to: trackers that log every epoch as well (`cass_tune.runner.loggers`).
        leave: ends this process when Ray does not answer any more after a stop; told whether SIGTERM came.

    Raises:
        StorageError: the records of a trial could not be written.
        Terminated: SIGTERM came; the trials have saved their state.
        KeyboardInterrupt: SIGINT came twice.
    """
    wanted = list(wanted)
    trials = _Trials()
    runs = [trials.add(item, failures) for item in wanted]
    searcher = None
    if supply is not None and not supply.is_over():
        searcher = TrialSearcher(runs, _further(supply, wanted, trials, failures), lambda: stop.reason is not None)
    stop_file = results.stop_file(study, options.run)
    ask_every_s = ASK_OBJECTS_EVERY_S if isinstance(results.root, ObjectPath) else ASK_EVERY_S

    def over() -> str | None:
        waiting = [item for item in wanted if not events.has_settled(str(item.digest))]
        return "nothing that waits will fit" if gate.is_closed(waiting) else None

    manager = PlaceManager(are_plain=demand.is_own_ray)
    placing = Placing(trials.__getitem__, gate, demand, durations, manager)
    retries = Retries(results, options.max_failures)
    watcher = _Watcher(trials, results, events, retries, stop, stop_file, every(ask_every_s, over), gate, placing)
    chosen = {**asdict(options), "stop_file": str(stop_file)}
    tuner = tune.Tuner(
        trainable,
        param_space={"results": str(results.root), "options": chosen, **({} if searcher else _grid(runs))},
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            search_alg=searcher,
            num_samples=MOST_TRIALS if searcher else 1,
            trial_dirname_creator=lambda trial: str(trials[trial].digest)[:12],
            trial_name_creator=lambda trial: f"{trials[trial].name} {str(trials[trial].digest)[:12]}",
            scheduler=StudyScheduler(placing, lambda: stop.reason is not None, ask_every_s, asking=gate.round),
        ),
        run_config=tune.RunConfig(
            name=options.run,
            storage_path=str(results.ray(study)),
            verbose=0,
            callbacks=[watcher, *loggers(log_to, study)],
            failure_config=tune.FailureConfig(max_failures=-1),
        ),
    )
    with (
        managing(manager),
        stopped_by_signals(stop) as came,
        leaving_for_sure(
            stop,
            lambda: any(results.trial(str(item.digest)).is_held() for item in wanted),
            lambda: leave(signal.SIGTERM in came),
            most_s=STOP_S,
        ),
    ):
        try:
            tuner.fit()
        except Exception as error:
            if not watcher.has_ended:
                raise
            logger.debug("Ray's own records cannot be read: %s", error)  # nothing reads them but Ray Tune's last step
        finally:
            placing.ask_for_nothing()
    if signal.SIGTERM in came:
        raise Terminated
    if watcher.storage_error:
        raise watcher.storage_error


def _grid(runs: Sequence[Record]) -> Record:
    return {"run": tune.grid_search(list(runs))}


def _further(
    supply: Further, wanted: list[Wanted], trials: _Trials, failures: Mapping[str, str | None]
) -> Callable[[], Record | None]:
    """Return what asks the supply for a trial and returns what Ray's trial is told."""

    def ask() -> Record | None:
        item = supply.next()
        if item is None:
            return None
        wanted.append(item)
        return trials.add(item, failures)

    return ask


def _key(run: Mapping[str, Any]) -> str:
    return json.dumps(run, sort_keys=True)


class _Trials:
    """What is wanted of each of Ray's trials."""

    def __init__(self) -> None:
        self._wanted: dict[str, Wanted] = {}
        """By the JSON of the trial's configuration."""
        self._found: dict[str, Wanted] = {}

    def add(self, item: Wanted, failures: Mapping[str, str | None]) -> Record:
        """Take note of a trial and return what Ray's trial is told."""
        run = {
            "trial": to_json(item.trial),
            "inputs": asdict(item.inputs) if item.inputs else None,
            "failure": failures.get(str(item.digest)),
            "pruning": item.pruning.record() if item.pruning else None,
            "test": item.is_tested,
            "generation_epochs": item.generation_epochs,
        }
        self._wanted[_key(run)] = item
        return run

    def __getitem__(self, trial: Trial) -> Wanted:
        if trial.trial_id not in self._found:
            self._found[trial.trial_id] = self._wanted[_key(trial.config["run"])]
        return self._found[trial.trial_id]


class _Watcher(Callback):
    """Tells the events, decides about failures, and stops Ray Tune when the study is to be stopped."""

    def __init__(
        self,
        trials: _Trials,
        results: Results,
        events: TrialEvents,
        retries: Retries,
        stop: Stop,
        stop_file: AnyPath,
        over: Source,
        gate: Gate,
        placing: Placing,
    ) -> None:
        self._trials = trials
        self._results = results
        self._events = events
        self._retries = retries
        self._stop = stop
        self._stop_file = stop_file
        self._over = over
        self._gate = gate
        self._placing = placing
        self._deadline: float | None = None
        self._looked = 0.0
        self.has_ended = False
        """Whether all trials are over, whatever Ray Tune does afterwards."""
        self.storage_error: StorageError | None = None
        """Why the records of a trial could not be written."""

    def __reduce__(self) -> Any:  # Ray pickles the Tuner with its callbacks; nobody of ours ever restores it
        return Callback, ()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._events.started(str(self._trials[trial].digest))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if "phase" in result:
            if result["phase"] == UNSAVED:
                self._end_unsaved(self._trials[trial])
            if result["phase"] == HELD:
                self._gate.hold_back(self._trials[trial])
            self._retries.reported(trial, self._trials[trial], result["phase"])
            self._placing.learn(trial, result)
            with _unless_away():
                self._events.row(str(self._trials[trial].digest), result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        with _unless_away():
            self._events.ended(str(self._trials[trial].digest))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        wanted = self._trials[trial]
        with _unless_away():
            why = self._retries.recovered(trial, wanted)
            if why == OUT_OF_MEMORY:
                self._placing.give_a_card(wanted)
                why = "the GPU's memory was not enough; it is tried again alone on a card"
            self._events.left(str(wanted.digest), self._reason(wanted) if why in (HELD, LEFT) else why)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        wanted = self._trials[trial]
        digest = str(wanted.digest)
        text = str(trial.get_error() or "the trial's process ended without a message").strip()
        try:
            self._retries.gave_up(wanted, text.splitlines()[-1])
            self._events.failed(digest)
        except StorageError as error:
            self.storage_error = error

    def _reason(self, wanted: Wanted) -> str:
        """Return why a trial left, as far as it says so."""
        ends = [attempt["ended"] for attempt in self._results.trial(str(wanted.digest)).attempts()]
        return ends[-1]["message"] if ends and ends[-1] else "it left"

    def _end_unsaved(self, wanted: Wanted) -> None:
        """Stop the study, because no trial can save its work where this one cannot."""
        folder = self._results.trial(str(wanted.digest))
        text = f"Records of the trial {wanted.name} cannot be written, see {folder.log}."
        with _unless_away():
            ends = [attempt["ended"] for attempt in folder.attempts() if attempt["ended"]]
            text = ends[-1]["message"] if ends else text
        self.storage_error = self.storage_error or StorageError(None, text)
        self._stop.request("records cannot be written")

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._look_for_progress(trials)
        if self._stop.reason is None:
            if not any(trial.status == Trial.RUNNING for trial in trials) and self._over():
                _end(trials)
            return
        if self._deadline is None:
            self._deadline = time.monotonic() + STOP_S
            self._events.stopping(self._stop.reason)
            with (
                contextlib.suppress(OSError),
                patience(0),
            ):  # without it trials lose what they did since their last state
                write_text(self._stop_file, self._stop.reason)
        running = any(trial.status == Trial.RUNNING for trial in trials)
        if not running or time.monotonic() > self._deadline:
            self._deadline = float("inf")
            _end(trials)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self.has_ended = True

    def _look_for_progress(self, trials: list[Trial]) -> None:
        if time.monotonic() - self._looked < ASK_EVERY_S:
            return
        self._looked = time.monotonic()
        for trial in trials:
            if trial.status == Trial.RUNNING and self._retries.is_on_last_chance(self._trials[trial]):
                with _unless_away():
                    self._retries.look_for_progress(trial, self._trials[trial])


def _end(trials: Sequence[Trial]) -> None:
    """Let Ray Tune end in good order."""
    for trial in trials:
        trial.init_local_path()  # one that never started has none, and Ray's ResultGrid fails on it
    os.kill(os.getpid(), signal.SIGUSR1)  # Ray Tune's own way


@contextlib.contextmanager
def _unless_away() -> Iterator[None]:
    """Leave the block when records cannot be read, at once: Ray Tune's loop, and with it every trial, would wait."""
    try:
        with patience(0):
            yield
    except OSError as error:
        logger.debug("records cannot be read: %s", error)
