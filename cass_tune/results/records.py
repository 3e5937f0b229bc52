"""Records and how they are named and read."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Collection, Iterator
from typing import Any

from cass_tune.errors import Damaged
from cass_tune.storage import AnyPath, read_json

Record = dict[str, Any]


def new_attempt() -> str:
    """Return a name for one run of one part; names sort by time."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%f")
    return f"{now}-{uuid.uuid4().hex[:6]}"


def now() -> str:
    """Return the time in UTC, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def read_rows(folder: AnyPath) -> list[Record]:
    """Return the epoch rows of all attempts: of a repeated epoch the last attempt's, a torn line is left out."""
    rows: dict[tuple[str, int], Record] = {}
    if not folder.is_dir():
        return []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            rows[row["phase"], row["epoch"]] = row
    return list(rows.values())


def files(folder: AnyPath, leave_out: Collection[str] = ()) -> Iterator[AnyPath]:
    """Yield the files below a folder in order of their names, without hidden ones and tensors."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else ():
        if path.name in leave_out or path.name.startswith(".") or path.suffix == ".safetensors":
            continue
        if path.is_dir():
            yield from files(path)
        else:
            yield path


def whole(path: AnyPath, *keys: str) -> Record | None:
    """Return a record with these keys, or None: it is not there, or damaged."""
    try:
        record = read_json(path)
    except Damaged:
        return None
    return record if isinstance(record, dict) and record.keys() >= {*keys} else None
