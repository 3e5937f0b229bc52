"""The timing table, and what was spent and saved, as text."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from analysis.cells import STATES, estimate_of
from analysis.devices import UNKNOWN, is_crossed, numbers
from analysis.format import duration, duration_estimate, setting, short_name
from analysis.frames import Values, plain, records
from analysis.rates import LOADS, RATES
from analysis.results import column
from analysis.timing import TIMES

TIMING = (
    "What a trial costs alone: the seconds of all its epochs, whoever computed them; mean over seeds, with the"
    " two-sided 95 % Student-t interval. Starting, reading the images and the last evaluation are not in it."
)
"""What the columns of a timing table stand for."""

RATES_EXPLAINED = (
    "images/s: images per second of training (pretraining: of both networks; finetuning: CNN, ViT), evaluations not"
    " counted."
)
"""What the images per second stand for."""

LOADS_EXPLAINED = (
    "GiB: most memory of a trial (GPU: allocated by it; CPU: resident in its process); busy: mean utilisation of its"
    " device while epochs ran (GPU: any kernel, of whatever trial, was running; CPU: of its own threads)."
)
"""What the loads stand for."""

SPENDING = (
    "alone: what the finished trials cost one by one; spent: every epoch computed for the study's trials, shared ones"
    " once; computed again: repeated, mostly after interruptions; saved: alone - spent. Epochs that never ended have no"
    " record; one that ended, and was then repeated from its middle on, counts twice in full."
)
"""What the columns of the account stand for."""

_SHORT = {"pretrain_seconds": "pretraining", "cnn_seconds": "CNN", "vit_seconds": "ViT", "total_seconds": "total"}
_LONG = {**_SHORT, "cnn_seconds": "finetuning CNN", "vit_seconds": "finetuning ViT", "total_seconds": "total alone"}
_RATES = {"pretrain_images_per_second": "images/s pretraining", "cnn_images_per_second": "images/s CNN"}
_RATES |= {"vit_images_per_second": "images/s ViT"}


def device_numbers(*tables: pd.DataFrame) -> dict[str, str]:
    """Return a short name of every kind of device in some tables, see `analysis.devices.numbers`."""
    kinds = [kind for table in tables if len(table) for kind in map(plain, table["device_kind"])]
    return numbers(kind for kind in kinds if kind is not None)


def device_lines(short: Mapping[str, str]) -> list[str]:
    """Return what the short names of devices stand for."""
    return [f"device {number}: {kind}" for kind, number in short.items() if not is_crossed(kind)]


def has_published(table: pd.DataFrame) -> bool:
    """Return whether any row of a timing table has a published time beside it."""
    return bool(table["published_pretrain_seconds"].notna().any())


def has_rates(table: pd.DataFrame) -> bool:
    """Return whether any row of a timing table has images per second."""
    return any(table[f"{name}_n"].gt(0).any() for name in RATES)


def has_loads(table: pd.DataFrame) -> bool:
    """Return whether any row of a timing table has a load."""
    return any(table[f"{name}_n"].gt(0).any() for name in LOADS)


def timing_rows(table: pd.DataFrame, axes: list[str], short: Mapping[str, str] | None = None) -> list[list[str]]:
    """Return a timing table as text: the headers, then a row per cell and kind of device.

    Args:
        table: what `analysis.timing.timing_table` returned.
        axes: the study's axes.
        short: short names of the devices, for a terminal; by default devices and intervals are told in full.
    """
    columns = [axis for axis in axes if axis != "pretrain.method"]
    published = ["publ."] * has_published(table)
    names = _LONG if short is None else _SHORT
    rates = [_RATES[name] for name in RATES] if short is None else ["images/s"]
    rates = rates if has_rates(table) else []
    loads = ["GiB", "busy"] if has_loads(table) else []
    times = [names[name] for name in TIMES]
    headers = ["method", *map(short_name, columns), "device", *times, *published, *rates, *loads, "seeds"]
    shown = {"with_published": bool(published), "with_rates": bool(rates), "with_loads": bool(loads)}
    return [headers, *(_timing_row(row, columns, short, **shown) for row in records(table))]


def _timing_row(
    row: Values,
    axes: list[str],
    short: Mapping[str, str] | None,
    *,
    with_published: bool,
    with_rates: bool,
    with_loads: bool,
) -> list[str]:
    return [
        row["pretrain_method"],
        *(setting(column(axis), row[column(axis)]) for axis in axes),
        _device(row, short),
        *(duration_estimate(estimate_of(row, name), is_short=short is not None) for name in TIMES),
        *([duration(row["published_pretrain_seconds"])] if with_published else []),
        *(_rates(row, is_short=short is not None) if with_rates else []),
        *(_loads(row) if with_loads else []),
        _seeds(row),
    ]


def _rates(row: Values, *, is_short: bool) -> list[str]:
    """Return the images per second of all phases: in short their means in one cell, for example ``24/103/88``."""
    found = [estimate_of(row, name) for name in RATES]
    if is_short:
        return ["/".join(rate(estimate.mean) for estimate in found) if any(e.n for e in found) else "-"]
    intervals = (f" [{rate(e.low)}, {rate(e.high)}]" if e.n > 1 else " (n=1, no interval)" * e.n for e in found)
    return [rate(estimate.mean) + interval for estimate, interval in zip(found, intervals, strict=True)]


def _loads(row: Values) -> list[str]:
    """Return the most memory in GiB, and the utilisation in per cent: means over seeds."""
    memory, busy = (estimate_of(row, name).mean for name in LOADS)
    return [
        "-" if math.isnan(memory) else f"{memory:.1f}",
        "-" if math.isnan(busy) else f"{100 * busy:.0f}%",
    ]


def rate(value: float) -> str:
    """Return images per second as text, ``-`` when they are unknown."""
    return "-" if math.isnan(value) else f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}"


def _device(row: Values, short: Mapping[str, str] | None) -> str:
    kind = row["device_kind"]
    if kind is None:
        return "-"
    return (kind if short is None else short[kind]) + "#" * bool(row["crossed_devices"])


def _seeds(row: Values) -> str:
    """Return how many seeds the row stands for, or what became of those that are not done."""
    states = [f"{row[state]} {state}" for state in STATES if row[state]]
    return ", ".join([str(row["done"])] * bool(row["done"]) + states)


def timing_notes(table: pd.DataFrame) -> list[str]:
    """Return what the signs of one timing table stand for."""
    lines = []
    if has_rates(table):
        lines.append(RATES_EXPLAINED)
    if has_loads(table):
        lines.append(LOADS_EXPLAINED)
    for text in _published_sources(table):
        lines.append(f"publ.: published pretraining time of a comparable setting, on the device of its source: {text}.")
    if any(table["crossed_devices"].tolist()):
        lines.append("# More than one kind of device worked on these trials: their times stand apart.")
    return lines


def _published_sources(table: pd.DataFrame) -> list[str]:
    rows = [row for row in records(table) if row["published_pretrain_seconds"] is not None]
    texts = (f"{row['published_source']}; {row['published_caveats'] or 'no remarks'}" for row in rows)
    return list(dict.fromkeys(texts))


def spending_rows(table: pd.DataFrame, short: Mapping[str, str] | None = None) -> list[list[str]]:
    """Return the account of a study as text: the headers, then a row per kind of device.

    Args:
        table: what `analysis.spending.spending_table` returned.
        short: short names of the devices, for a terminal; by default they are told in full.
    """
    with_unfinished = _has_unfinished(table)
    headers = ["device", "trials", "alone", "spent", *["of it unfinished"] * with_unfinished, "of it computed again"]
    rows = [_spending_row(row, with_unfinished, short) for row in records(table)]
    return [[*headers, "saved", "spent/alone"], *rows]


def _has_unfinished(table: pd.DataFrame) -> bool:
    return bool(table["unfinished_seconds"].gt(0).any())


def _spending_row(row: Values, with_unfinished: bool, short: Mapping[str, str] | None) -> list[str]:
    ratio = row["spent_of_alone"]
    return [
        _device(row, short),
        str(row["trials"]),
        duration(row["alone_seconds"]),
        duration(row["spent_seconds"]),
        *([duration(row["unfinished_seconds"])] if with_unfinished else []),
        duration(row["repeated_seconds"]),
        duration(row["saved_seconds"]),
        "-" if ratio is None else f"{ratio:.2f}",
    ]


def spending_notes(table: pd.DataFrame) -> list[str]:
    """Return what is special in an account."""
    lines = []
    if _has_unfinished(table):
        lines.append("of it unfinished: for trials that are not finished, or failed; alone does not have them.")
    if any(table["crossed_devices"].tolist()):
        lines.append("# More than one kind of device: which epoch ran on which is not recorded.")
    if UNKNOWN in table["device_kind"].tolist():
        lines.append(f"{UNKNOWN}: no record says what device these were computed on.")
    lost = sum(table["epochs_without_row"].tolist())
    if lost:
        lines.append(
            f"Epochs of finished trials that have no row in the results root: {lost}. What they took is unknown."
        )
    return lines
