"""One trial from start to finish: claim it, run its steps, record how it ended. A plain generator of rows, no Ray."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from cass_tune.config import Trial, to_json
from cass_tune.data.catalog import list_images
from cass_tune.data.listing import Listing
from cass_tune.errors import Collapsed, Held, HoldLost, Interrupted, UsageError
from cass_tune.identity import RESULTS_VERSION, Inputs, stage_digest, trial_digest
from cass_tune.leases import Lease
from cass_tune.notices import PROCESS, Source, Stop, command_source, watched
from cass_tune.results import Results, TrialFolder, new_attempt
from cass_tune.stages import stored_rows
from cass_tune.storage import AnyPath, Lines, place
from cass_tune.trial_steps import TrialSteps
from cass_tune.weights import weights_identity

logger = logging.getLogger(__name__)
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a trial runs, as opposed to what it is: none of it changes what the trial means.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of one operation; recorded, because it changes last digits. A trial that goes on from a
            checkpoint keeps the number that it had.
        workers: loader processes; 0 loads in the trial's own process.
        on_collapse: warn, or stop the trial, when the pretraining's outputs become constant.
        keep_weights: whether the finetuned arms are kept.
        redo: run a finished trial again and keep its earlier result beside the new one.
        commit: of the code, as the driver knows it; recorded.
        run: name of the command's run; failures are counted, and redone trials told apart, within one.
        checkpoint_every_minutes: longest time between two checkpoints.
        max_failures: how often an exception of the trial's own code may be followed by another attempt.
        preemption_command: shell command whose exit status 0 means that this machine will be taken away.
        stop_file: the trial saves its state and leaves when there is such a file.
    """

    device: str = "cpu"
    threads: int = 1
    workers: int = 0
    on_collapse: Literal["warn", "stop"] = "warn"
    keep_weights: Literal["all", "none"] = "all"
    redo: bool = False
    commit: str | None = None
    run: str = ""
    checkpoint_every_minutes: float = 5.0
    max_failures: int = 2
    preemption_command: str | None = None
    stop_file: str | None = None


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
) -> Iterator[Row]:
    """Run a trial and yield one row per epoch (`cass_tune.training.rows`); everything else goes to the results root.

    It goes on from the last checkpoint, if there is one, and yields the rows of finished epochs first, marked as
    reused. A finished trial yields its stored rows and changes nothing.

    Args:
        trial: what to run.
        results: root of all records.
        options: how to run it.
        expected: the inputs that the driver saw; a machine that sees others fails.
        sources: further places to ask whether to stop (`cass_tune.notices`).
        stop: looked at between two steps.

    Raises:
        UsageError: this machine sees other images or weights, or the configuration does not fit the data.
        Collapsed: under ``on_collapse="stop"``.
        Held: another process computes this trial or its pretraining; nothing was changed.
        Interrupted: it was asked to stop, and has saved its state.
        HoldLost: another process has taken the trial over.
        Exception: any other, of the trial's own code; `is_final` tells whether the trial is to be run again.
    """
    inputs = expected or read_inputs(trial, list_images(trial.data))
    folder = results.trial(trial_digest(trial, inputs))
    if _is_finished(folder, options):
        yield from _stored_rows(trial, inputs, results, folder)
        return
    attempt, stop = new_attempt(), Stop(parent=stop)
    with Lease.acquire(folder.path, attempt, on_lost=lambda: stop.request("the trial was taken over")) as lease:
        if _is_finished(folder, options):  # by the process that held it until now
            yield from _stored_rows(trial, inputs, results, folder)
            return
        if options.redo and not _of_run(folder, options.run):
            folder.set_aside()
        folder.write_config({"trial": to_json(trial), "inputs": vars(inputs), "results_version": RESULTS_VERSION})
        with _attempt(folder, attempt, options), watched(stop, [*_sources(options), *sources]):
            listing = list_images(trial.data)
            _check_inputs(read_inputs(trial, listing), inputs)
            steps = TrialSteps(trial, inputs, listing, results, folder, options, attempt, lease, stop)
            try:
                yield from steps.run()
            except Exception as error:
                error.position = steps.position  # type: ignore[attr-defined]
                raise


def _is_finished(folder: TrialFolder, options: RunOptions) -> bool:
    return folder.result() is not None and not (options.redo and not _of_run(folder, options.run))


def _of_run(folder: TrialFolder, run: str) -> list[Row]:
    """Return the attempts that belong to a run of the command."""
    return [attempt for attempt in folder.attempts() if attempt["run"] == run]


def _sources(options: RunOptions) -> list[Source]:
    sources: list[Source] = []
    if options.stop_file:
        path = place(options.stop_file)
        sources.append(lambda: "the study is being stopped" if path.exists() else None)
    if options.preemption_command:
        sources.append(command_source(options.preemption_command))
    return sources


@contextmanager
def _attempt(folder: TrialFolder, attempt: str, options: RunOptions) -> Iterator[None]:
    """Record an attempt's beginning and end, and an error that is final."""
    folder.begin(attempt, options.run)
    with _logging_to(folder.log):
        try:
            yield
            folder.ended(attempt, "finished")
        except (Interrupted, Held) as error:
            logger.info("trial %s left: %s", folder.id, error)
            folder.ended(attempt, "interrupted", message=str(error), position=_position(error))
            raise
        except HoldLost:
            raise  # nothing may be written any more
        except Exception as error:
            logger.exception("trial %s failed", folder.id)
            _record_failure(folder, attempt, options, error)
            raise


def _record_failure(folder: TrialFolder, attempt: str, options: RunOptions, error: Exception) -> None:
    """Record an exception; it is final when another attempt would be of no use."""
    kind, message, position = type(error).__name__, str(error), _position(error)
    ends = [item["ended"] for item in _of_run(folder, options.run) if item["ended"]]
    earlier = [end for end in ends if end["how"] == "failed"]
    returns = any(end["type"] == kind and end["position"] == position for end in earlier)
    folder.ended(attempt, "failed", type=kind, message=message, position=position)
    if isinstance(error, UsageError | Collapsed) or returns or len(earlier) >= options.max_failures:
        folder.fail(kind, message, traceback.format_exc(), position=position)
        error.is_final = True  # type: ignore[attr-defined]


def is_final(error: Exception) -> bool:
    """Return whether the trial that raised this has failed for good; otherwise it is to be run again."""
    return isinstance(error, UsageError | Collapsed) or getattr(error, "is_final", False)


def _position(error: Exception) -> Row | None:
    return getattr(error, "position", None)


def _check_inputs(seen: Inputs, expected: Inputs) -> None:
    for name, value in vars(expected).items():
        if getattr(seen, name) != value:
            raise UsageError(
                f"This machine sees other {'images' if name == 'data' else f'weights of the {name}'} than the driver: "
                f"{getattr(seen, name)}, expected {value}. Make the same files visible on every machine."
            )


def _stored_rows(trial: Trial, inputs: Inputs, results: Results, folder: TrialFolder) -> Iterator[Row]:
    if trial.pretrain.method != "none":
        yield from stored_rows(results.stage(stage_digest(trial, inputs)), trial.pretrain.epochs)
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
