"""What a study's trials spent and saved: trials share their pretraining, and every epoch row says what it took.

Alone, a trial costs the rows of its own pretraining and finetuning, whoever computed them. Spent is every row that was
computed for the study's trials once: of a pretraining the epochs that they go through, whichever study ran them.
An epoch is in several rows when it was computed again: its state had not been saved when the process ended.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace

import pandas as pd

from analysis.devices import is_crossed, kind_of
from analysis.plans import read_plans, wanted_trials
from analysis.segments import segments_of
from cass_tune.config import ARMS
from cass_tune.identity import Segment
from cass_tune.results import Folder, Record, Results, StageFolder, StudyFolder, TrialFolder

COLUMNS = (
    *("device_kind", "crossed_devices", "trials", "alone_seconds", "spent_seconds", "repeated_seconds"),
    *("unfinished_seconds", "saved_seconds", "spent_of_alone", "epochs_without_row", "trial_ids"),
)
"""Columns of the account."""

Computed = dict[tuple[str, int], list[float]]
"""Seconds of every time that an epoch was computed, the last one last, by phase and epoch."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one trial or pretraining adds to the account of a kind of device, in seconds; unknown ones are NaN.

    Args:
        devices: the kind.
        trials: finished trials.
        alone: what they cost alone.
        spent: what was computed.
        repeated: the part of it that was computed again.
        unfinished: the part of it that only trials use which are not finished.
        epochs_without_row: epochs of finished trials that no row tells of: then what was spent is unknown.
        trial_ids: the trials that it is about.
    """

    devices: str
    trials: int = 0
    alone: float = 0.0
    spent: float = 0.0
    repeated: float = 0.0
    unfinished: float = 0.0
    epochs_without_row: int = 0
    trial_ids: tuple[str, ...] = ()


def spending_table(study: StudyFolder) -> pd.DataFrame:
    """Return what the trials of a study cost alone, spent and saved: one row per kind of device, times in seconds.

    Returns:
        The fields of `Entry`, times as ``<name>_seconds``; ``saved_seconds``, which is alone - spent;
        ``spent_of_alone``, a ratio; and the ids of the trials. Without any finished or computed work the table has no
        row.
    """
    trials = [_Trial(study.results, wanted) for _, _, wanted in wanted_trials(read_plans(study))]
    stages = _stages(study.results, trials)
    entries = [*(stage.entry() for stage in stages.values())]
    for trial in trials:
        entries += trial.entries(stages)
    kinds = sorted({entry.devices for entry in entries if replace(entry, trial_ids=()) != Entry(devices=entry.devices)})
    rows = [_row([entry for entry in entries if entry.devices == kind]) for kind in kinds]
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(entries: list[Entry]) -> Record:
    names = [item.name for item in fields(Entry) if item.name not in ("devices", "trial_ids")]
    sums: Record = {name: sum(getattr(entry, name) for entry in entries) for name in names}
    total = Entry(devices=entries[0].devices, **sums)
    return {
        "device_kind": total.devices,
        "crossed_devices": is_crossed(total.devices),
        "trials": total.trials,
        "alone_seconds": total.alone,
        "spent_seconds": total.spent,
        "repeated_seconds": total.repeated,
        "unfinished_seconds": total.unfinished,
        "saved_seconds": total.alone - total.spent,
        "spent_of_alone": total.spent / total.alone if total.alone else math.nan,
        "epochs_without_row": total.epochs_without_row,
        "trial_ids": " ".join(dict.fromkeys(name for entry in entries for name in entry.trial_ids)),
    }


def computed(folder: Folder) -> Computed:
    """Return how long every epoch took, each time that it was computed.

    A row that a resumed process wrote again, because the killed one might not have, counts once, also with another
    number of epochs in all: that is what its trial wants, not what was computed. A torn line does not count.
    """
    rows: dict[str, Record] = {}
    for line in _lines(folder):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        text = json.dumps({**row, "epochs": None}, sort_keys=True)
        rows.pop(text, None)  # so that it stands where it was written last: that one the training went on from
        rows[text] = row
    found: Computed = {}
    for row in rows.values():
        seconds = 0.0 if row.get("reused") is True else row["seconds"]  # those of a shorter trial, which has them, too
        found.setdefault((row["phase"], row["epoch"]), []).append(seconds)
    return found


def _lines(folder: Folder) -> Iterator[str]:
    for path in sorted(folder.epochs.glob("*.jsonl")) if folder.epochs.is_dir() else ():
        yield from path.read_text(encoding="utf-8", errors="replace").splitlines()


def _spent(found: Computed) -> float:
    return sum(map(sum, found.values()))


def _repeated(found: Computed) -> float:
    return sum(sum(seconds[:-1]) for seconds in found.values())


class _Trial:
    """A wanted trial.

    Args:
        results: root of all records.
        wanted: what the plan says of it.
    """

    def __init__(self, results: Results, wanted: Record) -> None:
        self.folder: TrialFolder = results.trial(wanted["digest"])
        self.config: Record = wanted["config"]
        self.result: Record | None = self.folder.outcome()
        self.chain = segments_of(wanted, self.result)

    @property
    def is_finished(self) -> bool:
        return self.result is not None

    @functools.cached_property
    def devices(self) -> str:
        return kind_of((self.result or self.folder.environment() or {}).get("devices", ()))

    def entries(self, stages: dict[str, _Stage]) -> Iterator[Entry]:
        """Yield what its own rows and its pretraining add."""
        found = computed(self.folder)
        spent = _spent(found)
        yield Entry(
            devices=self.devices,
            trials=int(self.is_finished),
            alone=sum(self._seconds(arm) for arm in ARMS) if self.is_finished else 0.0,
            spent=spent,
            repeated=_repeated(found),
            unfinished=0.0 if self.is_finished else spent,
            trial_ids=(self.folder.id,) if self.is_finished or spent else (),
        )
        if self.is_finished:
            yield from self._finetuning_without_row(found)
            yield from self._pretraining(stages)

    def _seconds(self, part: str) -> float:
        seconds = (self.result or {})["seconds"].get(part)
        return math.nan if seconds is None else seconds

    def _finetuning_without_row(self, found: Computed) -> Iterator[Entry]:
        epochs = ((arm, epoch) for arm in ARMS for epoch in range(1, self._finetuned(arm) + 1))
        yield from _lost(self.devices, sum((f"finetune_{arm}", epoch) not in found for arm, epoch in epochs))

    def _finetuned(self, arm: str) -> int:
        """Return after how many epochs the finetuning of an arm ended: patience may end it before the last."""
        config = self.config["finetune"]
        best, patience = (self.result or {})["arms"][arm]["best_epoch"], config.get("patience", 0)
        return min(config["epochs"], best + patience) if patience else config["epochs"]

    def _pretraining(self, stages: dict[str, _Stage]) -> Iterator[Entry]:
        """Yield what each segment costs alone: together what the result says, the earlier ones by their rows."""
        if self.chain is None:
            yield Entry(devices=self.devices, alone=self._seconds("pretrain"))
            yield from _lost(self.devices, self.config["pretrain"]["epochs"])
            return
        left = self._seconds("pretrain")
        for segment in self.chain:
            stage = stages[segment.stage]
            alone = left if segment is self.chain[-1] else stage.alone(segment)
            left -= alone
            yield Entry(devices=stage.devices, alone=alone, trial_ids=(self.folder.id,))


def _lost(devices: str, epochs: int) -> Iterator[Entry]:
    if epochs:
        yield Entry(devices=devices, spent=math.nan, repeated=math.nan, epochs_without_row=epochs)


class _Stage:
    """A stored pretraining as the trials of one study use it.

    Args:
        folder: of the stage.
        wanted: epochs that any trial of the study goes through.
        used: epochs that its finished trials went through.
    """

    def __init__(self, folder: StageFolder, wanted: set[int], used: set[int]) -> None:
        self._folder = folder
        self._used = used
        every = computed(folder)
        self._found: Computed = {key: seconds for key, seconds in every.items() if key[1] in wanted}
        self._end = max(wanted, default=0)

    @functools.cached_property
    def devices(self) -> str:
        """The kinds that worked on it up to its last wanted end, or, where that is not stored, at all."""
        record = self._folder.end_record(self._end).get("environment") or self._folder.environment() or {}
        return kind_of(record.get("devices", ()))

    def alone(self, segment: Segment) -> float:
        """Return what the epochs of a segment cost alone."""
        return sum(seconds[-1] for (_, epoch), seconds in self._found.items() if segment.start < epoch <= segment.end)

    def entry(self) -> Entry:
        """Return what its rows add."""
        lost = len(self._used - {epoch for _, epoch in self._found})
        unfinished = {key: seconds for key, seconds in self._found.items() if key[1] not in self._used}
        return Entry(
            devices=self.devices,
            spent=math.nan if lost else _spent(self._found),
            repeated=math.nan if lost else _repeated(self._found),
            unfinished=_spent(unfinished),
            epochs_without_row=lost,
        )


def _stages(results: Results, trials: Iterable[_Trial]) -> dict[str, _Stage]:
    wanted: dict[str, set[int]] = {}
    used: dict[str, set[int]] = {}
    for trial in trials:
        for segment in trial.chain or ():
            epochs = range(segment.start + 1, segment.end + 1)
            wanted.setdefault(segment.stage, set()).update(epochs)
            used.setdefault(segment.stage, set()).update(epochs if trial.is_finished else ())
    return {digest: _Stage(results.stage(digest), wanted[digest], used[digest]) for digest in wanted}
