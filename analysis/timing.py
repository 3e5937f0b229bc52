"""What the trials of a cell cost alone: one row of seconds per cell (all settings but the seed) and kind of device."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.cells import STATES, columns, place, published_beside, trial_ids
from analysis.devices import SEPARATOR, is_crossed, kind_of
from analysis.frames import Values, grouped, once, plain, records, where
from analysis.published import CELL_COLUMNS, PRETRAIN_TIME, Row
from analysis.rates import LOADS, RATES
from analysis.results import column
from analysis.statistics import summarise
from cass_tune.config import ARMS

TIMES = ("pretrain_seconds", *(f"{arm}_seconds" for arm in ARMS), "total_seconds")
"""What is timed: the pretraining of both arms, the finetuning of each, and all of it."""
_MEASURED = (*RATES, *LOADS)


def timing_table(
    frame: pd.DataFrame, axes: list[str], published: Sequence[Row] = (), rates: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return the timing table of one group as numbers.

    Args:
        frame: rows that may share a table (`analysis.groups.split`).
        axes: the study's axes, as ``section.field``.
        published: published rows that may stand beside its cells.
        rates: images per second and loads by trial (`analysis.rates.rates_table`); unknown by default.

    Returns:
        One row per cell and kind of device, controls last; trials that are not finished have no device and rows of
        their own. The axes; the devices and whether the work crossed kinds; mean, interval, n and standard deviation
        over seeds of the seconds in `TIMES` and of what is in `analysis.rates.RATES` and `LOADS`; the published
        seconds of a comparable pretraining, whatever it ran on;
        how many trials became what; and their ids.
    """
    keys = ["pretrain_method", *(column(axis) for axis in axes if axis != "pretrain.method")]
    trials = _trials(frame, rates)
    needed = [*keys, *CELL_COLUMNS, "device_kind", "status", "trial_id", *TIMES, *_MEASURED]
    cells = grouped(records(trials, needed), [*keys, "device_kind"]).values()
    rows = [_row(cell, [*keys, "device_kind"], published) for cell in cells]
    table = pd.DataFrame(sorted(rows, key=lambda row: (*place(row, keys), row["device_kind"] or "~")))
    return table.astype({name: trials[name].dtype for name in [*keys, "device_kind"]})


def _trials(frame: pd.DataFrame, rates: pd.DataFrame | None) -> pd.DataFrame:
    """Return one row per trial, with every time and rate that it has."""
    trials = once(frame, ["digest"]).set_index("digest")
    for arm in ARMS:
        trials[f"{arm}_seconds"] = where(frame, {"arm": arm}).set_index("digest")["finetune_seconds"]
    is_control = trials["pretrain_method"] == "none"
    finetuning = trials[[f"{arm}_seconds" for arm in ARMS]].sum(axis=1, skipna=False)
    trials["total_seconds"] = trials["pretrain_seconds"].mask(is_control, 0.0) + finetuning
    kinds = [None if plain(devices) is None else kind_of(devices.split(SEPARATOR)) for devices in trials["devices"]]
    trials["device_kind"] = pd.Series(kinds, index=trials.index, dtype=frame["devices"].dtype)
    known = pd.DataFrame(columns=["digest", *_MEASURED], dtype="float64") if rates is None else rates
    joined = trials.join(known.set_index("digest"))
    joined[list(_MEASURED)] = joined[list(_MEASURED)].where(joined["device_kind"].notna())  # of finished trials alone
    return joined


def _row(cell: list[Values], keys: list[str], published: Sequence[Row]) -> Values:
    row, states = cell[0], [row["status"] for row in cell]
    found = published_beside(row, published, PRETRAIN_TIME)
    hours = found.get("value")
    values = {name: row[name] for name in keys}
    values["crossed_devices"] = is_crossed(row["device_kind"] or "")
    for name in (*TIMES, *_MEASURED):
        values |= columns(name, summarise(row[name] for row in cell))
    return {
        **values,
        "published_pretrain_seconds": None if hours is None else hours * 3600,
        **{f"published_{name}": found.get(name) for name in ("origin", "source", "caveats")},
        "trials": len(cell),
        **{state: states.count(state) for state in ("done", *STATES)},
        "trial_ids": trial_ids(cell),
    }
