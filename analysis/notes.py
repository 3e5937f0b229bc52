"""What stands around a table: the facts that its rows share, and everything that is not a plain number in it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.cells import cell_name
from analysis.format import has_published, listing, setting, shown_probes, wrap
from analysis.frames import once, records, where
from analysis.groups import Group, differing
from analysis.results import column
from cass_tune.config import ARMS
from cass_tune.results import Record

INTERVAL = "+- is half of the two-sided 95 % Student-t interval over seeds ([...] is the interval)."
"""What stands behind a mean."""

EXPLANATION = (
    "Control: the same finetuning without pretraining, on the same seeds; difference: paired by seed. macro-F1 by"
    " argmax; micro-F1 of the sigmoids at 0.5."
)
"""What the columns of every F1 table stand for."""

TIME_EXPLAINED = " time: pretraining of both arms + finetuning of this arm, mean over seeds."
"""What the column of times stands for, where there is one."""

PUBLISHED_EXPLAINED = "publ.: published micro-F1 at 0.5 of a comparable setting (sources: analysis/published.csv)."
"""What a published number stands for."""

PROBES_EXPLAINED = (
    "linear, kNN: macro-F1 of probes of the frozen features from which finetuning starts (for the control: of the"
    " starting weights), fitted on the same labelled images, mean over seeds. missing: not asked for, or the end of the"
    " pretraining is not kept; n=: so many seeds have one."
)
"""What the columns of the probes stand for."""


def subject(plan: Record) -> str:
    """Return what a study is about, for example ``DEMO: Batch size of the pretraining``."""
    return ("DEMO: " if plan["demo"] else "") + plan["title"].rstrip(".")


def heading(plan: Record, frame: pd.DataFrame, axes: list[str]) -> list[str]:
    """Return the study's name and the facts in which all its rows agree."""
    lines = [
        f"{subject(plan)} ({plan['study']}, preset {plan['preset']}, recipe {_values(frame, 'recipe')})",
        _data_line(plan, frame, axes),
        _networks(frame, axes),
        _lengths(frame, axes),
        f"devices: {_values(frame, 'devices') or 'none yet'}{_mixed(frame)}",
    ]
    return [wrap(line) for line in lines if line]


def _values(frame: pd.DataFrame, name: str) -> str:
    return "; ".join(str(value) for value in frame[name].dropna().unique())


def _mixed(frame: pd.DataFrame) -> str:
    is_mixed = len(frame["devices"].dropna().unique().tolist()) > 1
    return " (mixed: equal seeds need not give equal numbers)" if is_mixed else ""


def _agreed(frame: pd.DataFrame, axes: list[str], path: str) -> Any:
    """Return the one value of a field that is no axis, or None."""
    values: list[Any] = frame[column(path)].dropna().unique().tolist()
    return values[0] if len(values) == 1 and path not in axes else None


def _data_line(plan: Record, frame: pd.DataFrame, axes: list[str]) -> str:
    names = {"train": "training", "validation": "validation", "test": "test"}
    counts = {name: frame[f"listed_{part}"].unique().tolist() for part, name in names.items()}
    parts = [f"data: {plan['data']['name']}", f"{len(plan['data']['classes'])} classes"]
    if all(len(values) == 1 for values in counts.values()):
        there = [f"{values[0]} {name}" for name, values in counts.items() if values[0]]
        parts.append(f"{' + '.join(there)} images")
    size, share = (_agreed(frame, axes, f"data.{name}") for name in ("image_size_px", "label_fraction"))
    parts += [f"{size} px"] if size is not None else []
    parts += [f"{setting('data_label_fraction', share)} of the labels"] if share is not None else []
    return ", ".join(parts)


def _networks(frame: pd.DataFrame, axes: list[str]) -> str:
    parts = []
    for arm in ARMS:
        model = _agreed(frame, axes, f"pretrain.{arm}")
        weights = _values(frame, f"starting_{arm}").removeprefix(f"timm:{model}")
        source = "timm's weights" if not weights else weights[:19]
        parts += [f"{arm}: {model} ({source})"] if model else []
    return ", ".join(parts)


def _lengths(frame: pd.DataFrame, axes: list[str]) -> str:
    known = {
        label: _agreed(frame, axes, path)
        for label, path in {
            "pretraining epochs": "pretrain.epochs",
            "pretraining batch size": "pretrain.batch_size",
            "finetuning epochs": "finetune.epochs",
            "finetuning batch size": "finetune.batch_size",
            "best epoch by validation": "finetune.select_by",
        }.items()
    }
    return ", ".join(f"{label}: {value}" for label, value in known.items() if value is not None)


def group_heading(groups: list[Group], index: int) -> list[str]:
    """Return what tells one of several tables from the others."""
    if len(groups) == 1:
        return []
    age = " (last asked for)" if index == 0 else ""
    settings = groups[index].settings
    differs = (f"{name} {setting(name, settings[name])[:40]}" for name in differing(groups))
    return [wrap(f"Table {index + 1} of {len(groups)}{age}: {', '.join(differs)}")]


def footnotes(table: pd.DataFrame, axes: list[str]) -> list[str]:
    """Return what the columns and signs of one table stand for that not all tables have."""
    lines = []
    if has_published(table):
        lines.append(PUBLISHED_EXPLAINED)
    if shown_probes(table):
        lines.append(PROBES_EXPLAINED)
    return [*lines, *sign_notes(table, axes)]


def sign_notes(table: pd.DataFrame, axes: list[str]) -> list[str]:
    """Return what the signs behind a number stand for."""
    lines = []
    for sign, name, text in (
        ("*", "outputs_collapsed", "The outputs of the pretraining collapsed in {}."),
        ("#", "crossed_devices", "More than one kind of device computed {}: these numbers need not repeat."),
    ):
        cells = _cells_with(table, axes, name)
        if cells:
            lines.append(f"{sign} {text.format('; '.join(cells))}")
    return lines


def _cells_with(table: pd.DataFrame, axes: list[str], name: str) -> list[str]:
    """Return each cell that has a count, for example ``2 of 3 seeds at batch_size=8``."""
    rows = records(once(table, ["pretrain_method", *map(column, axes)]))
    return [f"{row[name]} of {row['done']} seeds at {cell_name(row, axes)}" for row in rows if row[name]]


def unfinished(frame: pd.DataFrame) -> list[str]:
    """Return the trials that failed or collapsed, with error and log, those that are running, pruned, ..., and gaps."""
    trials = once(frame, ["digest"])
    lines = []
    for state in ("failed", "collapsed"):
        rows = records(where(trials, {"status": state}))
        lines += [f"{state}: {row['name']}: {row['error']}\n  log: {row['log']}" for row in rows]
    for state in ("running", "pruned", "untested"):
        names = where(trials, {"status": state})["name"].tolist()
        if names:
            lines.append(wrap(f"{state} ({len(names)} of {len(trials)} trials): {listing(names)}"))
    done = where(frame, {"status": "done"})
    unscored = once(done.loc[done["macro_f1"].isna()], ["digest"])["name"].tolist()
    if unscored:
        lines.append(wrap(f"no macro-F1 of an arm ({len(unscored)} of {len(trials)} trials): {listing(unscored)}"))
    missing = where(trials, {"status": "missing"})["name"].tolist()
    if missing:
        lines.append(wrap(f"missing ({len(missing)} of {len(trials)} trials; run the study again): {listing(missing)}"))
    return lines
