"""The results root, and its studies."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from cass_tune.errors import UsageError
from cass_tune.identity import ID_DIGITS
from cass_tune.leases import HOLDER_FILE
from cass_tune.objects import ObjectPath
from cass_tune.results.records import Record, files, new_attempt, whole
from cass_tune.results.search import SearchFolder
from cass_tune.results.stage import StageFolder
from cass_tune.results.trial import TrialFolder
from cass_tune.storage import AnyPath, place, read_json, whole_file, write_json

CONFIG_FILE = "cass_tune.toml"
"""Settings of a working folder (`cass_tune.options` reads all of them)."""
SPLIT_DIGITS = 16
"""Digits of a split's digest by which it is filed and shown."""


class Results:
    """A results root.

    Args:
        root: local or shared folder, made when the first record is written, or ``s3://bucket/prefix``.
    """

    def __init__(self, root: AnyPath | str) -> None:
        self.root = place(root)
        self._places: dict[tuple[str, str], AnyPath] = {}

    def trial(self, digest: str) -> TrialFolder:
        """Return the folder of the trial with this identity."""
        return TrialFolder(self._place("trials", digest), digest)

    def stage(self, digest: str) -> StageFolder:
        """Return the folder of the pretraining with this identity."""
        return StageFolder(self._place("stages", digest), digest)

    def _place(self, kind: str, digest: str) -> AnyPath:
        """Return the folder of an identity; which one it is, is looked up until its config.json is there."""
        if (kind, digest) in self._places:
            return self._places[kind, digest]
        for digits in range(ID_DIGITS, len(digest) + 1, 4):
            path = self.root / kind / digest[:digits]
            config = whole(path / "config.json", "digest")
            if config is None:  # or damaged: whoever computes it writes it again
                return path
            if config["digest"] == digest:
                self._places[kind, digest] = path
                return path
        raise AssertionError("two equal digests that differ")

    def study(self, name: str, variant: str) -> StudyFolder:
        """Return the folder of a study's plans and tables; ``variant`` is ``<data>-<preset>``."""
        return StudyFolder(self.root / name / variant)

    def studies(self) -> Iterable[StudyFolder]:
        """Yield the folder of every study that was asked for here."""
        for folder in sorted(self.root.glob("*")):
            if folder.name not in ("stages", "trials", "splits", "ray", "cards", "choices"):
                yield from (StudyFolder(plans.parent) for plans in sorted(folder.glob("*/plans")))

    def footprint(self, key: str) -> Record | None:
        """Return what was measured of one kind of training step on one kind of GPU, or None."""
        return whole(self._footprint(key), "card", "gib")

    def keep_footprint(self, key: str, record: Record) -> None:
        """Record what was measured of one kind of training step on one kind of GPU."""
        write_json(self._footprint(key), record)

    def _footprint(self, key: str) -> AnyPath:
        return self.root / "cards" / f"{key[:ID_DIGITS]}.json"

    def compile_choice(self, key: str) -> Record | None:
        """Return what was chosen for ``--compile auto``, or None."""
        return whole(self._compile_choice(key), "is_on", "why")

    def keep_compile_choice(self, key: str, record: Record) -> Record:
        """Record what is chosen for ``--compile auto``, and return what is recorded: another process may be first."""
        if self.compile_choice(key) is None:
            write_json(self._compile_choice(key), record)
        return self.compile_choice(key) or record

    def _compile_choice(self, key: str) -> AnyPath:
        return self.root / "choices" / f"compile-{key[:ID_DIGITS]}.json"

    def keep_split(self, digest: str, record: Record) -> None:
        """Keep which image is in which part, once for all trials that have the same parts.

        Args:
            digest: that stands for the record, and is what a trial's result says of it.
            record: what `cass_tune.data.splits.split_record` returned.
        """
        path = self.split(digest)
        if not path.exists():
            write_json(path, record)

    def split(self, digest: str) -> AnyPath:
        """Return the file of a split."""
        return self.root / "splits" / f"{digest[:SPLIT_DIGITS]}.json"

    def ray(self, study: str) -> Path:
        """Return the folder of Ray's own records; with an object store as root, a local one of this user."""
        if isinstance(self.root, ObjectPath):
            return Path.home() / "ray_results" / "cass_tune" / study
        return self.root / "ray" / study

    def stop_file(self, study: str, run: str) -> AnyPath:
        """Return the file by which a run's driver asks its trials to stop."""
        return self.root / "ray" / study / run / "stop"

    def check_writable(self) -> None:
        """Raise a UsageError when nothing can be written below the root; it leaves nothing behind.

        A root that is yet to be made is not made: another process that begins now would find it gone again.
        """
        try:
            start = self.root
            if isinstance(start, Path):
                start = next(folder for folder in (start, *start.parents) if folder.exists())
            below = [self.root / name for name in ("trials", "stages") if (self.root / name).exists()]
            for folder in (start, *below):
                with whole_file(folder / ".writable") as temporary:
                    temporary.touch()
                (folder / ".writable").unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(
                f"Cannot write to the results root {self.root}: {error.strerror or error}. "
                "Give a folder that you may write to with --results DIR, or s3://BUCKET/PREFIX."
            ) from error


class StudyFolder:
    """What was asked for, and everything derived from the trials' records.

    Args:
        path: ``<root>/<study>/<data>-<preset>``.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path

    @property
    def results(self) -> Results:
        return Results(self.path.parent.parent)

    @property
    def tables(self) -> AnyPath:
        return self.path / "tables"

    @property
    def plots(self) -> AnyPath:
        return self.path / "plots"

    @property
    def parquet(self) -> AnyPath:
        return self.path / "results.parquet"

    @property
    def table(self) -> AnyPath:
        return self.path / "results.csv"

    @property
    def index(self) -> AnyPath:
        return self.path / "index.csv"

    @property
    def report(self) -> AnyPath:
        return self.path / "report.html"

    @property
    def report_markdown(self) -> AnyPath:
        return self.path / "report.md"

    @property
    def bundle(self) -> AnyPath:
        return self.path / "bundle.zip"

    @property
    def journal(self) -> AnyPath:
        return self.path / "journal.log"

    def records(self) -> Iterator[AnyPath]:
        """Yield every file that says what was asked for; what is derived from records is left out."""
        for name in ("plans", "search"):
            yield from files(self.path / name, leave_out=(HOLDER_FILE,))

    @property
    def epochs_parquet(self) -> AnyPath:
        return self.path / "epochs.parquet"

    @property
    def epochs_table(self) -> AnyPath:
        return self.path / "epochs.csv"

    @property
    def predictions(self) -> AnyPath:
        return self.path / "predictions.parquet"

    def write_plan(self, plan: Record) -> None:
        """Keep what was asked for, unless it is what was asked for last, with whatever command."""
        last = [record["plan"] for record in self._plan_files()][-1:]
        if [_without_command(plan) for plan in last] != [_without_command(plan)]:
            write_json(self.path / "plans" / f"{new_attempt()}.json", {"plan": plan})

    def plans(self) -> list[Record]:
        """Return what was asked for, oldest first; of a search all that it has suggested so far."""
        return [self._with_suggestions(record["plan"]) for record in self._plan_files()]

    def search(self, search_id: str) -> SearchFolder:
        """Return the folder of a search."""
        return SearchFolder(self.path / "search" / search_id)

    def _with_suggestions(self, plan: Record) -> Record:
        if "search" not in plan:
            return plan
        found = self.search(plan["search"]["id"]).suggestions()[: plan["search"]["trials"]]
        axes = list(dict.fromkeys(path for record in found for path in record["fields"]))
        return {**plan, "axes": axes, "trials": [record["trial"] for record in found]}

    def _plan_files(self) -> Iterable[Record]:
        folder = self.path / "plans"
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            record = read_json(path)
            if record is not None:
                yield record


def _without_command(plan: Record) -> Record:
    return {name: value for name, value in plan.items() if name != "command"}


def default_root(folder: Path) -> AnyPath:
    """Return the results root that ``cass_tune.toml`` in a folder names, or ``results``."""
    try:
        content = tomllib.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        content = {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / CONFIG_FILE} cannot be read: {error}.") from error
    return place(str(content.get("results", "results")))


def find_study(name_or_path: str, root: AnyPath) -> list[StudyFolder]:
    """Return the study folders that a name (all its variants) or a path stands for.

    Raises:
        UsageError: there is none; lists the studies that there are.
    """
    for start in (place(name_or_path), root / name_or_path):
        if (start / "plans").is_dir():
            return [StudyFolder(start.absolute())]
        variants = sorted(p.parent for p in start.glob("*/plans")) if start.is_dir() else []
        if variants:
            return [StudyFolder(variant.absolute()) for variant in variants]
    there = sorted({p.parent.parent.name for p in root.glob("*/*/plans")}) if root.is_dir() else []
    raise UsageError(
        f"No study {name_or_path!r} below {root.absolute()}. "
        + (f"There are: {', '.join(there)}." if there else "No study has run there yet;")
        + " Give a study's name or path, and the results root with --results DIR."
    )
