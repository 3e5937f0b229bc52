"""What every finetuned arm said of every image: any metric, subgroup or paired test later, without a GPU."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.sources import Opened, Source, naming, open_source, read_all
from cass_tune.errors import Damaged

OUTPUT = "logit_"
"""Before the name of a class in a column."""

_NO_POSITIONS = np.zeros(0, dtype=np.intp)
_TEXTS = ("arm", "split", "image", "group")
_TEXT_SCHEMA = pa.schema([(name, pa.string()) for name in _TEXTS])
COLUMNS = ("digest", "trial_id", "name", "seed", *_TEXTS, "label", "predicted")
"""The columns before those of the outputs."""


def load_predictions(
    source: Source, only: Collection[str] | None = None, *, leave_out_damaged: bool = False
) -> pd.DataFrame:
    """Return one row per finished trial, arm, part of the data (validation, test) and image.

    Args:
        source: as in `analysis.results.load`.
        only: identities of the trials that are read; all by default.
        leave_out_damaged: take a trial whose predictions are damaged for one without any.

    Returns:
        digest, trial_id, name, arm and split as categories; seed as Int64; image and group (patient or lesion, the
        image itself where there is none) as text; label and predicted (the class of the highest output) as categories
        whose order is that of the classes (`class_names`); and ``logit_<class>``, the network's outputs before the
        sigmoid, float32, NaN for a class that a trial did not have. A trial without predictions has no row.

    Raises:
        UsageError: as in `analysis.results.load`; or predictions are damaged, unless they are left out.
    """
    read = _readable if leave_out_damaged else _read
    opened = open_source(source)
    numbers = [n for n, wanted in enumerate(opened.wanted) if only is None or wanted.trial["digest"] in only]
    parts = [part for part in read_all(opened, lambda number: read(opened, number), numbers) if part]
    classes = list(dict.fromkeys(name for part in parts for name in part.classes))
    positions = [np.full(len(part.labels), part.number) for part in parts]
    columns = {
        **naming(opened, np.concatenate([_NO_POSITIONS, *positions])),
        **{name: _texts(parts, name) for name in _TEXTS},
        "label": _categories([part.labels for part in parts], parts, classes),
        "predicted": _categories([part.outputs.argmax(axis=1) for part in parts], parts, classes),
        **{f"{OUTPUT}{name}": _output(parts, name) for name in classes},
    }
    return pd.DataFrame(columns)


def class_names(predictions: pd.DataFrame) -> list[str]:
    """Return the names of the classes, in the order of the networks' outputs.

    Args:
        predictions: of `load_predictions`, or some of its rows.
    """
    return predictions["label"].cat.categories.tolist()


def outputs(predictions: pd.DataFrame) -> np.ndarray:
    """Return the networks' outputs before the sigmoid, float32, shape (rows, classes); arguments as in `class_names`.

    ``scipy.special.expit`` of it is what micro-F1 at 0.5 is computed from.
    """
    return predictions[[f"{OUTPUT}{name}" for name in class_names(predictions)]].to_numpy(np.float32)


@dataclass(frozen=True)
class _Part:
    """The predictions of one trial.

    Args:
        number: of the trial.
        table: the file's columns but the outputs.
        classes: in the order of the outputs.
        labels: positions of the classes, shape (rows,).
        outputs: float32, shape (rows, classes).
    """

    number: int
    table: pa.Table
    classes: Sequence[str]
    labels: np.ndarray
    outputs: np.ndarray


def _read(opened: Opened, number: int) -> _Part | None:
    folder = opened.folder(opened.wanted[number])
    result = folder.outcome() if folder else None
    if folder is None or result is None:
        return None
    classes = result["classes"]
    try:
        table = pq.read_table(pa.BufferReader(folder.predictions.read_bytes())).combine_chunks()
        labels = pd.Index(classes).get_indexer(table["label"].to_pandas())
        if (labels < 0).any():
            raise ValueError(f"a label is none of the classes {', '.join(classes)}")
        flat = table["outputs"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        return _Part(
            number, table.select(_TEXTS).cast(_TEXT_SCHEMA), classes, labels, flat.reshape(len(labels), len(classes))
        )
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise Damaged(
            f"{folder.predictions} is damaged: {error}. Delete it to go on without this trial's predictions, or "
            "compute the study again with --redo all."
        ) from error


def _readable(opened: Opened, number: int) -> _Part | None:
    with suppress(Damaged):
        return _read(opened, number)
    return None


def _texts(parts: Sequence[_Part], name: str) -> pd.Series:
    chunks = [chunk for part in parts for chunk in part.table[name].chunks]
    series = pa.chunked_array(chunks, pa.string()).to_pandas().astype("str")
    return series.astype("category") if name in ("arm", "split") else series


def _categories(positions: Sequence[np.ndarray], parts: Sequence[_Part], classes: Sequence[str]) -> pd.Categorical:
    """Return positions within each trial's classes as classes of all trials."""
    of_trial = [pd.Index(classes).get_indexer(pd.Index(part.classes)) for part in parts]
    codes = [index[position] for index, position in zip(of_trial, positions, strict=True)]
    categories = pd.Index(classes, dtype="str")
    return pd.Categorical.from_codes(np.concatenate([_NO_POSITIONS, *codes]), categories)


def _output(parts: Sequence[_Part], name: str) -> np.ndarray:
    found = [
        part.outputs[:, part.classes.index(name)]
        if name in part.classes
        else np.full(len(part.labels), np.nan, dtype=np.float32)
        for part in parts
    ]
    return np.concatenate([np.zeros(0, dtype=np.float32), *found])
