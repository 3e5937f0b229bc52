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
from collections.abc import Iterator, Sequence
from pathlib import Path

from analysis.results import read_plans, wanted_trials
from analysis.segments import segments_of
from analysis.unpacking import MANIFEST, VERSION, sha256, unpack
from cass_tune import ending
from cass_tune.errors import StorageError, UsageError
from cass_tune.results import StudyFolder, default_root, find_study
from cass_tune.storage import AnyPath, place, whole_file

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
        folder = results.trial(trial["digest"])
        yield from folder.records()
        stages |= dict.fromkeys(segment.stage for segment in segments_of(trial, folder.outcome()) or ())
    for stage in stages:
        yield from results.stage(stage).records()


def _relative(path: AnyPath, root: AnyPath) -> str:
    return str(path).removeprefix(str(root)).replace("\\", "/").strip("/")


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> str:
    archive.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED)
    return hashlib.sha256(content).hexdigest()


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
        elif given.what.endswith(".zip"):
            raise UsageError(f"{given.what} is unpacked with --into DIR, a results root, but got none. Give one.")
        else:
            for study in find_study(given.what, given.results or default_root(Path.cwd())):
                print(_packed(study))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return ending.USAGE
    except StorageError as error:
        print(f"error: {error}", file=sys.stderr)
        return ending.AWAY
    return ending.DONE


def _packed(study: StudyFolder) -> str:
    path = pack(study)
    content = path.read_bytes()
    size = f"{len(content) / 1e6:.1f} MB" if len(content) >= 1e5 else f"{len(content) / 1e3:.1f} kB"
    return f"{path}  {size}\nSHA-256 {hashlib.sha256(content).hexdigest()}  (publish it beside the file)"


def _unpacked(file: Path, into: Path) -> str:
    study = unpack(file, into)
    name = f"{study.path.parent.name}/{study.path.name}"
    lines = [f"{file}: every file as it was packed; SHA-256 of the bundle {sha256(file)}", f"unpacked to {into}"]
    return "\n".join([*lines, f"python -m analysis.report {name} --results {into}"])


if __name__ == "__main__":
    sys.exit(main())
