"""Results on disk as one tidy table: a row per wanted trial and arm, whatever became of the trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import get_type_hints

import pandas as pd

from analysis.frames import once, where
from cass_tune.config import ARMS, PROBES, SECTIONS, Trial, get_field, plain
from cass_tune.errors import UsageError
from cass_tune.identity import matters
from cass_tune.results import Record, Results, StudyFolder, TrialFolder
from cass_tune.storage import whole_file

METRICS = (
    "macro_f1",
    "micro_f1_at_half",
    "micro_recall_at_half",
    "balanced_accuracy",
    "accuracy",
    "auroc",
    "loss",
)
"""What is measured, of the test images under these names and of the validation images as ``validation_<name>``."""

PROBE_METRICS = ("macro_f1", "balanced_accuracy", "accuracy", "auroc")
"""What is measured of a probe of the frozen features: as ``<probe>_<name>`` of the test images and, of the validation
images, as ``<probe>_validation_<name>``."""

_COUNTS = ("pretrain", "labelled", "validation", "test")
_PARTS = {"train": "listed_train", "val": "listed_validation", "test": "listed_test"}


def column(path: str) -> str:
    """Return the column of the field at ``"section.field"``."""
    return path.replace(".", "_")


def _fields() -> dict[str, type]:
    """Return every field of a trial but the seed by path, with the type of its values (text stands for all else)."""
    kinds: dict[str, type] = {}
    for section, kind in SECTIONS.items():
        hints = get_type_hints(kind)
        for item in dataclasses.fields(kind):  # type: ignore[arg-type]
            declared = hints[item.name]
            kinds[f"{section}.{item.name}"] = declared if declared in (int, float) else str
    return kinds


FIELDS = _fields()
"""Every field of a trial by path, and the type of its values."""

_KINDS: dict[str, type] = {
    **dict.fromkeys(("trial_id", "digest", "name", "arm", "model", "status"), str),
    "seed": int,
    **{column(path): kind for path, kind in FIELDS.items()},
    **dict.fromkeys(METRICS, float),
    **{f"validation_{name}": float for name in METRICS},
    **{f"{probe}{part}_{name}": float for probe in PROBES for part in ("", "_validation") for name in PROBE_METRICS},
    "linear_c": float,
    "linear_converged": bool,
    "knn_k": int,
    **dict.fromkeys(("pretrain_seconds", "finetune_seconds"), float),
    **{f"images_{name}": int for name in _COUNTS},
    **dict.fromkeys(_PARTS.values(), int),
    **dict.fromkeys(("best_epoch", "parameters"), int),
    **dict.fromkeys(("collapsed", "crossed_devices"), bool),
    **dict.fromkeys(("devices", "weights", "starting_cnn", "starting_vit"), str),
    **dict.fromkeys(("fingerprint", "recipe", "error", "log"), str),
    **dict.fromkeys(("results_version", "plan", "order"), int),
}
_DTYPES = {str: "str", int: "Int64", float: "float64", bool: "boolean"}

COLUMNS = tuple(_KINDS)
"""The columns of the tidy table. ``plan`` counts from the last one asked for (0); ``order`` is the trial's place in the
union of all plans; ``listed_*`` are the images in the data, ``images_*`` those that the trial used."""


def load(study: StudyFolder) -> pd.DataFrame:
    """Return one row per wanted trial and arm: the outer join of what was asked for and what is on disk.

    Raises:
        UsageError: nothing was asked for, or a record is damaged.
    """
    rows = [
        row
        for order, (age, plan, trial) in enumerate(wanted_trials(read_plans(study)))
        for row in _rows(study.results, plan, trial, {"plan": age, "order": order})
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({name: _DTYPES[kind] for name, kind in _KINDS.items()})


def save(study: StudyFolder) -> pd.DataFrame:
    """Load a study and write results.parquet and index.csv, which lists the trials; both may be deleted at any time."""
    frame = load(study)
    with whole_file(study.parquet) as temporary:
        frame.to_parquet(temporary, index=False)
    with whole_file(study.index) as temporary:
        _index(frame).to_csv(temporary, index=False)
    return frame


def read_plans(study: StudyFolder) -> list[Record]:
    """Return what was asked for, oldest first.

    Raises:
        UsageError: there is no plan, or one is damaged.
    """
    plans = study.plans()
    if not plans:
        raise UsageError(f"Nothing has been asked for in {study.path}. Run the study first.")
    return plans


def study_axes(plans: list[Record]) -> list[str]:
    """Return the axes of all plans, those of the last one first."""
    return list(dict.fromkeys(axis for plan in reversed(plans) for axis in plan["axes"]))


def wanted_trials(plans: list[Record]) -> list[tuple[int, Record, Record]]:
    """Return (age of the plan, plan, trial) of every trial once, the last asked for first."""
    wanted: dict[str, tuple[int, Record, Record]] = {}
    for age, plan in enumerate(reversed(plans)):
        for trial in plan["trials"]:
            wanted.setdefault(trial["digest"], (age, plan, trial))
    return list(wanted.values())


def _rows(results: Results, plan: Record, trial: Record, place: Record) -> Iterator[Record]:
    folder = results.trial(trial["digest"])
    common = {**place, **_asked(plan, trial), **_became(folder)}
    result, probes = folder.outcome() or {}, (folder.probes() or {}).get("arms", {})
    for arm in ARMS:
        own = {"arm": arm, "weights": trial["weights"][arm], **_probed(probes.get(arm, {}))}
        yield {**common, **own, **_of_arm(result, trial["config"], arm)}


def _asked(plan: Record, trial: Record) -> Record:
    """Return the columns that the plan knows."""
    counts = {part: sum(plan["data"]["counts"].get(part, {}).values()) for part in _PARTS}
    return {
        **{name: trial[name] for name in ("digest", "name")},
        "seed": trial["config"]["seed"],
        **_settings(trial["config"]),
        **{name: counts[part] for part, name in _PARTS.items()},
        **{f"starting_{arm}": trial["weights"][arm] for arm in ARMS},
        "fingerprint": plan["data"]["fingerprint"],
        "recipe": plan["recipe"],
        "results_version": plan["results_version"],
    }


def _settings(config: Record) -> Record:
    """Return every field of the configuration that matters to its trial, the others as missing.

    A section or field that was added after it was written has its default.
    """
    sections: Record = {name: kind(**config.get(name, {})) for name, kind in SECTIONS.items()}
    trial = Trial(**sections, seed=config["seed"])
    return {column(path): plain(get_field(trial, path)) if matters(trial, path) else None for path in FIELDS}


def _became(folder: TrialFolder) -> Record:
    """Return the columns that both arms share of what became of a trial."""
    result, failure = folder.outcome(), folder.failure()
    row: Record = {"trial_id": folder.id, "status": folder.status()}
    if folder.log.exists() or failure:
        row["log"] = str(folder.log)
    if result is not None:
        row |= {f"images_{name}": result["images"].get(name) for name in _COUNTS}
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
