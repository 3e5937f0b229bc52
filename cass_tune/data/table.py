"""A CSV table of image paths and labels, with columns for the parts and the patients where there are any.

An image has one class, in a column of names, or several labels, each in a column of 0 and 1.
"""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cass_tune.config import Data, flag
from cass_tune.data.collect import Candidate, Found, collect, data_root
from cass_tune.data.index import Progress, no_progress
from cass_tune.data.listing import Listing, Split
from cass_tune.data.task import SEPARATOR, Label
from cass_tune.data.wording import PART_NAMES, counted, listed, part_called, part_words
from cass_tune.errors import UsageError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One row: its last line in the file (the header is line 1), and its cells without surrounding blanks.

    Of several labels, `values` has their cells in the order of `_label_names`, and `label` is not looked at.
    """

    line: int
    path: str
    label: str
    values: tuple[str, ...]
    split: str | None
    group: str | None


def csv_listing(data: Data, progress: Progress = no_progress) -> Listing:
    """List the images of a CSV table.

    Where the table has no column of parts, a test part of whole groups is drawn.

    Raises:
        UsageError: the table, a row or an image is missing or wrong.
    """
    root = data_root(data)
    table = root / Path(data.table).expanduser()
    names = _label_names(data)
    header, rows = _read(table, data, names)
    has_split, has_group = data.split_column in header, data.group_column in header
    places = {row.line: _place(root, row.path) for row in rows}
    parts: dict[int, Split | None] = {row.line: part_called(row.split) if row.split else None for row in rows}
    found = Found(
        root=root,
        candidates=[_candidate(row, places[row.line], parts[row.line], names) for row in rows],
        classes=_classes(rows, parts, names),
        problems=[*_problems(rows, places, parts, root, data), *_label_problems(rows, names, data)],
        warnings=[
            *([] if has_split else [_drawn_warning(table, data)]),
            *(_alone_warnings(rows) if has_group else []),
        ],
    )
    return collect(data, found, progress)


_YES_OR_NO = {"0": False, "0.0": False, "1": True, "1.0": True}


def _label_names(data: Data) -> tuple[str, ...]:
    """Return the columns of several labels, none where an image has one class.

    Raises:
        UsageError: they are not at least two different names, or a column of classes is asked for, too.
    """
    if not data.label_columns:
        return ()
    columns = flag(Data, "label_columns")
    names = tuple(name.strip() for name in data.label_columns.split(","))
    problems = []
    if data.label_column != Data.label_column:
        problems.append(f"{columns} (several labels) and {flag(Data, 'label_column')} (one class): give one of them.")
    if len(set(names)) < len(names) or not all(names) or len(names) < 2:
        problems.append(
            f"{columns} must be at least two different names with commas between, but got {data.label_columns!r}. "
            f"For one column, give it as {flag(Data, 'label_column')}: its values are the classes."
        )
    if SEPARATOR in data.label_columns:
        problems.append(f"{columns} must be names without {SEPARATOR!r}, but got {data.label_columns!r}. Rename them.")
    if problems:
        raise UsageError(*problems)
    return names


def _label(row: _Row, names: Sequence[str]) -> Label:
    if not names:
        return row.label
    return tuple(sorted(name for name, value in zip(names, row.values, strict=True) if _YES_OR_NO.get(value)))


def _candidate(row: _Row, place: str | None, part: Split | None, names: Sequence[str]) -> Candidate:
    return Candidate(path=place or row.path, label=_label(row, names), split=part, group=row.group)


def _classes(rows: Iterable[_Row], parts: Mapping[int, Split | None], names: Sequence[str]) -> dict[Split, set[str]]:
    classes: dict[Split, set[str]] = defaultdict(set)
    for row in rows:
        part = parts[row.line]
        if part is not None:
            classes[part].update(names or ([row.label] if row.label else []))
    return dict(classes)


def _label_problems(rows: Sequence[_Row], names: Sequence[str], data: Data) -> Iterator[str]:
    """Yield what is wrong in the columns of several labels."""
    columns, allowed = flag(Data, "label_columns"), "Allowed: 0 and 1. Fill the cells, or remove the rows."
    for number, name in enumerate(names):
        wrong = [f"{row.line} ({row.values[number]!r})" for row in rows if row.values[number] not in _YES_OR_NO]
        if wrong:
            yield (
                f"Column {name!r} ({columns}) must say 0 or 1 of every image, but does not at line {listed(wrong)} of "
                f"the table ({counted(len(wrong), 'row')}). {allowed}"
            )
        elif not any(_YES_OR_NO[row.values[number]] for row in rows):
            yield f"Column {name!r} ({columns}) has no 1: no image has this label. Leave the column out of {columns}."


def _read(table: Path, data: Data, names: Sequence[str]) -> tuple[list[str], list[_Row]]:
    """Return the header and the rows; what cannot be read at all is an error."""
    where = f"{flag(Data, 'table')} must be a CSV file, relative to --data.root or absolute, but got {data.table!r}."
    header, lines = read_table(table, where)
    _check_header(header, table, data, names)
    rows = list(_rows(lines, header, data, names))
    if not rows:
        raise UsageError(f"Table {str(table)!r} has a header but no rows. Add one row per image.")
    return header, rows


def read_table(table: Path, where: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header of a CSV file and its rows that are not empty, each with its last line in the file.

    Args:
        table: the file, UTF-8, with or without a byte order mark.
        where: says how its place is given, for messages.

    Raises:
        UsageError: it cannot be read, is no CSV, or has rows that are longer or shorter than the header.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except UnicodeDecodeError as error:
        raise UsageError(
            f"Table {str(table)!r} must be UTF-8, but is not ({error.reason}). Save it as CSV UTF-8."
        ) from error
    except csv.Error as error:
        raise UsageError(
            f"Table {str(table)!r} is not valid CSV: {error}. Save it as comma-separated values."
        ) from error
    except OSError as error:
        raise UsageError(f"Table {str(table)!r} cannot be read: {error.strerror}. {where}") from error
    except ValueError as error:  # a name with a null character
        raise UsageError(f"Table {str(table)!r} cannot be read: {error}. {where}") from error
    ragged = [f"{line} ({len(cells)})" for line, cells in lines if header and len(cells) != len(header)]
    if ragged:
        raise UsageError(
            f"Every row of {str(table)!r} must have the {len(header)} cells of its header, but has another number at "
            f"line {listed(ragged)}. Put cells that contain commas in double quotes."
        )
    return header, lines


def _check_header(header: Sequence[str], table: Path, data: Data, names: Sequence[str]) -> None:
    fields = ("path_column", *(() if names else ("label_column",)), "split_column", "group_column")
    columns = [*((field, getattr(data, field)) for field in fields), *(("label_columns", name) for name in names)]
    known = {name for _, name in columns}
    problems = [
        f"Column {name!r} occurs {count} times in {str(table)!r}. Rename all but one."
        for name, count in Counter(header).items()
        if count > 1 and name in known
    ]
    for field, name in columns:
        required = field in ("path_column", "label_column", "label_columns")
        other_case = [given for given in header if given.casefold() == name.casefold()]
        asked_for = name != getattr(Data, field)  # a name that the user set must not be ignored
        if name not in header and (required or other_case or asked_for):
            problems.append(
                f"Table {str(table)!r} has no column {name!r} ({flag(Data, field)}); its columns are "
                f"{listed([repr(given) for given in header]) or 'none'}.{did_you_mean(name, other_case or header)} "
                f"Rename the column or give its name by {flag(Data, field)}.{_separator_hint(header)}"
            )
    if problems:
        raise UsageError(*problems)


def _separator_hint(header: Sequence[str]) -> str:
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        return " Columns must be separated by commas."
    return ""


def _rows(
    lines: Iterable[tuple[int, list[str]]], header: Sequence[str], data: Data, names: Sequence[str]
) -> Iterator[_Row]:
    wanted = (data.path_column, data.label_column, data.split_column, data.group_column, *names)
    columns = {name: header.index(name) for name in wanted if name in header}
    for line, cells in lines:
        given = {name: cells[position] for name, position in columns.items()}
        yield _Row(
            line=line,
            path=given[data.path_column],
            label=given.get(data.label_column, ""),
            values=tuple(given[name] for name in names),
            split=given.get(data.split_column),
            group=group_named(given.get(data.group_column, "")),
        )


def group_named(cell: str) -> str | None:
    """Return the patient (or lesion) that a cell names; None where it is empty or NaN, which is nobody's name."""
    return None if cell.casefold() in ("", "nan") else cell


def _place(root: Path, path: str) -> str | None:
    """Return a row's path relative to the root with forward slashes, or None where it is outside (or empty).

    Backslashes are Windows' slashes, unless a file has them in its name.
    """
    if "\\" in path and not os.path.isfile(root / path):
        path = path.replace("\\", "/")
    whole = os.path.normpath(root / path)
    place = os.path.relpath(whole, root)
    inside = place != os.curdir and place != os.pardir and not place.startswith(os.pardir + os.sep)
    return Path(place).as_posix() if inside else None


def _problems(
    rows: Sequence[_Row], places: Mapping[int, str | None], parts: Mapping[int, Split | None], root: Path, data: Data
) -> list[str]:
    no_label = [row for row in rows if not row.label and not data.label_columns]
    nan = [row for row in rows if row.label.casefold() == "nan" and not data.label_columns]
    empty_path = [row for row in rows if not row.path]
    outside = [row for row in rows if row.path and places[row.line] is None]
    missing = [row for row in rows if (place := places[row.line]) is not None and not os.path.isfile(root / place)]
    empty_split = [row for row in rows if row.split == ""]
    unknown_split = [row for row in rows if row.split and parts[row.line] is None]
    in_root = f"Paths are relative to {str(root)!r}, with forward slashes."
    texts = [
        _problem(empty_path, f"Column {data.path_column!r} must name an image", "is empty"),
        _problem(
            outside,
            "Every image must lie inside --data.root",
            "leads out of it",
            f"{in_root} Move the images there or choose a higher root.",
            show="path",
        ),
        _problem(missing, "Every image must exist", "names no file", in_root, show="path"),
        _duplicates(rows, places),
        _problem(no_label, f"Column {data.label_column!r} must name a class", "is empty"),
        _problem(nan, f"Column {data.label_column!r} must name a class", "is NaN"),
        _problem(
            empty_split,
            f"Column {data.split_column!r} must name a part",
            "is empty",
            f"Allowed: {part_words()}. Without the column a test part is drawn.",
        ),
        _problem(
            unknown_split,
            f"Column {data.split_column!r} must name a part",
            "names none",
            f"Allowed: {part_words()}.",
            show="split",
        ),
        *_missing_parts(rows, parts, data),
    ]
    return [text for text in texts if text]


def _problem(rows: Sequence[_Row], rule: str, but: str, then: str = "Fill or remove the row.", show: str = "") -> str:
    """Return the text about the rows that break a rule, or an empty one."""
    if not rows:
        return ""
    lines = [f"{row.line} ({getattr(row, show)!r})" if show else str(row.line) for row in rows]
    return f"{rule}, but it {but} at line {listed(lines)} of the table ({counted(len(rows), 'row')}). {then}"


def _duplicates(rows: Iterable[_Row], places: Mapping[int, str | None]) -> str:
    lines: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        place = places[row.line]
        if place is not None:
            lines[place].append(row.line)
    twice = [f"{place} at lines {', '.join(map(str, at))}" for place, at in lines.items() if len(at) > 1]
    if not twice:
        return ""
    return (
        f"Every image must have one row, but {counted(len(twice), 'path occurs', 'paths occur')} more than once: "
        f"{listed(twice, separator='; ')}. Remove the surplus rows."
    )


def _missing_parts(rows: Sequence[_Row], parts: Mapping[int, Split | None], data: Data) -> list[str]:
    if any(row.split is None for row in rows):
        return []
    given = {part for part in parts.values() if part is not None}
    return [
        f"Column {data.split_column!r} names no row of the {PART_NAMES[part]} part. Every table with this column needs "
        f"rows of train and test ({part_words()}); without the column a test part is drawn (--data.test-fraction)."
        for part in ("train", "test")
        if part not in given
    ]


def _drawn_warning(table: Path, data: Data) -> str:
    return (
        f"{table.name} has no column {data.split_column!r}, so a test part was drawn "
        f"(--data.test-fraction {data.test_fraction:g}, --data.split-seed {data.split_seed})."
    )


def _alone_warnings(rows: Iterable[_Row]) -> list[str]:
    alone = [row.line for row in rows if not row.group]
    if not alone:
        return []
    return [f"{counted(len(alone), 'row has', 'rows have')} no group and count as alone: line {listed(alone)}."]
