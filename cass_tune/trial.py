"""One trial from start to finish: claim it, run its steps, record how it ended. A plain generator of rows, no Ray."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from typing import Any

from cass_tune.attempt import Attempt
from cass_tune.config import Trial, to_json
from cass_tune.data.catalog import list_images
from cass_tune.data.listing import Listing
from cass_tune.errors import Collapsed, FailedElsewhere, Held, HoldLost, Interrupted, Pruned, StorageError, UsageError
from cass_tune.identity import RESULTS_VERSION, Inputs, segments, trial_digest
from cass_tune.leases import Lease
from cass_tune.lines import Lines
from cass_tune.notices import PROCESS, Source, Stop, command_source, every, watched
from cass_tune.objects import ObjectPath
from cass_tune.patience import patience, patiently
from cass_tune.plan import can_be_probed
from cass_tune.probe_steps import probe_later
from cass_tune.pruning import Pruning
from cass_tune.results import Results, TrialFolder, new_attempt
from cass_tune.run_options import RunOptions
from cass_tune.sharing import rows_of
from cass_tune.storage import AnyPath, place
from cass_tune.training.card_memory import is_out_of_memory
from cass_tune.training.determinism import Alerts
from cass_tune.trial_steps import trial_steps
from cass_tune.weights import weights_identity

logger = logging.getLogger(__name__)

ANY_FAILURE = "any"

_ADVICE = (
    "The GPU's memory was not enough, alone on a card either. Give a smaller --pretrain.batch-size or "
    "--finetune.batch-size, --activation-checkpointing on, or a card with more memory."
)

OBJECT_EVERY_S = 5.0
"""Time between two looks at the stop file in an object store."""

LEAVE_S = 5.0
"""How long a trial that leaves tries to record that."""

Row = dict[str, Any]


def read_inputs(trial: Trial, listing: Listing) -> Inputs:
    """Return what the trial reads from outside its configuration, as it is on this machine."""
    return Inputs(data=listing.fingerprint, **weights_identity(trial.pretrain))


def run_trial(
    trial: Trial,
    results: Results,
    options: RunOptions,
    expected: Inputs | None = None,
    sources: Sequence[Source] = (),
    stop: Stop = PROCESS,
    known_failure: str | None = ANY_FAILURE,
    pruning: Pruning | None = None,
) -> Generator[Row, None, None]:
    """Run a trial and yield one row per epoch (`cass_tune.training.rows`); everything else goes to the results root.

    It goes on from the last checkpoint, if there is one, and yields the rows of finished epochs first, marked as
    reused. A finished trial yields its stored rows and changes nothing, but gets the probes that it lacks.

    Args:
        trial: what to run.
        results: root of all records.
        options: how to run it.
        expected: the inputs that the driver saw; a machine that sees others fails.
        sources: further places to ask whether to stop (`cass_tune.notices`).
        stop: looked at between two steps.
        known_failure: identity of the recorded failure that is to be tried again, None when there was none; by default
            any is tried again.
        pruning: when to stop it early, in a search.

    Raises:
        UsageError: this machine sees other images or weights, or the configuration does not fit the data.
        Collapsed: under ``on_collapse="stop"``.
        Pruned: as `pruning` says.
        FailedElsewhere: another failure than the known one is recorded; nothing was changed.
        Held: another process computes this trial or its pretraining; nothing was changed.
        Interrupted: it was asked to stop, and has saved its state.
        HoldLost: another process has taken the trial over.
        StorageError: records cannot be written, or read; that is not the trial's failure.
        Exception: any other, of the trial's own code; `is_final` tells whether the trial is to be run again.
    """
    stop = Stop(parent=stop)
    check = _leaving_when_asked(stop)
    inputs = expected or read_inputs(trial, list_images(trial.data, check))
    folder = results.trial(trial_digest(trial, inputs))
    name = new_attempt()
    alerts = Alerts()
    on_lost = lambda: stop.request("the trial was taken over")  # noqa: E731
    between = lambda: check(0, 0)  # noqa: E731

    def held() -> AbstractContextManager[Lease]:
        return patiently(lambda: Lease.take_over(folder.path, name, on_lost=on_lost, between=between), between)

    def attempt_of(lease: Lease) -> Attempt:
        listing = list_images(trial.data, check)
        check_inputs(read_inputs(trial, listing), inputs)
        return Attempt(
            name=name,
            trial=trial,
            inputs=inputs,
            listing=listing,
            results=results,
            folder=folder,
            options=options,
            lease=lease,
            stop=stop,
            alerts=alerts,
        )

    if _is_finished(folder, options):
        yield from _stored_rows(trial, inputs, results, folder)
        if can_be_probed(folder, results, segments(trial, inputs), options.probes):
            with held() as lease, alerts.listening(), watched(stop, [*_sources(options), *sources]):
                _probe_later(folder, lambda: attempt_of(lease))
        return
    with held() as lease:
        if _is_finished(folder, options):  # by the process that held it until now
            yield from _stored_rows(trial, inputs, results, folder)
            return
        failure = folder.failure()
        if failure and known_failure not in (ANY_FAILURE, failure["id"]):
            raise FailedElsewhere(f"{failure['type']}: {failure['message']}")
        if options.redo and not _of_run(folder, options.run):
            patiently(folder.set_aside)
        config = {"trial": to_json(trial), "inputs": vars(inputs), "results_version": RESULTS_VERSION}
        patiently(lambda: folder.write_config(config), between)
        with (
            _recorded(folder, name, options, lease),
            alerts.listening(),
            watched(stop, [*_sources(options), *sources]),
            closing(attempt_of(lease)) as attempt,
        ):
            try:
                yield from _pruned(trial_steps(attempt), pruning)
            except Exception as error:
                error.position = attempt.position  # type: ignore[attr-defined]
                raise


def _probe_later(folder: TrialFolder, attempt: Callable[[], Attempt]) -> None:
    """Probe a finished trial; that this fails is said in its log, and makes no failed trial of it."""
    with _logging_to(folder.log):
        try:
            with closing(attempt()) as probed:
                probe_later(probed)
        except (Interrupted, HoldLost, StorageError):
            raise
        except Exception:
            logger.exception("the probes of trial %s failed", folder.id)


def _pruned(steps: Iterator[Row], pruning: Pruning | None) -> Iterator[Row]:
    """Yield rows until the trial is to be pruned; the steps are then closed before that is recorded."""
    rows: list[Row] = []
    with closing(steps):  # type: ignore[type-var]
        for row in steps:
            yield row
            rows.append(row)
            reason = pruning.reason(rows) if pruning else None
            if reason:
                raise Pruned(reason)


def _leaving_when_asked(stop: Stop) -> Callable[[int, int], None]:
    """Return a progress callback that raises Interrupted when the stop is requested."""

    def check(done: int, total: int) -> None:
        if stop.reason:
            raise Interrupted(stop.reason)

    return check


def _is_finished(folder: TrialFolder, options: RunOptions) -> bool:
    found = folder.result() if options.test else folder.outcome()
    return found is not None and not (options.redo and not _of_run(folder, options.run))


def _of_run(folder: TrialFolder, run: str) -> list[Row]:
    """Return the attempts that belong to a run of the command."""
    return [attempt for attempt in folder.attempts() if attempt["run"] == run]


def _sources(options: RunOptions) -> list[Source]:
    sources: list[Source] = []
    if options.stop_file:
        path = place(options.stop_file)
        asks_every_s = OBJECT_EVERY_S if isinstance(path, ObjectPath) else 0.0
        sources.append(every(asks_every_s, lambda: "the study is being stopped" if path.exists() else None))
    if options.preemption_command:
        sources.append(command_source(options.preemption_command))
    return sources


@contextmanager
def _recorded(folder: TrialFolder, attempt: str, options: RunOptions, lease: Lease) -> Iterator[None]:
    """Record an attempt's beginning and end, and an error that is final."""
    how = {"activation_checkpointing": options.activation_checkpointing}
    patiently(lambda: folder.begin(attempt, options.run, **how))
    with _logging_to(folder.log):
        try:
            yield
            folder.ended(attempt, "finished")
        except (Interrupted, Held, StorageError) as error:
            logger.info("trial %s left: %s", folder.id, error)
            with suppress(OSError), patience(LEAVE_S):
                folder.ended(attempt, "interrupted", message=str(error), position=_position(error))
            raise
        except HoldLost:
            raise  # nothing may be written any more
        except Exception as error:
            if isinstance(error, Pruned):
                logger.info("trial %s is pruned: %s", folder.id, error)
            else:
                logger.exception("trial %s failed", folder.id)
            lease.check()
            _record_failure(folder, attempt, options, error)
            raise


def _record_failure(folder: TrialFolder, attempt: str, options: RunOptions, error: Exception) -> None:
    """Record an exception; it is final when another attempt would be of no use."""
    kind, message, position = type(error).__name__, str(error), _position(error)
    ends = [item["ended"] for item in _of_run(folder, options.run) if item["ended"]]
    earlier = [end for end in ends if end["how"] == "failed"]
    is_short = is_out_of_memory(error)
    shortages = [end for end in earlier if end.get("out_of_memory")]
    others = [end for end in earlier if not end.get("out_of_memory")]
    returns = any(end["type"] == kind and end["position"] == position for end in others)
    is_enough = bool(shortages) if is_short else returns or len(others) >= options.max_failures
    if is_short and shortages:
        message = f"{_ADVICE} {message}"
    more = {"out_of_memory": True} if is_short else {}
    folder.ended(attempt, "failed", type=kind, message=message, position=position, **more)
    if isinstance(error, UsageError | Collapsed | Pruned) or is_enough:
        folder.fail(kind, message, traceback.format_exc(), position=position, may_pass=may_pass(error))
        error.is_final = True  # type: ignore[attr-defined]
    if isinstance(error, Pruned):
        folder.prune()


def is_final(error: Exception) -> bool:
    """Return whether the trial that raised this has failed for good; otherwise it is to be run again."""
    return isinstance(error, UsageError | Collapsed | Pruned | FailedElsewhere) or getattr(error, "is_final", False)


def may_pass(error: Exception) -> bool:
    """Return whether an error is the machine's (memory, files, the GPU), so that it may spare the next trial."""
    of_memory = re.search(r"out of memory|can't allocate memory|CUDA error|cuDNN error", str(error), re.IGNORECASE)
    return isinstance(error, OSError | MemoryError) or bool(of_memory)


def _position(error: Exception) -> Row | None:
    return getattr(error, "position", None)


def check_inputs(seen: Inputs, expected: Inputs) -> None:
    """Raise a UsageError when a machine sees other images or weights than a trial is to read."""
    for name, value in vars(expected).items():
        if getattr(seen, name) != value:
            raise UsageError(
                f"This machine sees other {'images' if name == 'data' else f'weights of the {name}'} than the driver: "
                f"{getattr(seen, name)}, expected {value}. Make the same files visible on every machine."
            )


def _stored_rows(trial: Trial, inputs: Inputs, results: Results, folder: TrialFolder) -> Iterator[Row]:
    yield from rows_of(results, segments(trial, inputs))
    yield from ({**row, "reused": True} for row in folder.rows())


class _LogLines(logging.Handler):
    """Writes log records to a text file of the results root."""

    def __init__(self, path: AnyPath) -> None:
        super().__init__()
        self._lines = Lines(path)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
        except OSError:
            self.handleError(record)

    def close(self) -> None:
        try:
            self._lines.close()
        except OSError as error:
            logging.getLogger(__name__).warning("the log could not be written: %s", error)
        super().close()


@contextmanager
def _logging_to(path: AnyPath) -> Iterator[None]:
    """Send the package's log and Python's warnings to the trial's log file."""
    handler = _LogLines(path)
    loggers = [logging.getLogger("cass_tune"), logging.getLogger("py.warnings")]
    logging.captureWarnings(True)
    level = loggers[0].level
    loggers[0].setLevel(logging.INFO)
    for target in loggers:
        target.addHandler(handler)
        target.propagate = False
    try:
        yield
    finally:
        for target in loggers:
            target.removeHandler(handler)
            target.propagate = True
        loggers[0].setLevel(level)
        logging.captureWarnings(False)
        handler.close()
