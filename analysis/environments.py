"""What the trials of a study ran on: versions, commit, devices, hosts; mixtures are visible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pandas as pd

from analysis.frames import records
from analysis.results import read_plans, wanted_trials
from cass_tune.results import Record, StudyFolder

COLUMNS = ("what", "value", "trials")


def environment_table(study: StudyFolder) -> pd.DataFrame:
    """Return every value of every fact of the environment with how many trials it holds for.

    Args:
        study: its folder; a trial counts once it has begun.

    Returns:
        Columns ``what`` (``python``, ``torch``, ``code``, ``device``, ``host``, ...), ``value`` and ``trials``; a fact
        with several rows was not the same for all trials.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for _, _, trial in wanted_trials(read_plans(study)):
        record = study.results.trial(trial["digest"]).environment()
        counts.update(set(_facts(record)) if record else ())
    rows = [(what, value, count) for (what, value), count in counts.items()]
    return pd.DataFrame(sorted(rows, key=lambda row: (_place(row[0]), -row[2], row[1])), columns=list(COLUMNS))


_FIRST = ("code", "device", "threads of an operation", "python", "torch", "ray", "timm")


def _place(what: str) -> tuple[int, str]:
    return (_FIRST.index(what) if what in _FIRST else len(_FIRST), what)


def _facts(record: Record) -> Iterator[tuple[str, str]]:
    yield "code", record.get("commit") or "unknown commit"
    yield from record.get("versions", {}).items()
    yield from (("device", device) for device in record.get("devices", []))
    yield "threads of an operation", str(record.get("threads", "unknown"))
    yield "platform", record.get("platform", "unknown")
    yield "host", record.get("host", "unknown")
    yield from (("kernel that is not deterministic", name) for name in record.get("nondeterministic", []))


def mixtures(table: pd.DataFrame) -> list[str]:
    """Return what was not the same for all trials and can change a number, in words."""
    harmless = ("host", "platform", "kernel that is not deterministic")
    lines = []
    for what, rows in table.groupby("what", sort=False):
        if len(rows) > 1 and what not in harmless:
            values = ", ".join(f"{row['value']} ({row['trials']} trials)" for row in records(rows))
            lines.append(f"{what} was not the same for all trials: {values}. Equal seeds need not give equal numbers.")
    return lines
