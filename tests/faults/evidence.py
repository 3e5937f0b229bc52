"""What a results root says about the work done in it: its numbers, and what was done more than once."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import load

from cass_tune.config import ARMS
from cass_tune.leases import Holder, holder
from cass_tune.results import Results, StageFolder, StudyFolder, TrialFolder
from cass_tune.storage import AnyPath

UNTIMED = {"seconds", "images_per_second", "peak_memory_gib", "utilisation", "reused"}
"""What two equal runs may differ in."""


def study_of(results: Results) -> StudyFolder:
    """Return the folder of the study of `tests.faults.subject`."""
    return results.study("faults", "phantom-demo")


def parts(results: Results) -> tuple[dict[str, TrialFolder], dict[str, StageFolder]]:
    """Return the wanted trials by name and their pretrainings by identity."""
    plans = study_of(results).plans()
    wanted = plans[-1]["trials"] if plans else []
    trials = {trial["name"]: results.trial(trial["digest"]) for trial in wanted}
    stages = [segment["stage"] for trial in wanted for segment in trial["segments"]]
    return trials, {stage: results.stage(stage) for stage in stages}


def numbers(results: Results) -> dict[str, Any]:
    """Return everything that must not depend on disturbances: metrics, rows, weights and predictions."""
    trials, stages = parts(results)
    return {
        **{name: _trial_numbers(folder) for name, folder in trials.items()},
        **{digest[:12]: _stage_numbers(stage) for digest, stage in stages.items()},
    }


def _trial_numbers(folder: TrialFolder) -> dict[str, Any]:
    result = folder.result()
    files = [*(folder.weights(arm) for arm in ARMS), folder.predictions]
    return {
        "arms": result["arms"] if result else None,
        "rows": _timeless(folder.rows()),
        "files": {path.name: content(path) for path in files if path.exists()},
    }


def _stage_numbers(stage: StageFolder) -> dict[str, Any]:
    ends = stage.ends()
    files = [stage.end(epoch) / f"{name}.safetensors" for epoch in ends for name in (*ARMS, "state")]
    return {
        "rows": _timeless(stage.end_record(ends[-1])["rows"]) if ends else [],
        "files": {f"{path.parent.name}/{path.name}": content(path) for path in files},
    }


def _timeless(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in UNTIMED} for row in rows]


def content(path: AnyPath) -> str:
    """Return a hash of what a file holds; safetensors orders its metadata by chance."""
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256()
    for name, tensor in sorted(load(data).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def epoch_counts(results: Results) -> Counter[tuple[str, str, int]]:
    """Return how often each epoch of each trial and pretraining was finished, over all attempts."""
    trials, stages = parts(results)
    counts: Counter[tuple[str, str, int]] = Counter()
    for folder in [*trials.values(), *stages.values()]:
        for row in _all_rows(folder.epochs):
            counts[folder.id, row["phase"], row["epoch"]] += 1
    return counts


def _all_rows(folder: AnyPath) -> Iterator[dict[str, Any]]:
    for path in folder.glob("*.jsonl") if folder.is_dir() else ():
        for line in path.read_text(errors="replace").splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # torn by a kill
                continue


def lost(results: Results) -> list[str]:
    """Return the trials that have no result, or were finished more than once."""
    found = []
    for name, folder in parts(results)[0].items():
        ends = [item["ended"] for item in folder.attempts()]
        finished = sum(end is not None and end["how"] == "finished" for end in ends)
        if folder.result() is None or finished > 1:
            found.append(name)
    return found


def ends(results: Results, pids: set[int]) -> list[dict[str, Any] | None]:
    """Return how the last attempt of each of these processes ended; None when its process has not said so."""
    found: dict[int, dict[str, Any]] = {}
    for folder in parts(results)[0].values():
        for attempt in folder.attempts():
            if attempt["pid"] in pids and attempt["started"] > found.get(attempt["pid"], {}).get("started", ""):
                found[attempt["pid"]] = attempt
    return [attempt["ended"] for attempt in found.values()]


def holders(results: Results) -> list[Holder]:
    """Return the processes that compute a trial now, each once."""
    found = {}
    for folder in parts(results)[0].values():
        at_work = holder(folder.path)
        if at_work is not None and folder.is_held():
            found[at_work.pid] = at_work
    return list(found.values())


def seconds_at_risk(results: Results) -> float:
    """Return the longest time for which a running trial has not saved its state: what a kill now would cost.

    Only for results on this machine.
    """
    plans = study_of(results).plans()
    ages = [0.0]
    for wanted in plans[-1]["trials"] if plans else ():
        folder = results.trial(wanted["digest"])
        if folder.is_held():
            stages = [results.stage(segment["stage"]).path for segment in wanted["segments"]]
            saved = max(_saved_at(place) for place in (folder.path, *stages))
            ages.append(time.time() - saved if saved else 0.0)  # the first attempt is about to begin
    return max(ages)


def _saved_at(folder: AnyPath) -> float:
    """Return when an attempt last began, went on from a checkpoint, or saved its state, as far as a folder says."""
    assert isinstance(folder, Path)
    times = [0.0]
    for pattern in ("checkpoints/*.json", "attempts/*.json", "epoch-*/run.json"):
        for path in folder.glob(pattern):
            with suppress(FileNotFoundError):
                times.append(path.stat().st_mtime)
    return max(times)
