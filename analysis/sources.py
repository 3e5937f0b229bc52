"""Where a table comes from: a study's folder, a results root, or what Ray Tune has kept of an experiment."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pandas as pd

from analysis.plans import Wanted, read_plans, wanted_trials
from analysis.ray_records import RayGrid, grid_configs, is_experiment, stored_configs, wanted_of
from cass_tune.errors import UsageError
from cass_tune.objects import ObjectPath
from cass_tune.results import Results, StudyFolder, TrialFolder
from cass_tune.storage import AnyPath, place

Source: TypeAlias = "StudyFolder | AnyPath | str | RayGrid"
"""A study's folder, a results root with one study, the folder of a Ray experiment, or a Ray ``ResultGrid``."""

OBJECT_THREADS = 16
"""Threads that read an object store: nearly all the time goes by waiting for its answers."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Opened:
    """The trials of a source and the root of their records.

    Args:
        results: the root.
        wanted: trials in order; from Ray those of the experiment, because there is no plan.
    """

    results: Results
    wanted: Sequence[Wanted]

    def folder(self, wanted: Wanted) -> TrialFolder | None:
        """Return where a trial's records lie; None for a trial of Ray that has left no record."""
        digest = wanted.trial["digest"]
        return self.results.trial(digest) if digest else None


def open_source(source: Source) -> Opened:
    """Return the trials that a source stands for.

    Args:
        source: a `StudyFolder`; a path of a study's folder, of a results root (or a study's name in it) with one study,
            or of a Ray experiment (``<root>/ray/<study>/<attempt>``, ``~/ray_results/<name>``); or a ``ResultGrid``.

    Raises:
        UsageError: it is none of these, holds no study or several, or its records cannot be found.
    """
    if isinstance(source, str | Path | ObjectPath):
        path = place(source)
        if is_experiment(path):
            return Opened(*wanted_of(stored_configs(path), path))
        source = _only_study(path)
    if isinstance(source, StudyFolder):
        return Opened(source.results, wanted_trials(read_plans(source)))
    if isinstance(source, RayGrid):
        return Opened(*wanted_of(grid_configs(source), place(source.experiment_path)))
    raise UsageError(
        f"Results are loaded from a study's folder, a results root, a Ray experiment's folder or a ResultGrid, "
        f"but got {type(source).__name__}. Give one of these, for example analysis.results.load('results')."
    )


def _only_study(path: AnyPath) -> StudyFolder:
    found = list(_studies(path))
    if len(found) == 1:
        return found[0]
    if found:
        places = ", ".join(str(study.path) for study in found)
        raise UsageError(f"One study is loaded at a time, but {path} holds {len(found)}: {places}. Give one of these.")
    if not path.is_dir():
        raise UsageError(f"There is no folder {path}. Give a results root, a study's folder or a Ray experiment's.")
    trials = sum(1 for _ in path.glob("trials/*/config.json"))
    more = (
        f" It holds {trials} trials that no study asked for: give the folder of the Ray experiment." if trials else ""
    )
    raise UsageError(f"No study has run in {path}.{more} Run one with --results {path}, or give another folder.")


def _studies(path: AnyPath) -> Iterable[StudyFolder]:
    """Yield the studies of a study's folder, of all variants of a study, or of a results root."""
    if (path / "plans").is_dir():
        return [StudyFolder(path)]
    variants = [StudyFolder(plans.parent) for plans in sorted(path.glob("*/plans"))] if path.is_dir() else []
    return variants or Results(path).studies()


def read_all(
    opened: Opened, function: Callable[[_Item], _Result], items: Iterable[_Item], local_threads: int = 1
) -> Iterator[_Result]:
    """Yield what a function that reads records returns for every item, in order, a few of them ahead.

    Args:
        opened: whose records they are: those of an object store are read by several threads.
        function: reads.
        items: what to read.
        local_threads: threads that read a local folder: several hinder one another, unless they compute without Python.
    """
    threads = OBJECT_THREADS if isinstance(opened.results.root, ObjectPath) else local_threads
    if threads == 1:
        yield from map(function, items)
        return
    ahead = deque[Future[_Result]]()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def described(wanted: Wanted) -> dict[str, Any]:
    """Return the columns by which every table names a trial, but for its folder's name."""
    return {"digest": wanted.trial["digest"], "name": wanted.trial["name"], "seed": wanted.trial["config"]["seed"]}


def naming(opened: Opened, positions: np.ndarray) -> dict[str, pd.Categorical | pd.api.extensions.ExtensionArray]:
    """Return the columns that name the trial of every row of a long table: three categories and the seed.

    Args:
        opened: the trials.
        positions: of each row's trial among them, shape (rows,).
    """
    folders = [opened.folder(wanted) for wanted in opened.wanted]
    texts = {
        "digest": [wanted.trial["digest"] for wanted in opened.wanted],
        "trial_id": [folder.id if folder else None for folder in folders],
        "name": [wanted.trial["name"] for wanted in opened.wanted],
    }
    columns = {name: pd.Categorical(pd.array(values, dtype="str"))[positions] for name, values in texts.items()}
    seeds = pd.array([wanted.trial["config"]["seed"] for wanted in opened.wanted], dtype="Int64")
    return {**{name: values.remove_unused_categories() for name, values in columns.items()}, "seed": seeds[positions]}
