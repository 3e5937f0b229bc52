"""The published numbers, and whether a cell of a study may stand beside one.

published.csv holds what could be seen, and leaves the rest empty. Sources: CASS (arXiv 2206.04170, 2301.12025,
2308.10064), whose full text could not be obtained, so that numbers come from abstracts, from leaderboards (Papers with
Code, hyper.ai) and from two reproductions that quote it: S0 is github.com/ShineyAji/DLH_CASS, S1 is
github.com/TonyDeng1997/CASS_UIUC598DLH. The authors' logs are the stored outputs of github.com/pranavsinghps1/CASS;
DEDL is another repository of the same authors. The paper's F1 is taken as what its code computes: micro-F1 of the
sigmoids at 0.5. The networks of a time of CASS are those of the same source's F1. `certainty` says primary (read at its
source), secondary (quoted by another), derived or void.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.frames import plain
from cass_tune.config import ARMS
from cass_tune.errors import UsageError, did_you_mean

Row = dict[str, Any]

METRIC = "micro_f1_at_half"
"""The only published score that stands beside a study's numbers."""
PRETRAIN_TIME = "pretrain_hours"
"""The published time that does, whatever device it was measured on: few sources name it."""

CELL_COLUMNS = (
    *("arm", "model", "pretrain_cnn", "pretrain_vit", "weights", "listed_train", "listed_validation", "listed_test"),
    *("data_name", "data_image_size_px", "data_label_fraction", "data_pretrain_fraction"),
    *("pretrain_method", "pretrain_epochs", "pretrain_batch_size", "finetune_epochs"),
)
"""The columns of `analysis.results.load` that decide what is comparable."""

CODED_FINETUNE_EPOCHS = 50
"""`CASS.ipynb`, cells 27 and 28, of the authors' repository."""

_INTEGERS = ("n_train", "n_test", "image_size_px", "pretrain_batch_size", "pretrain_epochs", "finetune_epochs")
_FLOATS = ("label_fraction", "value", "low", "high")
_UNKNOWN = (None, "unknown", "unspecified", "both")
_METHODS = {"none": "supervised"}


@dataclass(frozen=True)
class Difference:
    """One thing in which a cell and a published row differ.

    Args:
        what: the thing, in words.
        here: its value in this study.
        there: its published value.
    """

    what: str
    here: str
    there: str


@dataclass(frozen=True)
class Match:
    """A published row laid beside a cell.

    Args:
        row: the published row.
        differences: in what they differ; with none of them the two are comparable.
        not_stated: what the source does not say, which counts as no difference.
    """

    row: Row
    differences: tuple[Difference, ...]
    not_stated: tuple[str, ...]

    @property
    def is_comparable(self) -> bool:
        return not self.differences


@functools.cache
def read() -> tuple[Row, ...]:
    """Return every published row; what is not known is None."""
    with Path(__file__).with_name("published.csv").open(newline="", encoding="utf-8") as stream:
        return tuple(_typed(row) for row in csv.DictReader(stream))


def _typed(row: Mapping[str, str]) -> Row:
    def value(name: str, text: str) -> Any:
        if not text:
            return None
        return int(text) if name in _INTEGERS else float(text) if name in _FLOATS else text

    return {name: value(name, text) for name, text in row.items()}


def select(wanted: Mapping[str, object]) -> list[Row]:
    """Return the published rows that a study names, for example ``{"dataset": "brain_mri", "origin": "paper"}``.

    Args:
        wanted: value, or list of values, by column; a column that is not named may have any. Nothing at all names no
            row: the study has no published counterpart.

    Raises:
        UsageError: there is no such column.
    """
    unknown = [name for name in wanted if name not in read()[0]]
    if unknown:
        raise UsageError(
            *(f"No column {name!r} in the published numbers.{did_you_mean(name, read()[0])}" for name in unknown)
        )
    return [row for row in read() if wanted and all(_is_one_of(row[name], want) for name, want in wanted.items())]


def _is_one_of(value: object, wanted: object) -> bool:
    return value in wanted if isinstance(wanted, list | tuple | set | frozenset) else value == wanted


def match(cell: Mapping[str, Any], rows: Iterable[Row] | None = None) -> list[Match]:
    """Return each published row with what keeps it from being comparable with a cell.

    Args:
        cell: a row of `analysis.results.load`, or a mapping with its columns.
        rows: published rows; all of them by default.
    """
    known = {name: plain(cell[name]) for name in CELL_COLUMNS}
    return [_compare(known, row) for row in (read() if rows is None else rows)]


def _compare(cell: Mapping[str, Any], row: Row) -> Match:
    pairs = _pairs(cell, row)
    differences = [
        Difference(what, _text(here), _text(there))
        for what, (here, there) in pairs.items()
        if there not in _UNKNOWN and here != there
    ]
    not_stated = [what for what, (_, there) in pairs.items() if there in _UNKNOWN]
    return Match(row, tuple(differences), tuple(not_stated))


def _pairs(cell: Mapping[str, Any], row: Row) -> dict[str, tuple[object, object]]:
    """Return (here, there) of everything that must agree."""
    method = str(cell["pretrain_method"])
    return {
        "metric": (row["metric"] if row["metric"] == PRETRAIN_TIME else METRIC, row["metric"]),
        "data": (cell["data_name"], row["dataset"]),
        "training images": (cell["listed_train"] + cell["listed_validation"], row["n_train"]),
        "test images": (cell["listed_test"], row["n_test"]),
        "arm": (cell["arm"], row["arm"]),
        "network": (_network(cell, row), row["model"]),
        "starting weights": (weights_kind(cell["weights"]), row["weights"]),
        "image size in px": (cell["data_image_size_px"], row["image_size_px"]),
        "method": (_METHODS.get(method, method.upper()), row["method"]),
        "pretraining epochs": (cell["pretrain_epochs"], row["pretrain_epochs"]),
        "pretraining batch size": (cell["pretrain_batch_size"], row["pretrain_batch_size"]),
        "share of the images pretrained on": (cell["data_pretrain_fraction"] or 1.0, 1.0),
        "finetuning epochs": (cell["finetune_epochs"], row["finetune_epochs"]),
        "finetuning epochs of the released code": (cell["finetune_epochs"], _coded_epochs(cell, row)),
        "label fraction": (cell["data_label_fraction"], row["label_fraction"]),
    }


def _network(cell: Mapping[str, Any], row: Row) -> str:
    """Return the cell's network, or those of both arms where the row speaks of both."""
    names = [cell[f"pretrain_{arm}"] for arm in ARMS] if row["arm"] == "both" else [cell["model"]]
    return " + ".join(map(architecture, names))


def _coded_epochs(cell: Mapping[str, Any], row: Row) -> object:
    """The released code finetunes for 50 epochs: what a paper's row of CASS is held to when it does not say."""
    is_silent = row["origin"] == "paper" and row["method"] == "CASS" and row["finetune_epochs"] in _UNKNOWN
    return CODED_FINETUNE_EPOCHS if is_silent else cell["finetune_epochs"]


def architecture(model: str) -> str:
    """Return a timm name without its tag."""
    return model.partition(".")[0]


def weights_kind(weights: str) -> str:
    """Return where starting weights come from: ``imagenet``, ``random``, another timm tag, or ``own file``."""
    source, _, tag = weights.partition(":")
    if source == "timm":
        return "imagenet" if any(name in tag for name in ("in1k", "in12k", "in21k", "in22k")) else tag
    return "own file" if source == "sha256" else weights


def _text(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def describe(row: Row) -> str:
    """Return a published row's setting in a few words, for example ``CASS resnet50, batch 16, 100 epochs``."""
    parts = [" ".join(str(row[name]) for name in ("method", "model") if row[name])]
    parts += [f"batch {row['pretrain_batch_size']}"] if row["pretrain_batch_size"] else []
    parts += [f"{row['pretrain_epochs']} epochs"] if row["pretrain_epochs"] else []
    parts += [f"{row['label_fraction'] * 100:g} % labels"] if row["label_fraction"] else []
    return ", ".join(parts)
