"""The tables of time: what a trial costs alone, and what a study spent and saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import pandas as pd

from analysis.sheet import Sheet
from analysis.spending import spending_table
from analysis.timing_text import (
    SPENDING,
    TIMING,
    device_lines,
    device_numbers,
    spending_notes,
    spending_rows,
    timing_notes,
    timing_rows,
)
from cass_tune.results import Record, StudyFolder

Make = Callable[..., Sheet]
"""Makes a sheet of which the study's part is given already."""


def timing_sheet(make: Make, table: pd.DataFrame, axes: list[str], short: Mapping[str, str]) -> Sheet:
    """Return the table of a group's times.

    Args:
        make: of `Sheet`, without what is given here.
        table: what `analysis.timing.timing_table` returned.
        axes: the study's axes.
        short: short names of the devices (`analysis.timing_text.device_numbers`).
    """
    notes = timing_notes(table)
    return make(
        title="Time of a trial alone",
        numbers=table,
        rows=timing_rows(table, axes),
        notes=[*notes, TIMING],
        narrow=timing_rows(table, axes, short),
        narrow_notes=[*notes, *device_lines(short), TIMING],
        trials=table["trial_ids"].tolist(),
        is_empty=not sum(table["done"].tolist()),
    )


def spending_sheet(make: Make, table: pd.DataFrame, short: Mapping[str, str]) -> Sheet:
    """Return the account of a study; arguments as in `timing_sheet`."""
    notes = spending_notes(table)
    return make(
        title="Time of the study",
        numbers=table,
        rows=spending_rows(table),
        notes=[*notes, SPENDING],
        narrow=spending_rows(table, short),
        narrow_notes=[*notes, *device_lines(short), SPENDING],
        trials=table["trial_ids"].tolist(),
        is_empty=not len(table),
    )


def account(make: Make, study: StudyFolder, plan: Record) -> Sheet:
    """Return the account of a study that has no other table of time."""
    table = spending_table(study)
    name = "DEMO_spending" if plan["demo"] else "spending"
    return spending_sheet(partial(make, name=name), table, device_numbers(table))
