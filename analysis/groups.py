"""Rows that may share a table: every setting agrees but the axes and the seed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from analysis.frames import Values, by, plain, records, where
from analysis.results import FIELDS, column
from cass_tune.config import SECTIONS, Pretrain, Trial
from cass_tune.identity import matters
from cass_tune.presets import of_method
from cass_tune.results import Record

_CONTROL = Trial(pretrain=Pretrain(method="none"))
_BESIDE = ("fingerprint", "starting_cnn", "starting_vit", "results_version")
_SEEN = ("listed_train", "listed_validation", "listed_test")
_METHOD = "pretrain.method"
_KNOWN = ("method", "epochs", "batch_size")
"""Fields of the pretraining on which it depends what a method brings."""


@dataclass(frozen=True)
class Group:
    """Rows that share a table.

    Args:
        frame: rows of `analysis.results.load`, the controls that belong to them included.
        settings: the value of every column in which they agree.
    """

    frame: pd.DataFrame
    settings: Values


def control_axes(axes: list[str]) -> list[str]:
    """Return the axes that a control has too: a cell is compared with the control that agrees in them."""
    return [axis for axis in axes if axis != _METHOD and matters(_CONTROL, axis)]


def split(frame: pd.DataFrame, axes: list[str]) -> list[Group]:
    """Return the groups, the last asked for first.

    What a method brings of its own (`cass_tune.presets.of_method`) belongs to the method: it may differ between the
    methods of one table. A control has no pretraining settings, so it belongs to every group with which the others
    agree; controls that belong to none are groups of their own.
    """
    keys = _key_columns(axes)
    own = [name for name in keys if name in _pretrain_only()]
    shared = [name for name in keys if name not in own]
    is_control = frame["pretrain_method"] == "none"
    controls, found, used = frame.loc[is_control], [], []
    for alike in by(frame.loc[~is_control], shared):
        for rows in _of_settings(alike, own, is_together=_METHOD in axes):
            settings = _settings(rows, keys)
            beside = where(controls, {name: settings[name] for name in shared})
            used += beside["digest"].tolist()
            found.append(Group(pd.concat([rows, beside]).sort_values(["order", "arm"]), settings))
    left = controls.loc[~controls["digest"].isin(used)]
    found += [Group(rows, _settings(rows, keys)) for rows in by(left, keys)]
    return sorted(found, key=lambda group: min(group.frame["order"]))


def _of_settings(rows: pd.DataFrame, own: list[str], *, is_together: bool) -> list[pd.DataFrame]:
    """Return the rows of each setting of the pretraining.

    Where methods share a table, the first has the last settings of every method, and so on; a method that has no
    further settings stands in all of them.

    Args:
        rows: with a pretraining, that agree in everything else.
        own: columns of the pretraining that must agree within a method, beyond what the method brings.
        is_together: whether several methods may share a table.
    """
    of_method: dict[str, list[pd.DataFrame]] = {}
    needed = [*own, *(column(f"pretrain.{name}") for name in _KNOWN)]
    settings = pd.Series([_beyond_method(row, own) for row in records(rows, needed)], index=rows.index)
    for method, some in rows.groupby("pretrain_method", sort=False):
        variants = [alike for _, alike in some.groupby(settings.loc[some.index], sort=False)]
        of_method[str(method)] = sorted(variants, key=lambda alike: min(alike["order"]))
    if not is_together:
        return [rows for variants in of_method.values() for rows in variants]
    rounds = range(max(map(len, of_method.values()), default=0))
    return [pd.concat([own[min(number, len(own) - 1)] for own in of_method.values()]) for number in rounds]


def _beyond_method(row: Values, own: list[str]) -> str:
    """Return a row's settings without those that its method brings; of settings that are not known nothing is."""
    brings = _brought(*(row[column(f"pretrain.{name}")] for name in _KNOWN))
    return repr([None if name in brings and brings[name] == row[name] else row[name] for name in own])


@functools.cache
def _brought(*values: Any) -> Values:
    """Return the columns that a method brings with these values of the fields in `_KNOWN`."""
    trial = Trial(pretrain=Pretrain(**dict(zip(_KNOWN, values, strict=True))))
    return {column(path): value for path, value in of_method(trial).items()}


def _settings(rows: pd.DataFrame, keys: list[str]) -> Values:
    """Return the value of every column, without the rows to which it does not matter; of several values all."""
    values = {name: [plain(value) for value in rows[name].unique() if plain(value) is not None] for name in keys}
    return {
        name: found[0] if len(found) == 1 else " / ".join(map(str, found)) or None for name, found in values.items()
    }


def differing(groups: list[Group]) -> list[str]:
    """Return the columns whose settings are not the same in all groups."""
    names = groups[0].settings
    return [name for name in names if len({repr(group.settings[name]) for group in groups}) > 1]


def _key_columns(axes: list[str]) -> list[str]:
    """Return the columns that must agree in a table: all that can change a number, and what is shown of the data."""
    places = {
        f"{section}.{item.name}"
        for section, kind in SECTIONS.items()
        for item in fields(kind)  # type: ignore[arg-type]
        if not item.metadata.get("identity", True)
    }
    return [*(column(path) for path in FIELDS if path not in {*places, *axes}), *_BESIDE, *_SEEN]


def setting_columns() -> list[str]:
    """Return the columns in which trials agree that differ in nothing but the seed."""
    return _key_columns([])


def _pretrain_only() -> set[str]:
    return {column(_METHOD), *(column(path) for path in FIELDS if not matters(_CONTROL, path))}


def file_names(plan: Record, groups: Sequence[object], stem: str) -> list[str]:
    """Return a file name without its ending for every group, for example ``DEMO_f1`` and ``DEMO_f1_2``."""
    first = f"DEMO_{stem}" if plan["demo"] else stem
    return [first if number == 1 else f"{first}_{number}" for number in range(1, len(groups) + 1)]
