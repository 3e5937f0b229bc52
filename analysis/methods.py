"""Methods side by side: F1 and the cost of the pretraining, each against the first method on the same seeds."""

from __future__ import annotations

import pandas as pd

from analysis.cells import columns, estimate_of, place, trial_ids
from analysis.devices import SEPARATOR
from analysis.format import duration_estimate, p_text, setting, short_name
from analysis.frames import Values, by, first, plain, records, where
from analysis.results import column
from analysis.statistics import Estimate, holm, p_value, paired_difference, summarise
from cass_tune.config import ARMS

METHOD = "pretrain.method"

EXPLANATION = (
    "difference: macro-F1 minus that of {first}, paired by seed; p: of its t test, two-sided, corrected for all"
    " differences of this table (Holm); times: pretraining time over that of {first}, paired"
    " by seed, on the same kind of device alone. A pretraining here is that of both networks, whatever the method: CASS"
    " trains the two against one another, the others train each for itself, side by side. per network is half of it,"
    " and is what compares with a published time of one network."
)
"""What the columns stand for."""


def has_several(frame: pd.DataFrame, axes: list[str]) -> bool:
    """Return whether a study compares methods and there are several beside the control."""
    return METHOD in axes and len(_methods(frame)) > 1


def _methods(frame: pd.DataFrame) -> list[str]:
    """Return the methods beside the control, in the order in which they were asked for."""
    ordered = frame.sort_values("order")["pretrain_method"].unique().tolist()
    return [str(name) for name in ordered if name != "none"]


def method_table(frame: pd.DataFrame, axes: list[str]) -> pd.DataFrame:
    """Return the comparison of the methods of one group as numbers.

    Args:
        frame: rows that may share a table (`analysis.groups.split`), of several methods.
        axes: the study's axes, as ``section.field``.

    Returns:
        One row per arm, setting and method, the control last of a setting: macro-F1 and micro-F1 at 0.5; the paired
        difference of macro-F1 from the first method asked for, with p of its t test, alone and by Holm; seconds of the
        pretraining of both networks, and of one; and that time over the first method's, on equal seeds and kinds of
        device. Each with mean, interval, n and standard deviation.
    """
    settings = [column(axis) for axis in axes if axis != METHOD]
    order = [*_methods(frame), "none"]
    rows = []
    for cell in by(frame, ["arm", *settings, "pretrain_method"]):
        row = first(cell)
        rows.append(_row(cell, _reference(frame, row, settings, order[0]), ["arm", *settings, "pretrain_method"]))
    rows = sorted(rows, key=lambda row: _place(row, settings, order))
    for row, adjusted in zip(rows, holm([row["difference_p"] for row in rows]), strict=True):
        row["difference_p_holm"] = adjusted
    table = pd.DataFrame(rows)
    return table.astype({name: frame[name].dtype for name in ("arm", *settings, "pretrain_method")})


def _reference(frame: pd.DataFrame, row: Values, settings: list[str], method: str) -> pd.DataFrame:
    """Return the first method's rows of the same arm and setting, of which a control has only a part."""
    if row["pretrain_method"] == method:
        return frame.head(0)
    known = {name: row[name] for name in settings if row[name] is not None}
    return where(frame, {"pretrain_method": method, "arm": row["arm"], **known})


def _place(row: Values, settings: list[str], order: list[str]) -> tuple[object, ...]:
    arm, _, *ranked, _ = place(row, ["arm", *settings])
    return (arm, *ranked, order.index(row["pretrain_method"]))


def _row(cell: pd.DataFrame, reference: pd.DataFrame, keys: list[str]) -> Values:
    row = first(cell)
    several = reference["seed"].duplicated().any()  # a control beside several settings has no one counterpart
    beside = reference.head(0) if several else reference
    difference = paired_difference(_by_seed(cell, "macro_f1"), _by_seed(beside, "macro_f1"))
    return {
        **{name: row[name] for name in keys},
        **columns("macro_f1", summarise(cell["macro_f1"])),
        **columns("micro_f1_at_half", summarise(cell["micro_f1_at_half"])),
        **columns("difference", difference),
        "difference_p": p_value(difference),
        **columns("pretrain_seconds", summarise(cell["pretrain_seconds"])),
        **columns("network_seconds", summarise(cell["pretrain_seconds"] / len(ARMS))),
        **columns("times", summarise(_ratios(cell, beside))),
        "trials": len(cell),
        "done": len(where(cell, {"status": "done"})),
        "trial_ids": trial_ids(records(cell, ["trial_id", "status"])),
    }


def _by_seed(rows: pd.DataFrame, name: str) -> pd.Series:
    return pd.Series(rows[name].to_numpy(), index=rows["seed"].tolist())


def _ratios(cell: pd.DataFrame, reference: pd.DataFrame) -> list[float]:
    """Return the ratio of pretraining seconds of every seed that ran on one kind of device, the same for both."""
    there = {row["seed"]: row for row in records(reference)}
    pairs = [(row, there[row["seed"]]) for row in records(cell) if row["seed"] in there]
    return [
        here["pretrain_seconds"] / other["pretrain_seconds"]
        for here, other in pairs
        if here["pretrain_seconds"] and other["pretrain_seconds"] and _is_one_kind(here, other)
    ]


def _is_one_kind(here: Values, other: Values) -> bool:
    devices = plain(here["devices"])
    return devices is not None and devices == other["devices"] and SEPARATOR not in devices


def method_rows(table: pd.DataFrame, axes: list[str], *, is_narrow: bool) -> list[list[str]]:
    """Return a comparison as text: the headers, then a row per arm, setting and method."""
    settings = [axis for axis in axes if axis != METHOD]
    headers = [
        "arm",
        *map(short_name, settings),
        "method",
        "macro-F1",
        "difference",
        "p",
        *([] if is_narrow else ["micro-F1"]),
    ]
    headers += ["pretraining", "per network", "times", "seeds"]
    return [headers, *(_text_row(row, settings, is_narrow) for row in records(table))]


def _text_row(row: Values, settings: list[str], is_narrow: bool) -> list[str]:
    def estimate(name: str, signed: bool = False) -> str:
        found = estimate_of(row, name)
        return found.short(signed) if is_narrow else found.text(signed)

    times = [
        duration_estimate(estimate_of(row, name), is_short=is_narrow)
        for name in ("pretrain_seconds", "network_seconds")
    ]
    return [
        row["arm"],
        *(setting(column(axis), row[column(axis)]) for axis in settings),
        row["pretrain_method"],
        estimate("macro_f1"),
        estimate("difference", signed=True),
        p_text(row["difference_p_holm"]),
        *([] if is_narrow else [estimate("micro_f1_at_half")]),
        *times,
        _times(estimate_of(row, "times"), is_narrow),
        f"{row['done']}/{row['trials']}",
    ]


def _times(found: Estimate, is_narrow: bool) -> str:
    if found.n < 2:
        return f"{found.mean:.2f} (n=1)" if found.n else "-"
    interval = f"+-{found.half_width:.2f}" if is_narrow else f"[{found.low:.2f}, {found.high:.2f}]"
    return f"{found.mean:.2f} {interval}"


def explanation(table: pd.DataFrame) -> str:
    """Return what the columns of a comparison stand for."""
    return EXPLANATION.format(first=first(table)["pretrain_method"])
