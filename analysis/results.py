"""Results on disk as one tidy table: a row per wanted trial and arm, whatever became of the trial."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator

import pandas as pd

from analysis.columns import (
    COLUMN_DTYPES,
    COLUMNS,
    FIELDS,
    IMAGE_COUNTS,
    LISTED,
    METRICS,
    PROBE_METRICS,
    column,
)
from analysis.epochs import load_epochs
from analysis.frames import once, where
from analysis.plans import read_plans, study_axes, trial_of, wanted_trials
from analysis.predictions import load_predictions
from analysis.sources import Opened, Source, described, open_source, read_all
from cass_tune.config import ARMS, PROBES, get_field, plain
from cass_tune.errors import Damaged
from cass_tune.identity import matters
from cass_tune.results import Record, StudyFolder, TrialFolder
from cass_tune.storage import AnyPath, whole_file

__all__ = [
    "COLUMNS",
    "FIELDS",
    "METRICS",
    "PROBE_METRICS",
    "column",
    "load",
    "read_plans",
    "save",
    "study_axes",
    "wanted_trials",
]

logger = logging.getLogger(__name__)


def load(source: Source) -> pd.DataFrame:
    """Return one row per wanted trial and arm: the outer join of what was asked for and what is on disk.

    Args:
        source: a `StudyFolder`; the path of a study's folder, of a results root with one study, or of a Ray experiment;
            or a Ray ``ResultGrid``. Ray knows no plan: its trials are those of the experiment, and what only a plan
            tells (``recipe``, ``listed_*``) is missing.

    Returns:
        The columns in `COLUMNS`.

    Raises:
        UsageError: nothing was asked for, the source holds several studies, or a record is damaged.
    """
    opened = open_source(source)
    numbers = range(len(opened.wanted))
    rows = [row for found in read_all(opened, lambda number: list(_rows(opened, number)), numbers) for row in found]
    return pd.DataFrame(rows, columns=COLUMNS).astype(COLUMN_DTYPES)


def save(study: StudyFolder) -> pd.DataFrame:
    """Load a study and write its derived tables; all of them may be deleted at any time.

    The tidy table as results.parquet and results.csv, index.csv, which lists the trials, the epochs as epochs.parquet
    and epochs.csv, and the predictions as predictions.parquet, unless those of a trial are damaged, which a warning
    says.
    """
    frame, epochs = load(study), load_epochs(study)
    _write(frame, study.parquet)
    _write(frame, study.table)
    _write(_index(frame), study.index)
    _write(epochs, study.epochs_parquet)
    _write(epochs, study.epochs_table)
    try:
        _write(load_predictions(study), study.predictions)
    except Damaged as error:
        logger.warning("%s is not written: %s", study.predictions, error)
    return frame


def _write(frame: pd.DataFrame, path: AnyPath) -> None:
    with whole_file(path) as temporary:
        if path.suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            frame.to_csv(temporary, index=False)


def _rows(opened: Opened, number: int) -> Iterator[Record]:
    wanted = opened.wanted[number]
    folder, config = opened.folder(wanted), wanted.trial["config"]
    result = (folder.outcome() if folder else None) or {}
    probes = ((folder.probes() if folder else None) or {}).get("arms", {})
    common = {
        "plan": wanted.age,
        "order": number,
        **described(wanted),
        **_settings(config),
        **_asked(wanted.plan, wanted.trial),
        **_became(folder, result),
    }
    for arm in ARMS:
        own = {"arm": arm, "weights": wanted.trial["weights"][arm], **_probed(probes.get(arm, {}))}
        yield {**common, **own, **_of_arm(result, config, arm)}


def _asked(plan: Record, trial: Record) -> Record:
    """Return the columns that the plan knows."""
    counts = plan["data"]["counts"]
    return {
        **{name: None if counts is None else sum(counts.get(part, {}).values()) for part, name in LISTED.items()},
        **{f"starting_{arm}": trial["weights"][arm] for arm in ARMS},
        "fingerprint": plan["data"]["fingerprint"],
        "recipe": plan["recipe"],
        "results_version": plan["results_version"],
    }


def _settings(config: Record) -> Record:
    """Return every field of the configuration that matters to its trial, the others as missing."""
    return _settings_of(json.dumps({**config, "seed": 0}, sort_keys=True))


@functools.lru_cache(maxsize=10_000)
def _settings_of(config: str) -> Record:
    trial = trial_of(json.loads(config))  # once for all seeds
    return {column(path): plain(get_field(trial, path)) if matters(trial, path) else None for path in FIELDS}


def _became(folder: TrialFolder | None, result: Record) -> Record:
    """Return the columns that both arms share of what became of a trial."""
    if folder is None:
        return {"status": "missing"}
    failure = folder.failure()
    row: Record = {"trial_id": folder.id, "status": folder.status()}
    if failure or folder.log.exists():
        row["log"] = str(folder.log)
    if result:
        row |= {f"images_{name}": result["images"].get(name) for name in IMAGE_COUNTS}
        row |= {"collapsed": result["collapsed"], "devices": "; ".join(result["devices"])}
        row["crossed_devices"] = len(result["devices"]) > 1
    elif failure is not None:
        row["error"] = _last_line(failure)
    return row


def _last_line(failure: Record) -> str:
    lines = [line.strip() for line in failure["message"].splitlines() if line.strip()]
    return ": ".join([failure["type"], *lines[-1:]])


def _of_arm(result: Record, config: Record, arm: str) -> Record:
    if not result:
        return {"model": config["pretrain"][arm]}
    found = result["arms"][arm]
    is_control = config["pretrain"]["method"] == "none"
    return {
        "model": found["model"],
        **{name: found.get(name) for name in ("best_epoch", "parameters")},
        **{name: found.get("test", {}).get(name) for name in METRICS},
        **{f"validation_{name}": found["validation"].get(name) for name in METRICS},
        "pretrain_seconds": None if is_control else result["seconds"].get("pretrain"),
        "finetune_seconds": result["seconds"].get(arm),
    }


def _probed(found: Record) -> Record:
    """Return the columns of the probes of an arm."""
    if not found:
        return {}
    row: Record = {}
    for probe in PROBES:
        for part, label in (("test", probe), ("validation", f"{probe}_validation")):
            values = found.get(probe, {}).get(part, {})
            row |= {f"{label}_{name}": values.get(name) for name in PROBE_METRICS}
    linear, knn = found.get("linear", {}), found.get("knn", {})
    return {**row, "linear_c": linear.get("c"), "linear_converged": linear.get("converged"), "knn_k": knn.get("k")}


def _index(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per trial: what it is, what became of it and where to look."""
    trials = once(frame, ["digest"]).set_index("digest")
    for arm in ARMS:
        trials[f"{arm}_macro_f1"] = where(frame, {"arm": arm}).set_index("digest")["macro_f1"]
    scores = [f"{arm}_macro_f1" for arm in ARMS]
    columns = ["trial_id", "name", "status", "seed", *scores, "collapsed", "error", "log", "digest"]
    return trials.reset_index().reindex(columns=columns)
