"""The epochs of all trials as one table: losses, learning rates and measures of collapse of every phase."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.json as pj

from analysis.plans import Wanted
from analysis.segments import segments_of
from analysis.sources import Opened, Source, naming, open_source, read_all
from cass_tune.errors import Damaged
from cass_tune.identity import Segment
from cass_tune.results import Record, TrialFolder
from cass_tune.sharing import rows_of
from cass_tune.training.rows import COLUMNS as ROW_COLUMNS
from cass_tune.training.rows import PHASES

_TYPES = {
    "phase": pa.string(),
    **dict.fromkeys(("epoch", "epochs"), pa.int64()),
    **dict.fromkeys(("collapsed", "reused"), pa.bool_()),
}
_SCHEMA = pa.schema([(name, _TYPES.get(name, pa.float64())) for name in ROW_COLUMNS])
_PANDAS = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
_NO_OBJECT = re.compile(rb"\n[^{]")
_POSITION = "position"
_NUMBERED = pa.schema([pa.field("phase", pa.int8()) if field.name == "phase" else field for field in _SCHEMA])
_EMPTY = _NUMBERED.append(pa.field(_POSITION, pa.int32())).empty_table()
PARSERS = 2
"""Threads that parse rows, which pyarrow does without Python."""
_BATCH = 32
"""Trials whose rows are parsed at once."""

COLUMNS = ("digest", "trial_id", "name", "seed", *ROW_COLUMNS)
"""The columns of the table; see `cass_tune.training.rows` for those of a row."""


def load_epochs(source: Source) -> pd.DataFrame:
    """Return one row per trial, phase and epoch, of whatever is recorded so far.

    A trial's pretraining stands with the trial, also where others share it; of an epoch that was computed several times
    the last counts, and lines that a killed process left torn are left out.

    Args:
        source: as in `analysis.results.load`.

    Returns:
        digest, trial_id, name, phase (pretrain, finetune_cnn, finetune_vit) as categories; seed, epoch (from 1) and
        epochs (planned) as Int64; collapsed and reused (it comes from the store of shared pretrainings) as boolean; and
        the other columns of a row as float64, NaN where a phase has no such number. Trials in order, their phases and
        epochs ascending.

    Raises:
        UsageError: as in `analysis.results.load`.
    """
    opened = open_source(source)
    stage = functools.cache(lambda segments: _table(rows_of(opened.results, segments)))
    batches = range(0, len(opened.wanted), _BATCH)
    return _frame(read_all(opened, lambda first: _batch(opened, first, stage), batches, PARSERS), opened)


def _batch(opened: Opened, first: int, stage: Callable[[tuple[Segment, ...]], pa.Table]) -> pa.Table:
    """Return the rows of some trials and of their pretrainings, with each trial's position, in order.

    Args:
        opened: all trials.
        first: position of the first of them.
        stage: returns the rows of a pretraining.
    """
    found = [_own(opened, wanted) for wanted in opened.wanted[first : first + _BATCH]]
    own, counts = _parsed([content for content, _ in found])
    tables, lengths, positions = [own], [*counts], [*range(first, first + len(found))]
    for position, (_, segments) in enumerate(found, first):
        if segments:
            tables.append(stage(segments))
            lengths.append(tables[-1].num_rows)
            positions.append(position)
    numbers = np.repeat(np.array(positions, dtype=np.int32), lengths)
    return _ordered(pa.concat_tables(tables).append_column(_POSITION, pa.array(numbers)), opened)


def _own(opened: Opened, wanted: Wanted) -> tuple[bytes, tuple[Segment, ...]]:
    """Return the rows in a trial's folder as they are, and where its pretraining is stored."""
    folder = opened.folder(wanted)
    if folder is None:
        return b"", ()
    return _read(folder), tuple(segments_of(wanted.trial, folder.outcome()) or ())


def _read(folder: TrialFolder) -> bytes:
    """Return the lines of all attempts; a last one that is whole gets the end that it lacks."""
    paths = sorted(folder.epochs.glob("*.jsonl")) if folder.epochs.is_dir() else []
    return b"".join([_whole_lines(path.read_bytes()) for path in paths])


def _whole_lines(content: bytes) -> bytes:
    end = content.rfind(b"\n") + 1
    return content if end == len(content) or _row(content[end:]) is None else content + b"\n"


def _row(line: bytes) -> Record | None:
    """Return the row in a line, or None: it is torn."""
    try:
        row = json.loads(line.decode(errors="replace"))
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _parsed(contents: Sequence[bytes]) -> tuple[pa.Table, list[int]]:
    """Return the rows of several trials, and how many each has."""
    counts = [content.count(b"\n") for content in contents]
    if all(map(_may_be_rows, contents)) and any(contents):
        reading = pj.ReadOptions(use_threads=False)  # several batches are parsed at once
        parsing = pj.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="ignore")
        with suppress(pa.ArrowInvalid):  # a line is torn
            table = pj.read_json(pa.BufferReader(b"".join(contents)), reading, parsing)
            if table.num_rows == sum(counts):
                return table.select(_SCHEMA.names), counts
    rows = [[row for line in content.split(b"\n") for row in [_row(line)] if row] for content in contents]
    return _table(list(chain.from_iterable(rows))), list(map(len, rows))


def _may_be_rows(content: bytes) -> bool:
    """Return whether every line begins as an object: others, such as ``null``, make pyarrow's parser crash."""
    return not content or (content.startswith(b"{") and content.endswith(b"\n") and not _NO_OBJECT.search(content))


def _table(rows: Sequence[Record]) -> pa.Table:
    try:
        return pa.Table.from_pylist(list(rows), schema=_SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise Damaged(f"An epoch's row is damaged: {error}. Delete the line.") from error


def _ordered(table: pa.Table, opened: Opened) -> pa.Table:
    """Return the last row of every trial, phase and epoch, in order; the phase becomes its number in `PHASES`."""
    names = table["phase"].combine_chunks().dictionary_encode()
    known = {name: number for number, name in enumerate(PHASES)}
    numbers = np.array([*(known.get(name, -1) for name in names.dictionary.to_pylist()), -1], dtype=np.int8)
    phase = numbers[names.indices.fill_null(len(numbers) - 1).to_numpy()]
    epoch, position = table["epoch"].fill_null(-1).to_numpy(), table[_POSITION].to_numpy()
    _check(phase, epoch, position, opened)
    order = np.lexsort([epoch, phase, position])
    keys = np.stack([position, phase, epoch])[:, order]
    is_last = np.append((keys[:, 1:] != keys[:, :-1]).any(axis=0), True)[: len(order)]
    numbered = table.set_column(table.schema.get_field_index("phase"), "phase", pa.array(phase))
    is_so = is_last.all() and (order[1:] > order[:-1]).all()
    return numbered if is_so else numbered.take(order[is_last])


def _check(phase: np.ndarray, epoch: np.ndarray, position: np.ndarray, opened: Opened) -> None:
    """Raise an error where a row does not say of which phase and epoch it is."""
    wrong = np.flatnonzero((phase < 0) | (epoch < 0))
    if len(wrong):
        folder = opened.folder(opened.wanted[int(position[wrong[0]])])
        raise Damaged(
            f"A row of the trial in {folder.path if folder else 'Ray'} names no epoch, or none of the phases "
            f"{', '.join(PHASES)}. Delete the line in its epochs folder, or in that of its pretraining."
        )


def _frame(tables: Iterable[pa.Table], opened: Opened) -> pd.DataFrame:
    table = pa.concat_tables([_EMPTY, *tables])
    positions = table[_POSITION].to_numpy()
    rows = table.drop_columns([_POSITION])
    del table, tables  # so that each column can go when it is converted
    frame = rows.to_pandas(types_mapper=_PANDAS.get, split_blocks=True, self_destruct=True)
    del rows
    frame["phase"] = pd.Categorical.from_codes(frame["phase"], categories=PHASES)
    return pd.DataFrame({**naming(opened, positions), **{name: frame.pop(name) for name in ROW_COLUMNS}}, copy=False)
