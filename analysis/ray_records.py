"""What Ray Tune keeps of an experiment with `cass_tune.runner.trainable`: which trials ran, and on which results root.

Only JSON is read (``<trial>/params.json`` and the first line of ``<trial>/result.json``), never what is pickled. The
records themselves lie in the results root that the configuration names, where a trial is found by its description.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from analysis.plans import Wanted, trial_of
from cass_tune.config import ARMS, Trial
from cass_tune.errors import Damaged, UsageError
from cass_tune.identity import RESULTS_VERSION, Inputs, segments, trial_digest
from cass_tune.plan import names
from cass_tune.results import Record, Results
from cass_tune.storage import AnyPath, place, read_json

logger = logging.getLogger(__name__)


class RayResult(Protocol):
    """The part of ``ray.tune.Result`` that is used."""

    @property
    def config(self) -> Mapping[str, Any] | None: ...

    @property
    def path(self) -> str: ...


@runtime_checkable
class RayGrid(Protocol):
    """The part of ``ray.tune.ResultGrid`` that is used."""

    @property
    def experiment_path(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> RayResult: ...


def is_experiment(path: AnyPath) -> bool:
    """Return whether a folder is that of a Ray experiment."""
    return path.is_dir() and any(path.glob("*/params.json"))


def stored_configs(path: AnyPath) -> list[Record | None]:
    """Return the configuration of every trial of an experiment, in Ray's order.

    Args:
        path: the experiment's folder.
    """
    folders = sorted((params.parent for params in path.glob("*/params.json")), key=_order)
    return [read_json(folder / "params.json") for folder in folders]


def _order(folder: AnyPath) -> tuple[str, str]:
    """Return Ray's number of a trial, which its rows name; one without rows comes last."""
    try:
        first = (folder / "result.json").read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        return json.loads(first)["trial_id"], folder.name
    except (OSError, ValueError, KeyError, TypeError):
        return "~", folder.name


def grid_configs(grid: RayGrid) -> list[Record | None]:
    """Return the configuration of every trial of a ``ResultGrid``; None for one that has never started."""
    results = [grid[number] for number in range(len(grid))]
    return [dict(result.config) if result.config else _params(result.path) for result in results]


def _params(path: str) -> Record | None:
    return read_json(place(path) / "params.json")


@dataclass(frozen=True)
class _Stored:
    """What a trial's config.json says.

    Args:
        digest: the trial's identity.
        version: of the results.
        inputs: what it read.
    """

    digest: str
    version: int
    inputs: Inputs


def wanted_of(configs: Sequence[Record | None], experiment: AnyPath) -> tuple[Results, list[Wanted]]:
    """Return the results root of an experiment, and its trials.

    Args:
        configs: of its trials, in order; None for one that has left no configuration, which a warning counts.
        experiment: its folder.

    Raises:
        UsageError: the trials are not those of `cass_tune.runner.trainable`, their records are gone, or several trials
            in the results root fit one of them.
    """
    known = [config for config in configs if config]
    if len(known) < len(configs):
        logger.warning(
            "%d trials of %s never started: Ray keeps nothing of them", len(configs) - len(known), experiment
        )
    foreign = [config for config in known if not {"run", "results"} <= config.keys()]
    if foreign or not known:
        raise UsageError(
            f"{experiment} is no experiment with cass_tune.runner.trainable: "
            + (f"a configuration has {', '.join(map(str, foreign[0]))}." if foreign else "no trial has started.")
            + " Give the folder of one, or the results root."
        )
    results = Results(_root({str(config["results"]) for config in known}, experiment))
    runs = [config["run"] for config in known]
    trials = [trial_of(run["trial"]) for run in runs]
    stored = _stored(results, set(trials))
    found = [_found(run, trial, stored[trial], experiment) for run, trial in zip(runs, trials, strict=True)]
    records = map(_wanted, trials, names(trials), (run["trial"] for run in runs), found)
    return results, list({wanted.trial["digest"] or number: wanted for number, wanted in enumerate(records)}.values())


def _root(named: set[str], experiment: AnyPath) -> AnyPath:
    """Return the results root: the one that is named, or where the experiment lies in one that was moved."""
    if len(named) > 1:
        raise UsageError(
            f"{experiment} writes to several results roots: {', '.join(sorted(named))}. Give one of these."
        )
    root = place(named.pop())
    around = [root, *list(experiment.parents)[2:3]]
    for folder in around:
        if (folder / "trials").is_dir():
            return folder
    raise UsageError(f"The results root {root} that {experiment} names is not there. Give the root where it is now.")


def _stored(results: Results, trials: set[Trial]) -> Mapping[Trial, list[_Stored]]:
    """Return what the root has of these trials: one description may have run on several data, weights, versions."""
    found: dict[Trial, list[_Stored]] = defaultdict(list)
    for path in sorted(results.root.glob("trials/*/config.json")):
        try:
            record = read_json(path) or {}
            trial = trial_of(record["trial"])
            stored = _Stored(record["digest"], record["results_version"], Inputs(**record["inputs"]))
        except (Damaged, KeyError, TypeError, UsageError):  # whoever computes it writes it again
            continue
        if trial in trials:
            found[trial].append(stored)
    return found


def _found(run: Record, trial: Trial, stored: Sequence[_Stored], experiment: AnyPath) -> _Stored | None:
    """Return the trial in the results root that is Ray's; None if there is none and its inputs are not known."""
    if run.get("inputs"):
        inputs = Inputs(**run["inputs"])
        alike = [item for item in stored if item.inputs == inputs]
        missing = None if alike else _Stored(trial_digest(trial, inputs), RESULTS_VERSION, inputs)
        return max(alike, key=lambda item: item.version) if alike else missing
    if len({item.inputs for item in stored}) > 1:
        raise UsageError(
            f"{len(stored)} trials in the results root have the description of one of {experiment}, on other data or "
            f"weights: {', '.join(item.digest[:12] for item in stored)}. Ray does not know which it was, because the "
            "configuration names no inputs; give the results root or a study's folder."
        )
    return max(stored, key=lambda item: item.version, default=None)


def _wanted(trial: Trial, name: str, config: Record, found: _Stored | None) -> Wanted:
    inputs = found.inputs if found else None
    plan = {
        "data": {"fingerprint": inputs.data if inputs else None, "counts": None},
        "recipe": None,
        "results_version": found.version if found else RESULTS_VERSION,
    }
    record = {
        "digest": found.digest if found else None,
        "name": name,
        "segments": list(_segments(trial, inputs)),
        "weights": inputs.weights() if inputs else dict.fromkeys(ARMS),
        "config": config,
    }
    return Wanted(0, plan, record)


def _segments(trial: Trial, inputs: Inputs | None) -> Iterator[Record]:
    """Yield where the pretraining is stored; a method of your own would bring torch, so only its result tells."""
    parts: Iterable[Any] = segments(trial, inputs) if inputs and ":" not in trial.pretrain.method else ()
    yield from map(asdict, parts)
