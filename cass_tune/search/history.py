"""A search as Optuna sees it: its trials from our own records, in memory, and the journal that others can open."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from cass_tune.results import Record
from cass_tune.storage import AnyPath, write_text

DIRECTIONS = ("maximize", "minimize")
"""Of the metric, and of the hours behind it."""

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def params_record(trial: optuna.Trial) -> Record:
    """Return what a space has asked of a trial, as plain JSON."""
    distributions = {name: distribution_to_json(found) for name, found in trial.distributions.items()}
    return {"params": dict(trial.params), "distributions": distributions}


def frozen(suggestion: Mapping[str, Any], outcome: Mapping[str, Any] | None) -> FrozenTrial:
    """Return a suggestion as one of Optuna's trials; without an outcome it is running.

    Args:
        suggestion: its record.
        outcome: the record of what became of it.
    """
    found = outcome or {"state": None, "values": None, "curve": {}, "time": None}
    trial = FrozenTrial(
        number=suggestion["number"],
        trial_id=suggestion["number"],
        state=STATES.get(found["state"], TrialState.RUNNING),
        value=None,
        values=found["values"],
        datetime_start=_time(suggestion["time"]),
        datetime_complete=_time(found["time"]),
        params=dict(sorted(suggestion["params"].items())),  # in one order, read back or not
        distributions={name: json_to_distribution(text) for name, text in sorted(suggestion["distributions"].items())},
        user_attrs={"trial": str(suggestion["trial"]["digest"])[:12]},
        system_attrs={},
        intermediate_values=dict(sorted((int(progress), value) for progress, value in found["curve"].items())),
    )
    trial._validate()
    return trial


def _time(text: str | None) -> datetime.datetime | None:
    """Return a local time without a zone, which Optuna wants."""
    return datetime.datetime.fromisoformat(text).astimezone().replace(tzinfo=None) if text else None


def study(
    objectives: int,
    trials: Iterable[FrozenTrial] = (),
    sampler: optuna.samplers.BaseSampler | None = None,
    storage: optuna.storages.BaseStorage | None = None,
    name: str | None = None,
) -> optuna.Study:
    """Return an Optuna study of these trials.

    Args:
        objectives: how many there are.
        trials: in order.
        sampler: makes its suggestions.
        storage: where it lies; in memory by default.
        name: of the study.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = DIRECTIONS[:objectives]
    found = optuna.create_study(directions=directions, sampler=sampler, storage=storage, study_name=name)
    for trial in trials:
        found.add_trial(trial)
    return found


class _Lines(BaseJournalBackend):
    """A journal in memory whose lines are a function of what they say, so that a longer one begins with a shorter."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:  # type: ignore[override]
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs

    def text(self) -> str:
        """Return it as Optuna's `JournalFileBackend` has it: one JSON object per line."""
        logs = ({**log, "worker_id": "cass_tune"} for log in self.logs)
        return "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)


def write_journal(
    path: AnyPath, name: str, objectives: int, suggestions: Sequence[Record], outcomes: Mapping[int, Record]
) -> None:
    """Write the journal of the trials that have ended, up to the first that has not: ``optuna-dashboard`` opens it.

    Args:
        path: of the journal, written whole or not at all; nothing reads it but Optuna's own tools.
        name: of the study.
        objectives: how many there are.
        suggestions: all of them, in order.
        outcomes: what became of them, by number.
    """
    lines = _Lines()
    ended = []
    for suggestion in suggestions:
        if suggestion["number"] not in outcomes:
            break
        ended.append(frozen(suggestion, outcomes[suggestion["number"]]))
    study(objectives, ended, storage=JournalStorage(lines), name=name)
    write_text(path, lines.text())
