"""What ran when and where: the attempts at a study's trials, by machine."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import pandas as pd

from analysis.results import read_plans, wanted_trials
from analysis.spending import segments_of
from cass_tune.leases import holder
from cass_tune.results import Folder, Record, StudyFolder, TrialFolder

PHASES = ("pretrain", "finetune_cnn", "finetune_vit", "other")
"""What an attempt does; ``other`` is loading, probes, tests, saving and waiting."""

COLUMNS = ("trial_id", "name", "attempt", "host", "place", "phase", "start_s", "end_s", "ended")

Seconds = Mapping[str, float]
"""Training time by phase."""


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """One attempt at a trial.

    Args:
        trial_id: of the trial.
        name: of the trial.
        attempt: its own name.
        host: where it ran.
        start: when it began.
        end: when it ended; of one whose process died the last sign of life.
        ended: ``finished``, ``failed``, ``out_of_memory`` (of the GPU), ``interrupted``, ``running`` or ``died``.
        seconds: training time by phase.
    """

    trial_id: str
    name: str
    attempt: str
    host: str
    start: datetime
    end: datetime
    ended: str
    seconds: Seconds


def gantt(study: StudyFolder) -> pd.DataFrame:
    """Return the record of a study's attempts.

    How long an attempt trained in each phase is measured; its phases are put one after another from its start, and what
    is left of its time is ``other``. Where a process died, its last heartbeat or epoch ends the attempt.

    Returns:
        One row per attempt and phase: trial, attempt, host, place (attempts at the same time on one host have places of
        their own, from 1), phase, start and end in seconds since the first attempt began, and how the attempt ended:
        ``finished``, ``failed``, ``out_of_memory`` (of the GPU), ``interrupted``, ``running`` or ``died``; with its
        last phase only.
    """
    attempts = sorted(_attempts(study), key=lambda attempt: (attempt.start, attempt.attempt))
    first = attempts[0].start if attempts else None
    places = _places(attempts)
    rows = [row for attempt in attempts for row in _rows(attempt, first or attempt.start, places[attempt.attempt])]
    return pd.DataFrame(rows, columns=COLUMNS)


def _attempts(study: StudyFolder) -> Iterator[_Attempt]:
    computed: dict[str, dict[str, Seconds]] = {}
    for _, _, wanted in wanted_trials(read_plans(study)):
        folder = study.results.trial(wanted["digest"])
        for record in folder.attempts():
            seconds: defaultdict[str, float] = defaultdict(float)
            stages = [segment.stage for segment in segments_of(wanted, folder.outcome()) or []]
            for part in (*map(study.results.stage, dict.fromkeys(stages)), folder):
                if part.digest not in computed:
                    computed[part.digest] = _computed(part)
                for phase, value in computed[part.digest].get(record["attempt"], {}).items():
                    seconds[phase] += value
            yield _attempt(folder, wanted["name"], record, seconds)


def _computed(folder: Folder) -> dict[str, Seconds]:
    """Return the training time by attempt and phase; a row that was only written again counts for the first."""
    found: dict[str, Seconds] = {}
    seen: set[str] = set()
    for path in sorted(folder.epochs.glob("*.jsonl")) if folder.epochs.is_dir() else ():
        seconds: defaultdict[str, float] = defaultdict(float)
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                row = json.loads(line)
                text = json.dumps({**row, "epochs": None}, sort_keys=True)
                seconds[row["phase"]] += 0.0 if text in seen else row["seconds"]
                seen.add(text)
        found[path.name.removesuffix(".jsonl")] = seconds
    return found


def _attempt(folder: TrialFolder, name: str, record: Record, seconds: Seconds) -> _Attempt:
    start = datetime.fromisoformat(record["started"])
    if record["ended"]:
        end = datetime.fromisoformat(record["ended"]["time"])
        ended = "out_of_memory" if record["ended"].get("out_of_memory") else record["ended"]["how"]
    else:
        found = holder(folder.path)
        is_last = found is not None and found.attempt == record["attempt"]
        trained = start + timedelta(seconds=sum(seconds.values()))
        end = max(trained, found.heartbeat) if found and is_last else trained
        ended = "running" if is_last and folder.is_held() else "died"
    place = {"trial_id": folder.id, "name": name, "attempt": record["attempt"], "host": record["host"]}
    return _Attempt(**place, start=start, end=end, ended=ended, seconds=seconds)


def _places(attempts: list[_Attempt]) -> dict[str, int]:
    """Return a place on its host for each attempt, the first that is free."""
    free: dict[str, list[datetime]] = defaultdict(list)
    places: dict[str, int] = {}
    for attempt in attempts:
        ends = free[attempt.host]
        index = next((index for index, end in enumerate(ends) if end <= attempt.start), len(ends))
        ends[index : index + 1] = [attempt.end]
        places[attempt.attempt] = index + 1
    return places


def _rows(attempt: _Attempt, first: datetime, place: int) -> Iterator[Record]:
    start, end = ((time - first).total_seconds() for time in (attempt.start, attempt.end))
    trained = [(phase, attempt.seconds[phase]) for phase in PHASES if attempt.seconds.get(phase)]
    spans, now = [], start
    for phase, seconds in trained:
        spans.append((phase, now, min(now + seconds, end)))
        now = spans[-1][2]
    if now < end or not spans:
        spans.append(("other", now, end))
    common = {"trial_id": attempt.trial_id, "name": attempt.name, "attempt": attempt.attempt, "host": attempt.host}
    for phase, begin, until in spans:
        ended = attempt.ended if (phase, begin, until) == spans[-1] else None
        yield {**common, "place": place, "phase": phase, "start_s": begin, "end_s": until, "ended": ended}
