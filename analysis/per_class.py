"""How well each class is recognised: precision, recall, F1 and AUROC of the test images, over seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from analysis.cells import columns, estimate_of, place, trial_ids
from analysis.format import listing, setting, short_name
from analysis.frames import Values, by, first, records
from analysis.methods import METHOD
from analysis.predictions import class_names, outputs, true_labels
from analysis.results import column
from analysis.statistics import summarise

MEASURES = ("precision", "recall", "f1", "auroc")
EXPLANATION = (
    "Each class against the rest, by the highest output (each of several labels by its own, above a half); AUROC by the"
    " class's own output. images: of the class in the test part. F1's mean over the classes is macro-F1. - where"
    " nothing defines it: precision of a class that no image was taken for, AUROC without images of the class."
)
"""What the columns stand for."""


def class_scores(labels: np.ndarray, outputs: np.ndarray) -> dict[str, np.ndarray]:
    """Return the `MEASURES` of every class, and its number of images as ``support``; NaN where undefined.

    Args:
        labels: int64 positions of classes, shape (images,), or of several labels 1 for every one that an image has,
            shape (images, classes).
        outputs: float, a network's logits, shape (images, classes).
    """
    classes, undefined = np.arange(outputs.shape[1]), cast(Any, np.nan)  # scikit-learn's own types are too narrow
    is_several = labels.ndim == 2
    predicted = (outputs > 0).astype(np.int64) if is_several else outputs.argmax(axis=1)
    found = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=undefined)
    one_hot = labels == 1 if is_several else labels[:, None] == classes
    defined = one_hot.any(axis=0) & ~one_hot.all(axis=0)
    auroc = np.full(len(classes), np.nan)
    if defined.any():
        auroc[defined] = roc_auc_score(one_hot[:, defined], outputs[:, defined], average=cast(Any, None))
    known = dict(zip(("precision", "recall", "f1", "support"), map(np.asarray, found), strict=True))
    return {**known, "auroc": auroc}


def class_table(frame: pd.DataFrame, axes: list[str], predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of every class as numbers.

    Args:
        frame: rows that may share a table (`analysis.groups.split`).
        axes: the study's axes, as ``section.field``.
        predictions: of `analysis.predictions.load_predictions`.

    Returns:
        One row per cell, arm and class: the axes; the class and its test images as ``support``; mean, interval, n and
        standard deviation over seeds of the `MEASURES`; and the ids of the trials. Trials without predictions, or with
        outputs that are not finite, are left out.
    """
    keys = ["arm", "pretrain_method", *(column(axis) for axis in axes if axis != METHOD)]
    done = frame.loc[frame["status"] == "done", [*keys, "digest", "trial_id", "status"]]
    tested = predictions.loc[(predictions["split"] == "test") & predictions["digest"].isin(done["digest"])]
    found = pd.DataFrame(list(_scores(tested)), columns=["digest", "arm", "class", "support", *MEASURES])
    merged = done.merge(found, on=["digest", "arm"])
    cells = sorted(by(merged, keys), key=lambda cell: place(first(cell), keys))
    rows = [_row(rows, keys) for cell in cells for rows in by(cell, ["class"])]
    estimates = [name for measure in MEASURES for name in columns(measure, summarise([]))]
    return pd.DataFrame(rows, columns=[*keys, "class", "support", *estimates, "trial_ids"])


def _scores(tested: pd.DataFrame) -> Iterator[Values]:
    """Yield a row per trial, arm and class, from the predictions of test images."""
    names = np.array(class_names(tested))
    for rows in by(tested, ["digest", "arm"]):
        digest, arm = rows["digest"].iloc[0], rows["arm"].iloc[0]
        logits = outputs(rows)
        own = np.flatnonzero(~np.isnan(logits).all(axis=0))  # a trial need not have the classes of all
        if not len(own) or not np.isfinite(logits[:, own]).all():
            continue
        known = true_labels(rows)
        labels = known[:, own] if known.ndim == 2 else np.searchsorted(own, known)
        scores = class_scores(labels, logits[:, own])
        for number, name in enumerate(names[own].tolist()):
            values = {measure: scores[measure][number] for measure in ("support", *MEASURES)}
            yield {"digest": digest, "arm": arm, "class": name, **values}


def left_out(table: pd.DataFrame, frame: pd.DataFrame) -> list[str]:
    """Return a note on the finished trials that are not in a table made from predictions.

    Args:
        table: with ``trial_ids``, for example what `class_table` returned.
        frame: the rows that it was made from.
    """
    done = set(frame.loc[frame["status"] == "done", "trial_id"])
    missing = sorted(done - set(" ".join(table["trial_ids"]).split()))
    text = f"{len(missing)} of {len(done)} trials have no predictions that can be read, and are left out"
    return [f"{text}: {listing(missing)}."] if missing else []


def _row(rows: pd.DataFrame, keys: list[str]) -> Values:
    row = first(rows)
    values = {name: row[name] for name in (*keys, "class", "support")}
    for measure in MEASURES:
        values |= columns(measure, summarise(rows[measure]))
    return {**values, "trial_ids": trial_ids(records(rows, ["trial_id", "status"]))}


def class_rows(table: pd.DataFrame, axes: list[str], *, is_narrow: bool) -> list[list[str]]:
    """Return the table as text: the headers, then its rows.

    Args:
        table: what `class_table` returned.
        axes: the study's axes.
        is_narrow: half the width of intervals instead of their ends.
    """
    settings = [axis for axis in axes if axis != METHOD]
    headers = ["arm", "method", *map(short_name, settings), "class", "images", "precision", "recall", "F1", "AUROC"]
    return [headers, *(_text_row(row, settings, is_narrow) for row in records(table))]


def _text_row(row: Values, axes: list[str], is_narrow: bool) -> list[str]:
    estimates = (estimate_of(row, measure) for measure in MEASURES)
    return [
        row["arm"],
        row["pretrain_method"],
        *(setting(column(axis), row[column(axis)]) for axis in axes),
        row["class"],
        str(row["support"]),
        *(found.short() if is_narrow else found.text() for found in estimates),
    ]
