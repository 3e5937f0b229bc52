"""What every finetuned arm said of every image: any metric, subgroup or paired test later, without a GPU."""

from __future__ import annotations

import itertools
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
TASKS = ("multi-class", "multi-label")
MULTI_LABEL = TASKS[1]
SEPARATOR = "|"
"""Between the labels of an image."""

_NO_POSITIONS = np.zeros(0, dtype=np.intp)
_TEXTS = ("arm", "split", "image", "group")
_TEXT_SCHEMA = pa.schema([(name, pa.string()) for name in _TEXTS])
COLUMNS = ("digest", "trial_id", "name", "seed", *_TEXTS, "task", "label", "predicted")
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
        digest, trial_id, name, arm, split and task (``multi-class``, ``multi-label``) as categories; seed as Int64;
        image and group (patient or lesion, the image itself where there is none) as text; label and predicted as
        categories, which begin with the classes in their order (`class_names`): the class, and that of the highest
        output; or of several labels the names of all with ``|`` between, and of those whose sigmoid exceeds a half; and
        ``logit_<class>``, the network's outputs before the sigmoid, float32, NaN for a class that a trial did not have.
        A trial without predictions has no row.

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
        "task": pd.Categorical([task for part in parts for task in [part.task] * len(part.labels)], TASKS),
        **_labels(parts, classes),
        **{f"{OUTPUT}{name}": _output(parts, name) for name in classes},
    }
    return pd.DataFrame(columns)


def class_names(predictions: pd.DataFrame) -> list[str]:
    """Return the names of the classes, in the order of the networks' outputs.

    Args:
        predictions: of `load_predictions`, or some of its rows.
    """
    return [name.removeprefix(OUTPUT) for name in predictions if str(name).startswith(OUTPUT)]


def outputs(predictions: pd.DataFrame) -> np.ndarray:
    """Return the networks' outputs before the sigmoid, float32, shape (rows, classes); arguments as in `class_names`.

    ``scipy.special.expit`` of it is what micro-F1 at 0.5 is computed from.
    """
    return predictions[[f"{OUTPUT}{name}" for name in class_names(predictions)]].to_numpy(np.float32)


def true_labels(rows: pd.DataFrame) -> np.ndarray:
    """Return the labels of one trial's rows as numbers.

    Returns:
        int64 positions in `class_names`, shape (rows,); or of several labels 1 for every one that an image has, shape
        (rows, classes).
    """
    return _numbers(rows, "label")


def predicted_labels(rows: pd.DataFrame) -> np.ndarray:
    """Return what an arm of one trial predicts, in the form of `true_labels`."""
    return _numbers(rows, "predicted")


def _numbers(rows: pd.DataFrame, column: str) -> np.ndarray:
    if MULTI_LABEL not in rows["task"].tolist():
        return rows[column].cat.codes.to_numpy(np.int64)
    names, texts = class_names(rows), rows[column].cat.categories
    known = np.array([[name in text.split(SEPARATOR) for name in names] for text in texts], dtype=np.int64)
    return known[rows[column].cat.codes.to_numpy(np.intp)]


@dataclass(frozen=True)
class _Part:
    """The predictions of one trial.

    Args:
        number: of the trial.
        table: the file's columns but the outputs.
        classes: in the order of the outputs.
        task: what is asked about each image.
        labels: names of the classes, or of several labels with ``|`` between, shape (rows,).
        predicted: the same of what the outputs say.
        outputs: float32, shape (rows, classes).
    """

    number: int
    table: pa.Table
    classes: Sequence[str]
    task: str
    labels: Sequence[str]
    predicted: Sequence[str]
    outputs: np.ndarray


def _read(opened: Opened, number: int) -> _Part | None:
    folder = opened.folder(opened.wanted[number])
    result = folder.outcome() if folder else None
    if folder is None or result is None:
        return None
    classes = result["classes"]
    try:
        table = pq.read_table(pa.BufferReader(folder.predictions.read_bytes())).combine_chunks()
        labels = table["label"].to_pylist()
        task = MULTI_LABEL if pa.types.is_list(table.schema.field("label").type) else TASKS[0]
        given = {name for label in labels for name in (label if task == MULTI_LABEL else [label])}
        if not given <= set(classes):
            raise ValueError(f"a label is none of the classes {', '.join(classes)}")
        flat = table["outputs"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        outputs = flat.reshape(len(labels), len(classes))
        if task == MULTI_LABEL:
            labels = [SEPARATOR.join(label) for label in labels]
            predicted = [SEPARATOR.join(itertools.compress(classes, row)) for row in (outputs > 0).tolist()]
        else:
            predicted = [classes[position] for position in outputs.argmax(axis=1).tolist()]
        return _Part(
            number=number,
            table=table.select(_TEXTS).cast(_TEXT_SCHEMA),
            classes=classes,
            task=task,
            labels=labels,
            predicted=predicted,
            outputs=outputs,
        )
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
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


def _labels(parts: Sequence[_Part], classes: Sequence[str]) -> dict[str, pd.Categorical]:
    """Return labels and predictions as categories: the classes first, then what images of several labels have."""
    given = {
        "label": [text for part in parts for text in part.labels],
        "predicted": [text for part in parts for text in part.predicted],
    }
    categories = pd.Index(dict.fromkeys([*classes, *given["label"], *given["predicted"]]), dtype="str")
    return {name: pd.Categorical(texts, categories) for name, texts in given.items()}


def _output(parts: Sequence[_Part], name: str) -> np.ndarray:
    found = [
        part.outputs[:, part.classes.index(name)]
        if name in part.classes
        else np.full(len(part.labels), np.nan, dtype=np.float32)
        for part in parts
    ]
    return np.concatenate([np.zeros(0, dtype=np.float32), *found])
