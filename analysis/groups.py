"""Rows that may share a table: every setting agrees but the axes and the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import pandas as pd

from analysis.frames import Values, by, first
from analysis.results import FIELDS, column
from cass_tune.config import SECTIONS, Pretrain, Trial
from cass_tune.identity import matters
from cass_tune.results import Record

_CONTROL = Trial(pretrain=Pretrain(method="none"))
_BESIDE = ("fingerprint", "starting_cnn", "starting_vit", "results_version")
_SEEN = ("listed_train", "listed_validation", "listed_test")
_METHOD = "pretrain.method"


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

    A setting that cannot matter to a method does not keep its rows out of a group: a control has no pretraining
    settings, so it belongs to every group with which the others agree. Rows that belong to none are a group.
    """
    keys = _key_columns(axes)
    found: list[tuple[list[pd.DataFrame], Values]] = []
    methods = {str(method): _unasked(str(method)) for method in frame["pretrain_method"].unique()}
    for method in sorted(methods, key=lambda each: len(methods[each])):
        for rows in by(frame.loc[frame["pretrain_method"] == method], keys):
            row = first(rows)
            asked = {name: row[name] for name in keys if name not in methods[method]}
            homes = [home for home in found if all(home[1].get(name, value) == value for name, value in asked.items())]
            for members, settings in homes:
                members.append(rows)
                settings |= asked
            if not homes:
                found.append(([rows], asked))
    groups = [
        Group(pd.concat(members).sort_values(["order", "arm"]), {name: settings.get(name) for name in keys})
        for members, settings in found
    ]
    return sorted(groups, key=lambda group: min(group.frame["order"]))


def _unasked(method: str) -> set[str]:
    """Return the columns that cannot matter to a method's trials; a control also stands beside every method."""
    trial = Trial(pretrain=Pretrain(method=method))
    own = {column(_METHOD)} if method == "none" else set()
    return own | {column(path) for path in FIELDS if not matters(trial, path)}


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


def file_names(plan: Record, groups: Sequence[Group], stem: str) -> list[str]:
    """Return a file name without its ending for every group, for example ``DEMO_f1`` and ``DEMO_f1_2``."""
    first = f"DEMO_{stem}" if plan["demo"] else stem
    return [first if number == 1 else f"{first}_{number}" for number in range(1, len(groups) + 1)]
