"""The columns of the tidy table of a study's trials, and their types."""

from __future__ import annotations

import dataclasses
from typing import get_type_hints

from cass_tune.config import PROBES, SECTIONS

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

IMAGE_COUNTS = ("pretrain", "labelled", "validation", "test")
LISTED = {"train": "listed_train", "val": "listed_validation", "test": "listed_test"}
"""The columns of the images in the data, by part."""


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
    **{f"images_{name}": int for name in IMAGE_COUNTS},
    **dict.fromkeys(LISTED.values(), int),
    **dict.fromkeys(("best_epoch", "parameters"), int),
    **dict.fromkeys(("collapsed", "crossed_devices"), bool),
    **dict.fromkeys(("devices", "weights", "starting_cnn", "starting_vit"), str),
    **dict.fromkeys(("fingerprint", "recipe", "error", "log"), str),
    **dict.fromkeys(("results_version", "plan", "order"), int),
}
_DTYPES = {str: "str", int: "Int64", float: "float64", bool: "boolean"}

COLUMN_DTYPES = {name: _DTYPES[kind] for name, kind in _KINDS.items()}
"""Type of every column of the tidy table; missing values are NaN or NA, never a number."""

COLUMNS = tuple(_KINDS)
"""The columns of the tidy table. ``plan`` counts from the last one asked for (0); ``order`` is the trial's place in the
union of all plans; ``listed_*`` are the images in the data, ``images_*`` those that the trial used."""
