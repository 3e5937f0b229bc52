"""Two records of one trial laid side by side: all in them that must be the same, bit for bit, when it is run again.

Times, speeds and memory are left out: they are the machine's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from cass_tune.config import ARMS
from cass_tune.identity import Segment
from cass_tune.results import Record, Results, TrialFolder
from cass_tune.sharing import rows_of
from cass_tune.storage import AnyPath, local_copy

_OF_A_RUN = (
    *("images_per_second", "seconds", "peak_memory_gib", "utilisation"),
    *("reused", "epochs", "cnn_knn_macro_f1", "vit_knn_macro_f1"),
)
"""Columns of an epoch's row that may differ from run to run: a shared pretraining may be asked for more epochs, and
probes on the way (`--probe-every`) are an option of the run."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One kind of record of a trial, compared.

    Args:
        name: what was compared, for example ``epochs: finetune_cnn``.
        compared: how many values are in it.
        differs: what differs first, in words; empty: nothing.
    """

    name: str
    compared: int
    differs: str = ""


def compare(
    earlier: TrialFolder, results: Results, again: TrialFolder, results_again: Results, segments: Sequence[Segment]
) -> list[Part]:
    """Return every part of a finished trial's records beside that of a second run, in the order of the work.

    Args:
        earlier: the trial.
        results: root of all its records.
        again: the same trial, run again.
        results_again: root of all records of that.
        segments: of its pretraining.
    """
    rows, rows_again = (
        [*rows_of(root, segments), *folder.rows()] for root, folder in ((results, earlier), (results_again, again))
    )
    result, result_again = earlier.result() or {}, again.result() or {}
    return [
        *_epochs(rows, rows_again),
        *(_metrics(arm, result["arms"][arm], result_again["arms"][arm]) for arm in ARMS),
        *_probes(earlier.probes(), again.probes()),
        _predictions(earlier.predictions, again.predictions),
        *(part for arm in ARMS for part in _weights(arm, earlier.weights(arm), again.weights(arm))),
    ]


def _epochs(rows: Sequence[Record], again: Sequence[Record]) -> Iterator[Part]:
    """Yield the rows of every phase; those of a pretraining whose end is gone may be missing in the earlier run."""
    there = {(row["phase"], row["epoch"]): row for row in again}
    for phase in dict.fromkeys(row["phase"] for row in rows):
        own = [row for row in rows if row["phase"] == phase]
        pairs = [(row["epoch"], row, there.get((phase, row["epoch"]), {})) for row in own]
        first = next(filter(None, (_row_difference(*pair) for pair in pairs)), "")
        yield Part(name=f"epochs: {phase}", compared=sum(map(len, map(_kept, own))), differs=first)


def _kept(row: Mapping[str, Any]) -> Record:
    return {name: value for name, value in row.items() if name not in _OF_A_RUN}


def _row_difference(epoch: int, row: Record, again: Record) -> str:
    if not again:
        return f"epoch {epoch} was not run again"
    for name, value in _kept(row).items():
        if name not in again:
            return f"from epoch {epoch} on: {name} is missing now"
        if value != again[name]:
            return f"from epoch {epoch} on: {name} {_values(value, again[name])}"
    return ""


def _values(earlier: Any, again: Any) -> str:
    numbers = [value for value in (earlier, again) if isinstance(value, int | float) and not isinstance(value, bool)]
    by = f" (by {abs(earlier - again):.3g})" if len(numbers) == 2 and all(map(math.isfinite, numbers)) else ""
    return f"was {earlier}, is now {again}{by}"


def _flat(record: Any, name: str = "") -> Record:
    """Return a nested record as one of values by dotted name."""
    if not isinstance(record, Mapping):
        return {name: record}
    return {path: value for key, item in record.items() for path, value in _flat(item, f"{name}.{key}").items()}


def _metrics(arm: str, earlier: Record, again: Record) -> Part:
    return _record(f"result: {arm}", earlier, again)


def _record(name: str, earlier: Record, again: Record, leave_out: str = "") -> Part:
    flat, flat_again = _flat(earlier), _flat(again)
    names = [key for key in flat if not leave_out or not key.endswith(leave_out)]
    different = [key for key in names if key in flat_again and flat[key] != flat_again[key]]
    lost = [key for key in names if key not in flat_again]
    text = f"{different[0].lstrip('.')} {_values(flat[different[0]], flat_again[different[0]])}" if different else ""
    more = f"; {len(different) - 1} more differ" if len(different) > 1 else ""
    gone = f"{lost[0].lstrip('.')} is missing now" if lost and not different else ""
    return Part(name=name, compared=len(names), differs=text + more + gone)


def _probes(earlier: Record | None, again: Record | None) -> Iterator[Part]:
    if earlier:
        for arm, found in earlier["arms"].items():
            yield _record(f"probes: {arm}", found, (again or {"arms": {}})["arms"].get(arm, {}), leave_out=".seconds")


def _predictions(earlier: AnyPath, again: AnyPath) -> Part:
    tables = [_table(path) for path in (earlier, again)]
    if any(table is None for table in tables):
        return Part(name="predictions", compared=0, differs="not there in both runs")
    (keys, outputs), (keys_again, outputs_again) = tables[0], tables[1]  # type: ignore[misc]
    text = ""
    if keys != keys_again or outputs.shape != outputs_again.shape:
        text = "other images, labels or parts"
    elif not np.array_equal(outputs, outputs_again, equal_nan=True):
        is_other = (outputs != outputs_again) & ~(np.isnan(outputs) & np.isnan(outputs_again))
        worst, count = float(np.abs(outputs - outputs_again)[is_other].max()), int(is_other.any(axis=1).sum())
        text = f"outputs of {count} of {len(outputs)} rows, by at most {worst:.3g}"
    return Part(name="predictions", compared=outputs.size, differs=text)


def _table(path: AnyPath) -> tuple[list[Any], np.ndarray] | None:
    if not path.exists():
        return None
    with local_copy(path) as local:
        table = pq.read_table(local)
    outputs = np.array(table.column("outputs").to_pylist(), dtype=np.float32)
    return table.drop_columns(["outputs"]).to_pylist(), outputs


def _weights(arm: str, earlier: AnyPath, again: AnyPath) -> Iterator[Part]:
    """Yield the finetuned weights, where they were kept: their tensors, whatever the order of the file."""
    if not earlier.exists():
        return
    tensors, tensors_again = (_tensors(path) if path.exists() else {} for path in (earlier, again))
    different = [name for name in tensors if not _are_same(tensors[name], tensors_again.get(name))]
    text = f"{len(different)} of {len(tensors)} tensors, {different[0]} first" if different else ""
    yield Part(name=f"weights: {arm}", compared=sum(tensor.size for tensor in tensors.values()), differs=text)


def _tensors(path: AnyPath) -> dict[str, np.ndarray]:
    with local_copy(path) as local:
        return load_file(local)


def _are_same(earlier: np.ndarray, again: np.ndarray | None) -> bool:
    return again is not None and earlier.dtype == again.dtype and earlier.tobytes() == again.tobytes()
