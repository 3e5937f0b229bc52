"""Models compared on the images of the test part: each with its control, image by image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.cells import columns, estimate_of
from analysis.format import p_text, setting, short_name
from analysis.frames import Values, grouped, records
from analysis.groups import control_axes
from analysis.predictions import predicted_labels, true_labels
from analysis.resampling import REPLICATES, bootstrap, mcnemar
from analysis.results import column
from analysis.statistics import holm

EXPLANATION = (
    "One row per trained network. macro-F1 [...]: the two-sided 95 % percentile interval of a bootstrap over the test"
    " images, or over patients (lesions) where the data group images: how much this one network's score depends on"
    " which images were tested, not on the seed. only model, only control: images that only this network, or only the"
    " control of the same seed, has right (all their labels, where there are several); p: exact McNemar test,"
    " two-sided, that both are equally often right, corrected for all rows (Holm). It takes images as independent."
)
"""What the columns stand for."""


def model_comparison(
    predictions: pd.DataFrame,
    frame: pd.DataFrame,
    axes: Sequence[str],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> pd.DataFrame:
    """Return what the test images say of every network of one group, alone and against its control.

    Args:
        predictions: of `analysis.predictions.load_predictions`.
        frame: rows that may share a table (`analysis.groups.split`).
        axes: the study's axes, as ``section.field``.
        seed: of the bootstrap's draws.
        replicates: how many draws.

    Returns:
        One row per arm and trial that has predictions of test images, controls last: the method and the axes; seed and
        trial_id; macro-F1 with its bootstrap interval and standard deviation, where n counts the unit (``images`` or
        ``groups``); control_id, the control on the same arm, settings and seed that saw the same images; compared, the
        images of both; only_model and only_control, images that one of them alone has right; p of the exact McNemar
        test, and p_holm, corrected for all tests of the table. Without a control these are missing.
    """
    own = list(dict.fromkeys(["pretrain_method", *map(column, axes)]))
    wanted = records(frame, ["arm", "digest", "trial_id", "seed", "order", *own])
    shared = ["arm", "seed", *(column(axis) for axis in control_axes(list(axes)))]
    controls = grouped((row for row in wanted if row["pretrain_method"] == "none"), shared)
    images = _by_network(predictions)
    rows = []
    for row in sorted(wanted, key=lambda row: (row["arm"], row["pretrain_method"] == "none", row["order"])):
        found = images.get((row["digest"], row["arm"]))
        if found is not None:
            control = None if row["pretrain_method"] == "none" else _control(controls, row, shared)
            beside = images.get((control["digest"], row["arm"])) if control else None
            start = {name: row[name] for name in ("arm", *own, "seed", "trial_id")}
            alone = _alone(found, seed, replicates)
            rows.append({**start, **alone, **_against(found, beside, control["trial_id"] if control else None)})
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return _typed(pd.DataFrame(rows, columns=_columns(own)), frame, own)


_COUNTS = ("compared", "only_model", "only_control")


def _columns(own: Sequence[str]) -> list[str]:
    parts = [f"macro_f1_{part}" for part in ("mean", "low", "high", "n", "sd")]
    return ["arm", *own, "seed", "trial_id", *parts, "unit", "control_id", *_COUNTS, "p", "p_holm"]


def _typed(table: pd.DataFrame, frame: pd.DataFrame, own: Sequence[str]) -> pd.DataFrame:
    kept = {name: frame[name].dtype for name in ("arm", *own, "seed", "trial_id")}
    return table.astype({**kept, **dict.fromkeys(_COUNTS, "Int64"), "unit": "str", "control_id": "str"})


def _control(controls: dict[tuple[object, ...], list[Values]], row: Values, shared: Sequence[str]) -> Values | None:
    return next(iter(controls.get(tuple(row[name] for name in shared), [])), None)


def _by_network(predictions: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the test images of every network, by trial and arm."""
    tested = predictions.loc[predictions["split"] == "test"]
    return {(str(digest), str(arm)): rows for (digest, arm), rows in tested.groupby(["digest", "arm"], observed=True)}


def _alone(rows: pd.DataFrame, seed: int, replicates: int) -> Values:
    groups = rows["group"].tolist()
    found = bootstrap(true_labels(rows), predicted_labels(rows), groups, seed=seed, replicates=replicates)
    return {**columns("macro_f1", found), "unit": "images" if found.n == len(rows) else "groups"}


def _against(rows: pd.DataFrame, control: pd.DataFrame | None, control_id: str | None) -> Values:
    """Return the comparison with the control on the images that both saw under the same label."""
    if control is None:
        return {"p": np.nan}
    both = _coded(rows).merge(_coded(control), on=["image", "label"], suffixes=("", "_of_control"))
    if both.empty:
        return {"p": np.nan}
    labels, first, second = (both[name].to_numpy() for name in ("label", "predicted", "predicted_of_control"))
    only_model, only_control, p = mcnemar(labels, first, second)
    counts = dict(zip(_COUNTS, (len(both), only_model, only_control), strict=True))
    return {"control_id": control_id, **counts, "p": p}


def _coded(rows: pd.DataFrame) -> pd.DataFrame:
    """Return numbers for labels and predictions: equal where all labels of an image are the same."""
    codes = {name: rows[name].cat.codes.to_numpy(np.int64) for name in ("label", "predicted")}
    return rows[["image"]].assign(**codes)


def comparison_rows(table: pd.DataFrame, axes: Sequence[str]) -> list[list[str]]:
    """Return the table as text: the headers, then its rows."""
    shown = [axis for axis in axes if axis != "pretrain.method"]
    headers = ["arm", "method", *map(short_name, shown), "seed", "macro-F1", "n", "only model", "only control", "p"]
    return [headers, *(_text_row(row, shown) for row in records(table))]


def _text_row(row: Values, shown: Sequence[str]) -> list[str]:
    settings = (setting(column(axis), row[column(axis)]) for axis in shown)
    counts = ["-" if row[name] is None else str(row[name]) for name in ("only_model", "only_control")]
    number = f"{row['macro_f1_n']} {row['unit']}"
    start = [row["arm"], row["pretrain_method"], *settings, str(row["seed"])]
    return [*start, estimate_of(row, "macro_f1").text(), number, *counts, p_text(row["p_holm"])]
