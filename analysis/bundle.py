"""All records of a study in one file, from which anyone rebuilds every table and plot, without torch and the images.

    python -m analysis.bundle STUDY [--results DIR]        packs: <study>/<data>-<preset>/bundle.zip
    python -m analysis.bundle FILE.zip --into DIR          checks every file's SHA-256 and unpacks to a results root

A bundle holds the plans, and of every wanted trial and its pretraining the configuration, environment, epochs, result,
predictions, failures and log: no images and no weights. The same records give the same file, byte for byte. The names
of image files and groups are in the predictions, and folders of the machine in the configurations.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from analysis.results import read_plans, wanted_trials
from cass_tune.errors import UsageError
from cass_tune.results import StudyFolder, default_root, find_study
from cass_tune.storage import AnyPath, place, whole_file

MANIFEST = "manifest.json"
"""Lists every other file of a bundle with its SHA-256."""

VERSION = 1
"""Of the layout of a bundle."""

_DATE = (1980, 1, 1, 0, 0, 0)
_UNPACK_WITH = "python -m analysis.bundle FILE.zip --into DIR, then python -m analysis.report STUDY --results DIR"


def pack(study: StudyFolder) -> AnyPath:
    """Write a study's bundle and return its path.

    Args:
        study: finished or not; what is missing is missing in the bundle, too.

    Raises:
        UsageError: nothing was asked for in it.
    """
    root = study.results.root
    contents = ((_relative(path, root), path) for path in _records(study))
    with whole_file(study.bundle) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        sums = {name: _add(archive, name, path.read_bytes()) for name, path in contents}
        found = {"version": VERSION, "study": _relative(study.path, root), "unpack": _UNPACK_WITH, "sha256": sums}
        _add(archive, MANIFEST, json.dumps(found, indent=1, sort_keys=True).encode())
    return study.bundle


def _records(study: StudyFolder) -> Iterator[AnyPath]:
    """Yield every file of the study's own, of its trials and of their pretrainings."""
    results, stages = study.results, dict[str, None]()
    yield from study.records()
    for _, _, trial in wanted_trials(read_plans(study)):
        yield from results.trial(trial["digest"]).records()
        stages |= dict.fromkeys(segment["stage"] for segment in trial["segments"])
    for stage in stages:
        yield from results.stage(stage).records()


def _relative(path: AnyPath, root: AnyPath) -> str:
    return str(path).removeprefix(str(root)).replace("\\", "/").strip("/")


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> str:
    archive.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED)
    return hashlib.sha256(content).hexdigest()


def unpack(file: Path, into: Path) -> StudyFolder:
    """Check a bundle and write its files into a results root, which may hold others; return the study's folder.

    Args:
        file: of `pack`.
        into: the results root; a file that is there must be the same.

    Raises:
        UsageError: the file is no bundle, or was changed after it was packed (names every file), or another file is in
            its place; nothing is written then.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            manifest, contents = _checked(archive, file)
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {file}.") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise UsageError(f"{file} is no bundle, or was cut short: {error}. Get it again.") from error
    for name, content in contents.items():
        target = into / name
        if target.exists() and target.read_bytes() != content:
            raise UsageError(f"{target} is there and differs from the bundle's. Give another folder with --into.")
    for name, content in contents.items():
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(into / name) as temporary:
            temporary.write_bytes(content)
    return StudyFolder((into / manifest["study"]).absolute())


def _checked(archive: zipfile.ZipFile, file: Path) -> tuple[Mapping[str, Any], dict[str, bytes]]:
    """Return the manifest and all contents."""
    names = archive.namelist()
    if MANIFEST not in names:
        raise UsageError(f"{file} is no bundle of a study: it has no {MANIFEST}. Make one with analysis.bundle STUDY.")
    problems, contents = list[str](), dict[str, bytes]()
    try:
        manifest = json.loads(archive.read(MANIFEST))
        version, sums = manifest["version"], dict(manifest["sha256"])
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UsageError(f"{MANIFEST} of {file} is damaged ({error}): the bundle was changed.") from error
    if version != VERSION:
        raise UsageError(f"{file} has layout {version} and this code reads {VERSION}. Use the code that packed it.")
    for name in dict.fromkeys([*names, *sums]):
        problem = _problem(archive, name, names, sums, contents)
        problems += [f"{name} {problem}"] if problem and name != MANIFEST else []
    if not problems and not _is_inside(manifest["study"]):
        problems = [f"its study {manifest['study']!r} lies outside"]
    if problems:
        what = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise UsageError(f"{file} was changed after it was packed, and is not unpacked: {what}.")
    return manifest, contents


def _problem(
    archive: zipfile.ZipFile, name: str, names: Sequence[str], sums: Mapping[str, str], contents: dict[str, bytes]
) -> str:
    """Return what is wrong with one file, or nothing and put its content with the others."""
    if not _is_inside(name):
        return "lies outside the results root"
    if name not in sums:
        return "was added"
    if name not in names:
        return "is missing"
    try:
        content = archive.read(name)
    except zipfile.BadZipFile:
        return "is damaged"
    if hashlib.sha256(content).hexdigest() != sums[name]:
        return "has another SHA-256"
    contents[name] = content
    return ""


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack a study, or check and unpack a bundle; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m analysis.bundle", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", metavar="STUDY|FILE.zip", help="a study's name or folder; or a bundle, with --into")
    parser.add_argument("--results", metavar="DIR", type=place, help="results root (cass_tune.toml's, or results)")
    parser.add_argument("--into", metavar="DIR", type=Path, help="check a bundle and unpack it to this results root")
    given = parser.parse_args(arguments)
    try:
        if given.into is not None:
            print(_unpacked(Path(given.what), given.into))
        else:
            for study in find_study(given.what, given.results or default_root(Path.cwd())):
                print(_packed(study))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _packed(study: StudyFolder) -> str:
    path = pack(study)
    content = path.read_bytes()
    size = f"{len(content) / 1e6:.1f} MB" if len(content) >= 1e5 else f"{len(content) / 1e3:.1f} kB"
    return f"{path}  {size}\nSHA-256 {hashlib.sha256(content).hexdigest()}  (publish it beside the file)"


def _unpacked(file: Path, into: Path) -> str:
    study = unpack(file, into)
    name = f"{study.path.parent.name}/{study.path.name}"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    lines = [f"{file}: every file as it was packed; SHA-256 of the bundle {sha256}", f"unpacked to {into}"]
    return "\n".join([*lines, f"python -m analysis.report {name} --results {into}"])


if __name__ == "__main__":
    sys.exit(main())
