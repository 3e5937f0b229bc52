"""The epochs of all trials as one table: losses, learning rates and measures of collapse of every phase."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.json as pj

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
_POSITION = "position"
_NUMBERED = pa.schema([pa.field("phase", pa.int8()) if field.name == "phase" else field for field in _SCHEMA])
_EMPTY = _NUMBERED.append(pa.field(_POSITION, pa.int32())).empty_table()
_BATCH = 128
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
    stages: dict[tuple[Segment, ...], pa.Table] = {}
    tables = [_EMPTY]
    own = read_all(lambda number: _own(opened, number), range(len(opened.wanted)))
    first = 0
    for batch in iter(lambda: list(itertools.islice(own, _BATCH)), []):
        tables.append(_ordered(_with_stages(opened, batch, first, stages), opened))
        first += len(batch)
    return _frame(pa.concat_tables(tables), opened)


class _Own:
    """What lies in a trial's folder: its rows as they are, and where its pretraining is."""

    def __init__(self, rows: bytes, chain: Sequence[Segment]) -> None:
        self.rows = rows
        self.chain = tuple(chain)


def _own(opened: Opened, number: int) -> _Own:
    wanted = opened.wanted[number]
    folder = opened.folder(wanted)
    if folder is None:
        return _Own(b"", ())
    return _Own(_read(folder), segments_of(wanted.trial, folder.outcome()) or ())


def _read(folder: TrialFolder) -> bytes:
    """Return the lines of all attempts, each file's last one only if it is whole."""
    paths = sorted(folder.epochs.glob("*.jsonl")) if folder.epochs.is_dir() else []
    return b"".join(_whole_lines(path.read_bytes()) for path in paths)


def _whole_lines(content: bytes) -> bytes:
    end = content.rfind(b"\n") + 1
    return content if end == len(content) else content[:end] + (_line(content[end:]) or b"")


def _line(line: bytes) -> bytes | None:
    """Return a line with its end, or None: it is torn."""
    try:
        return line + b"\n" if isinstance(json.loads(line.decode(errors="replace")), dict) else None
    except ValueError:
        return None


def _with_stages(
    opened: Opened, batch: Sequence[_Own], first: int, stages: dict[tuple[Segment, ...], pa.Table]
) -> pa.Table:
    """Return the rows of some trials and of their pretrainings, with each trial's position."""
    own, counts = _parsed([item.rows for item in batch])
    tables, positions = [own], [np.repeat(np.arange(first, first + len(batch)), counts)]
    for position, item in enumerate(batch, first):
        if item.chain:
            if item.chain not in stages:
                stages[item.chain] = _table(rows_of(opened.results, item.chain))
            tables.append(stages[item.chain])
            positions.append(np.full(stages[item.chain].num_rows, position))
    rows = pa.concat_tables(tables)
    return rows.append_column(_POSITION, pa.array(np.concatenate(positions), pa.int32()))


def _parsed(contents: Sequence[bytes]) -> tuple[pa.Table, list[int]]:
    """Return the rows of several trials, and how many each has."""
    counts = [content.count(b"\n") for content in contents]
    options = pj.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="ignore")
    try:
        joined = b"".join(contents)
        table = pj.read_json(io.BytesIO(joined), parse_options=options) if joined else _SCHEMA.empty_table()
        if table.num_rows == sum(counts):
            return table.select(_SCHEMA.names), counts
    except pa.ArrowInvalid:  # a line is torn
        pass
    tables = [_table([json.loads(line) for line in content.splitlines() if _line(line)]) for content in contents]
    return pa.concat_tables(tables), [table.num_rows for table in tables]


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
    numbered = table.set_column(table.schema.get_field_index("phase"), "phase", pa.array(phase, pa.int8()))
    return numbered.take(order[is_last])


def _check(phase: np.ndarray, epoch: np.ndarray, position: np.ndarray, opened: Opened) -> None:
    """Raise an error where a row does not say of which phase and epoch it is."""
    wrong = np.flatnonzero((phase < 0) | (epoch < 0))
    if len(wrong):
        folder = opened.folder(opened.wanted[int(position[wrong[0]])])
        raise Damaged(
            f"A row of the trial in {folder.path if folder else 'Ray'} names no epoch, or none of the phases "
            f"{', '.join(PHASES)}. Delete the line in its epochs folder, or in that of its pretraining."
        )


def _frame(table: pa.Table, opened: Opened) -> pd.DataFrame:
    columns = naming(opened, table[_POSITION].to_numpy())
    frame = table.drop_columns([_POSITION]).to_pandas(types_mapper=_PANDAS.get, split_blocks=True)
    frame["phase"] = pd.Categorical.from_codes(frame["phase"], categories=PHASES)
    return pd.DataFrame({**columns, **{name: frame.pop(name) for name in ROW_COLUMNS}}, copy=False)
