"""One row per epoch, with one fixed set of columns from the first row of a trial on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

COLUMNS = (
    "phase",
    "epoch",
    "epochs",
    "loss",
    "learning_rate",
    "images_per_second",
    "seconds",
    "peak_memory_gib",
    "utilisation",
    "cnn_feature_std",
    "vit_feature_std",
    "cnn_effective_rank",
    "vit_effective_rank",
    "agreement",
    "mismatched_agreement",
    "collapsed",
    "cnn_knn_macro_f1",
    "vit_knn_macro_f1",
    "validation_loss",
    "macro_f1",
    "micro_f1_at_half",
    "micro_recall_at_half",
    "balanced_accuracy",
    "accuracy",
    "auroc",
    "reused",
)
"""Columns of every row; a number that a phase does not have is None (NaN for Ray)."""

PHASES = ("pretrain", "finetune_cnn", "finetune_vit")


def epoch_row(**values: Any) -> dict[str, Any]:
    """Return a row with every column; what is not given, or not finite, is None."""
    unknown = set(values) - set(COLUMNS)
    if unknown:
        raise KeyError(f"not a column: {sorted(unknown)}")
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    for name, value in values.items():
        row[name] = None if isinstance(value, float) and not math.isfinite(value) else value
    return row


def for_ray(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with NaN in place of None, as Ray Tune's loggers want it."""
    return {name: math.nan if value is None else value for name, value in row.items()}
