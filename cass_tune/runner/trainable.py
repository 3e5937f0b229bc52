"""The one trainable: a trial inside Ray Tune, and the notices that reach it there."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import ray
from ray import tune

from cass_tune.collector import import_spared
from cass_tune.config import from_json
from cass_tune.errors import Held, HoldLost, Interrupted, StorageError
from cass_tune.identity import Inputs
from cass_tune.notices import PROCESS, on_signal
from cass_tune.pruning import Pruning
from cass_tune.results import Results
from cass_tune.run_options import RunOptions
from cass_tune.training.rows import epoch_row, for_ray

FAILED, HELD, LEFT, RETRIED, UNSAVED = "failed", "held", "left", "retried", "unsaved"
OUT_OF_MEMORY = "out of memory"
"""``phase`` of the row that a trial reports before it raises: it failed for good; it left because another process
computes it, or because it was asked to; its error allows another attempt; its records cannot be written; the GPU's
memory was not enough, which allows another one alone on a card. A trial that dies reports none."""


REPORT_S = 3.0


class _Signals:
    """Handles SIGTERM in the process's main thread, where Ray Tune calls `setup`; the trial runs in another."""

    def setup(self, config: Mapping[str, Any]) -> None:
        signal.signal(signal.SIGTERM, on_signal)
        super().setup(config)  # type: ignore[misc]


def drained() -> str | None:
    """Return why to stop when Ray drains this node (a spot instance that is about to be taken away), or None."""
    from ray._private.state import state  # no public call tells a Tune trial (Ray 2.60)

    nodes = state.get_draining_nodes()
    return "Ray drains this node" if ray.get_runtime_context().get_node_id() in nodes else None


def _report(row: Mapping[str, Any]) -> None:
    """Report a row to Ray Tune; once this process was asked to stop, wait for its answer for `REPORT_S` alone.

    Tune's driver lets a trial go on after each row. Where a signal ends all processes of a machine, it no longer does,
    and the trial must still save its state.
    """
    values, raised = for_ray(row), list[BaseException]()

    def report() -> None:
        try:
            tune.report(values)
        except BaseException as error:  # SystemExit, too: Tune's way to end a trial
            raised.append(error)

    thread = threading.Thread(target=report, name="report", daemon=True)
    thread.start()
    asked: float | None = None
    while thread.is_alive() and (asked is None or time.monotonic() - asked < REPORT_S):
        thread.join(0.2)
        asked = time.monotonic() if asked is None and PROCESS.reason else asked
    if raised:
        raise raised[0]


def trainable(config: Mapping[str, Any]) -> None:
    """Run one trial inside Ray Tune and report one row per epoch (`cass_tune.training.rows`, NaN until known).

    Works in any ``tune.Tuner``: a trial that is finished in the results root reports its stored rows, one that was
    interrupted goes on from its last checkpoint, so ``FailureConfig(max_failures=...)`` costs no work.

    Args:
        config: ``run``: ``{"trial": ..., "inputs": ..., "failure": ...}`` with the trial as `to_json` gives it and,
            optionally, the inputs that the driver saw, the recorded failure that it knew, when to prune it, whether to
            test it and the epochs of its generation; ``results``: the results root; ``options``: fields of
            `RunOptions`, optional; ``place``: where it runs and how it fits there (``device``, ``cap`` and
            ``checkpointing``, see `cass_tune.fitting.Fit`), which goes before the options, optional.
    """
    if not ray.get_runtime_context().get_accelerator_ids()["GPU"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # without a share of a GPU, Ray leaves every GPU visible
    import_spared("cass_tune.trial")
    from cass_tune.trial import ANY_FAILURE, run_trial

    run = config["run"]
    trial = from_json(json.dumps(run["trial"]))
    inputs = Inputs(**run["inputs"]) if run.get("inputs") else None
    own = {"test": run.get("test", True), "generation_epochs": run.get("generation_epochs", 0)}
    options = _placed(RunOptions(**{**config.get("options", {}), **own}), config.get("place"))
    pruning = Pruning.from_record(run["pruning"]) if run.get("pruning") else None
    try:
        rows = run_trial(
            trial,
            Results(config["results"]),
            options,
            inputs,
            sources=[drained],
            known_failure=run.get("failure", ANY_FAILURE),
            pruning=pruning,
        )
        with closing(rows):
            for row in rows:
                _report(row)
    except (Held, HoldLost):
        _report(epoch_row(phase=HELD))
        raise
    except Interrupted:
        _report(epoch_row(phase=LEFT))
        raise
    except StorageError:
        _report(epoch_row(phase=UNSAVED))
        raise
    except Exception as error:
        _report(epoch_row(phase=_phase(error)))
        raise


def _placed(options: RunOptions, place: Mapping[str, Any] | None) -> RunOptions:
    """Return the options as the trial fits in the place that it got, and limit the process's memory there.

    Without a place, in a Tuner of the user's own, the limit is the part of a GPU that Ray gave it.
    """
    if place is not None:
        options = replace(options, device=place["device"], activation_checkpointing=place["checkpointing"])
    if options.device == "cuda":
        from cass_tune.training.card_memory import cap_memory

        cap_memory(place["cap"] if place is not None else min(1.0, _assigned_gpus()))
    return options


def _assigned_gpus() -> float:
    """Return how many GPUs, or which part of one, Ray has given to this trial."""
    return ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0)


def _phase(error: Exception) -> str:
    """Return the phase of the row that tells of an error."""
    from cass_tune.training.card_memory import is_out_of_memory
    from cass_tune.trial import is_final

    if is_final(error):
        return FAILED
    return OUT_OF_MEMORY if is_out_of_memory(error) else RETRIED


trainable.__mixins__ = (_Signals,)
