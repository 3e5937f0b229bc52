"""A bundle that others have packed: checked as something that anyone may have changed, and unpacked."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from analysis.format import listing
from cass_tune.errors import UsageError
from cass_tune.results import StudyFolder
from cass_tune.storage import whole_file

MANIFEST = "manifest.json"
"""Lists every other file of a bundle with its SHA-256."""

VERSION = 1
"""Of the layout of a bundle."""

_LARGEST_MANIFEST = 2**27
"""Bytes: about a million files."""
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What reading a damaged, an encrypted or a strange archive raises."""


def unpack(file: Path, into: Path) -> StudyFolder:
    """Check a bundle and write its files into a results root, which may hold others; return the study's folder.

    Args:
        file: of `analysis.bundle.pack`.
        into: the results root; a file that is there must be the same.

    Raises:
        UsageError: the file is no bundle, or was changed after it was packed (names every file), there is no room for
            it, or another file is in its place; nothing is written then.
    """
    try:
        archive = zipfile.ZipFile(file)
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {file}.") from error
    except (*_UNREADABLE, OSError) as error:
        raise UsageError(f"{file} is no bundle, or was cut short: {error}. Get it again.") from error
    with archive:
        study, sums = _manifest(archive, file)
        _check_room(archive, file, into)
        _check(archive, study, sums, file)
        _check_places(sums, into)
        for name in sums:
            _write(archive, name, into / name)
    return StudyFolder((into / study).absolute())


def _manifest(archive: zipfile.ZipFile, file: Path) -> tuple[str, dict[str, str]]:
    """Return the study's folder and the SHA-256 of every file."""
    if MANIFEST not in archive.namelist():
        raise UsageError(f"{file} is no bundle of a study: it has no {MANIFEST}. Make one with analysis.bundle STUDY.")
    try:
        if archive.getinfo(MANIFEST).file_size > _LARGEST_MANIFEST:
            raise ValueError(f"it has more than {_LARGEST_MANIFEST:,} bytes")
        manifest = json.loads(archive.read(MANIFEST))
        version, study, sums = manifest["version"], str(manifest["study"]), dict(manifest["sha256"])
    except (ValueError, KeyError, TypeError, *_UNREADABLE) as error:
        raise UsageError(f"{MANIFEST} of {file} is damaged ({error}): the bundle was changed.") from error
    if version != VERSION:
        raise UsageError(f"{file} has layout {version} and this code reads {VERSION}. Use the code that packed it.")
    return study, sums


def _check_room(archive: zipfile.ZipFile, file: Path, into: Path) -> None:
    """Raise a UsageError where the files, as large as the archive says, do not fit on the disk."""
    there = next(folder for folder in (into.absolute(), *into.absolute().parents) if folder.is_dir())
    needed, free = sum(member.file_size for member in archive.infolist()), shutil.disk_usage(there).free
    if needed > free:
        raise UsageError(
            f"The files of {file} have {needed / 1e9:.1f} GB, and {there} has room for {free / 1e9:.1f}. Give another "
            "folder with --into; a bundle has no images and no weights, so ask where it comes from."
        )


def _check(archive: zipfile.ZipFile, study: str, sums: Mapping[str, str], file: Path) -> None:
    """Raise a UsageError unless every file is where records are, and as it was packed."""
    names = set(archive.namelist()) - {MANIFEST}
    problems = [] if _is_inside(study) else [f"its study {study!r} lies outside the results root"]
    for name in dict.fromkeys([*sorted(names), *sums]):
        problem = _problem(archive, name, names, study, sums)
        problems += [f"{name} {problem}"] if problem else []
    if problems:
        raise UsageError(f"{file} was changed after it was packed, and is not unpacked: {listing(problems, most=10)}.")


def _problem(archive: zipfile.ZipFile, name: str, names: Collection[str], study: str, sums: Mapping[str, str]) -> str:
    """Return what is wrong with one file, or nothing."""
    if not _is_inside(name):
        return "lies outside the results root"
    if not name.startswith(("trials/", "stages/", f"{study}/")):
        return "is no record of the study"
    if name not in sums:
        return "was added"
    if name not in names:
        return "is missing"
    try:
        with archive.open(name) as stream:
            return "" if _sum(stream) == sums[name] else "has another SHA-256"
    except _UNREADABLE:
        return "is damaged"


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not {*"\\:"} & {*name}


def _check_places(sums: Mapping[str, str], into: Path) -> None:
    for name in sums:
        target = into / name
        if target.exists() and not (target.is_file() and sha256(target) == sums[name]):
            raise UsageError(f"{target} is there and differs from the bundle's. Give another folder with --into.")


def _write(archive: zipfile.ZipFile, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(name) as stream, whole_file(target) as temporary, temporary.open("wb") as written:
        shutil.copyfileobj(stream, written)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return _sum(stream)


def _sum(stream: IO[bytes]) -> str:
    """Return the sum of all that can be read, a part at a time."""
    found = hashlib.sha256()
    while part := stream.read(2**20):
        found.update(part)
    return found.hexdigest()
