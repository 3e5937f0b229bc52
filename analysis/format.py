"""Words and plain text tables."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from analysis.cells import STATES, estimate_of, state_text
from analysis.frames import Values, plain, records
from analysis.results import column
from analysis.statistics import Estimate
from cass_tune.config import PROBES

WIDTH = 120
"""Columns of a terminal that the text is made for."""

_SHORT = {
    "data.image_size_px": "px",
    "data.label_fraction": "labels",
    "data.pretrain_fraction": "images",
    "pretrain.method": "method",
    "pretrain.batch_size": "batch",
    "pretrain.epochs": "epochs",
    "pretrain.learning_rate": "rate",
    "finetune.epochs": "ft epochs",
    "finetune.batch_size": "ft batch",
    "finetune.learning_rate": "ft rate",
}
_LONG = {
    "data.image_size_px": "Image size (pixels)",
    "data.label_fraction": "Share of the training labels",
    "data.pretrain_fraction": "Share of the training images used in pretraining",
    "pretrain.method": "Pretraining method",
    "pretrain.cnn": "CNN",
    "pretrain.vit": "ViT",
    "pretrain.batch_size": "Pretraining batch size (images)",
    "pretrain.epochs": "Pretraining length (epochs)",
    "pretrain.learning_rate": "Highest pretraining learning rate",
    "pretrain.schedule_t_max_steps": "Half period of the pretraining schedule (steps)",
    "finetune.epochs": "Finetuning length (epochs)",
    "finetune.batch_size": "Finetuning batch size (images)",
    "finetune.learning_rate": "Highest finetuning learning rate",
}
_PROBE_NAMES = {"linear": "linear", "knn": "kNN"}
_UNITS = ((5400, 3600, "h"), (90, 60, "min"), (0, 1, "s"))
_FRACTIONS = ("data_label_fraction", "data_pretrain_fraction")


def short_name(axis: str) -> str:
    """Return the header of an axis, for example ``batch``."""
    return _SHORT.get(axis, axis.partition(".")[2])


def long_name(axis: str) -> str:
    """Return the label of an axis with its unit, for example ``Pretraining batch size (images)``."""
    return _LONG.get(axis, axis.replace(".", " ").replace("_", " ").capitalize())


def setting(name: str, value: Any) -> str:
    """Return a column's value as text, ``-`` where it does not matter."""
    if value is None:
        return "-"
    if name in _FRACTIONS:
        return f"{value * 100:g} %"
    return f"{value:g}" if isinstance(value, float) else str(value)


def p_text(p: float | None) -> str:
    """Return a p value as text: ``0.031``, ``<0.001``, and ``-`` without a test."""
    return "-" if p is None else "<0.001" if p < 0.0005 else f"{p:.3f}"


def duration(seconds: float | None) -> str:
    """Return a time in a readable unit, for example ``42 s``, ``3.2 min`` or ``-7.2 h``; ``-`` when it is unknown."""
    if seconds is None:
        return "-"
    size, unit = time_unit(seconds)
    value = seconds / size
    return f"{value:.0f} {unit}" if abs(value) >= 10 else f"{value:.1f} {unit}"


def time_unit(seconds: float) -> tuple[int, str]:
    """Return the size of a readable unit in seconds, and its name."""
    return next((size, unit) for least, size, unit in _UNITS if abs(seconds) >= least)


def duration_estimate(estimate: Estimate, *, is_short: bool) -> str:
    """Return for example ``7.2 +-0.1 h`` or ``7.2 [7.1, 7.3] h``, with one seed ``7.2 h (n=1)``, and ``-`` without any.

    Args:
        estimate: of seconds.
        is_short: half the width of the interval instead of its ends.
    """
    if estimate.n == 0:
        return "-"
    size, unit = time_unit(estimate.mean)
    mean, low, high, half = (
        f"{seconds / size:.{1 if estimate.mean >= 1 else 2}f}"
        for seconds in (estimate.mean, estimate.low, estimate.high, estimate.half_width)
    )
    if estimate.n == 1:
        return f"{mean} {unit} (n=1)" if is_short else f"{mean} {unit} (n=1, no interval)"
    return f"{mean} +-{half} {unit}" if is_short else f"{mean} [{low}, {high}] {unit}"


def listing(words: Iterable[str], most: int = 12) -> str:
    """Return words separated by commas, at most so many of them."""
    words = list(words)
    rest = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + rest


def wrap(text: str, indent: str = "  ") -> str:
    """Break a long line, its continuation indented; paths stay whole."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def has_published(table: pd.DataFrame) -> bool:
    """Return whether any row of an F1 table has a published value beside it."""
    return any(value is not None for value in map(plain, table["published_value"]))


def shown_probes(table: pd.DataFrame) -> list[str]:
    """Return the probes that any row of an F1 table has a number of."""
    return [probe for probe in PROBES if sum(table[f"{probe}_macro_f1_n"].tolist())]


def text_rows(table: pd.DataFrame, axes: list[str], *, is_narrow: bool) -> list[list[str]]:
    """Return an F1 table as text: the headers, then a row per cell and arm.

    Args:
        table: what `analysis.cells.f1_table` returned.
        axes: the study's axes.
        is_narrow: short forms for a terminal, instead of full intervals, models and counts; where there are probes,
            they take the place of the time, which has a table of its own.
    """
    columns = [axis for axis in axes if axis != "pretrain.method"]
    with_published = has_published(table)
    headers = ["arm", "method", *map(short_name, columns), *([] if is_narrow else ["model"])]
    probes = shown_probes(table)
    headers += ["macro-F1", "control", "difference", "micro-F1"] + ["publ."] * with_published
    headers += [_PROBE_NAMES[probe] for probe in probes]
    headers += [*(["time"] * (not probes) if is_narrow else ["pretraining", "finetuning"]), "state"]
    return [headers, *(_row(row, columns, probes, is_narrow, with_published) for row in records(table))]


def _row(row: Values, axes: list[str], probes: list[str], is_narrow: bool, with_published: bool) -> list[str]:
    def estimate(name: str, signed: bool = False) -> str:
        found = estimate_of(row, name)
        if is_narrow:
            wants_n = 1 < found.n < row["done"]
            return found.short(signed) + (f" n={found.n}" if wants_n else "")
        return found.text(signed) + (f" n={found.n}" if found.n > 1 else "")

    times = [duration(row[f"{part}_seconds"]) for part in ("pretrain", "finetune")]
    if is_narrow:
        times = [] if probes else [" + ".join(text for text in times if text != "-") or "-"]
    settings = [setting(column(axis), row[column(axis)]) for axis in axes]
    published = [] if row["published_value"] is None else [f"{row['published_value']:.4g}"]
    return [
        row["arm"],
        row["pretrain_method"],
        *settings,
        *([] if is_narrow else [row["model"]]),
        estimate("macro_f1") + signs(row) if row["done"] else absent(row),
        estimate("control_macro_f1"),
        estimate("difference", signed=True),
        estimate("micro_f1_at_half"),
        *((published or ["-"]) if with_published else []),
        *(_probe_text(row, probe, is_narrow) for probe in probes),
        *times,
        state_text(row),
    ]


def score_text(row: Values, name: str) -> str:
    """Return a score of a row of an F1 table in short, with its signs, or why there is none."""
    if not row["done"]:
        return absent(row)
    found = estimate_of(row, name)
    return found.short() + (f" n={found.n}" if 1 < found.n < row["done"] else "") + signs(row)


def signs(row: Values) -> str:
    """Return ``*`` where outputs collapsed and ``#`` where devices of more than one kind worked."""
    return "*" * bool(row["outputs_collapsed"]) + "#" * bool(row["crossed_devices"])


def _probe_text(row: Values, probe: str, is_narrow: bool) -> str:
    """Return a probe's macro-F1 over the seeds that have it, in narrow tables its mean alone, or ``missing``."""
    found = estimate_of(row, f"{probe}_macro_f1")
    if found.n == 0:
        return "missing"
    if not is_narrow:
        return found.text() + (f" n={found.n}" if found.n > 1 else "")
    return f"{found.mean:.3f}" + (f" n={found.n}" if found.n != row["trials"] else "")


def absent(row: Values) -> str:
    """Return why a cell has no number: ``failed``, ``running``, ``missing`` or ``collapsed``."""
    return next(state for state in STATES if row[state])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as columns of plain text, the first row ruled off."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
