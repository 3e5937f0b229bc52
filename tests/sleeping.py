"""Trials that sleep instead of training, on a real Ray cluster, with the study's own scheduler and places."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune

from cass_tune.config import to_json
from cass_tune.durations import Durations
from cass_tune.pace import PHASES
from cass_tune.plan import Wanted
from cass_tune.runner import Demand, StudyScheduler
from cass_tune.runner.places import PlaceManager, managing
from cass_tune.runner.placing import Placing
from cass_tune.sharing import nothing_stored, own_epochs
from tests import grids
from tests.fits import given

Judge = Callable[[Mapping[str, Any], str], float]
"""Returns the seconds of an epoch on a card of speed 1, of a trial as JSON in a phase."""


@dataclass(frozen=True, kw_only=True)
class Slept:
    """One attempt at a trial.

    Args:
        name: of the trial.
        node: identity of the machine.
        cards: Ray's numbers of its cards.
        kind: of them.
        device: that a real trial would use.
        start: by the clock, in seconds.
        end: the same, or None: it was cut off.
        process: number of the process.
    """

    name: str
    node: str
    cards: tuple[str, ...]
    kind: str
    device: str
    start: float
    end: float | None
    process: int


def sleeper(config: dict[str, Any]) -> None:
    """Sleep for every epoch that nobody has slept for; those of a pretraining are shared."""
    config = {**config["run"], "place": config["place"]}
    folder, place = Path(config["folder"]), config["place"]
    context = ray.get_runtime_context()
    note: dict[str, Any] = {
        "name": config["name"],
        "node": context.get_node_id(),
        "cards": context.get_accelerator_ids()["GPU"],
        "kind": place["kind"],
        "device": place["device"],
        "start": time.time(),
        "end": None,
        "process": os.getpid(),
    }
    path = folder / f"attempt-{note['start']}-{note['process']}.json"
    path.write_text(json.dumps(note))
    while len(list(folder.glob("attempt-*"))) < config["together"]:
        time.sleep(0.1)
    for phase, name, epochs, epoch_s in config["work"]:
        for epoch in range(1, epochs + 1):
            mark = folder / f"{name}-{epoch}"
            if not mark.exists():
                seconds = epoch_s / config["speeds"].get(place["kind"], 1.0)
                time.sleep(seconds)
                mark.touch()
                tune.report({"phase": phase, "seconds": seconds, "reused": False})
    path.write_text(json.dumps({**note, "end": time.time()}))


class Study:
    """Trials that sleep.

    Args:
        folder: of their marks, which is empty.
        items: the trials.
        epoch_s: how long they sleep.
        speeds: of the kinds of cards.
    """

    def __init__(
        self, folder: Path, items: Sequence[Wanted], epoch_s: Judge, speeds: Mapping[str, float] | None = None
    ) -> None:
        self.folder = folder / "marks"
        self.folder.mkdir()
        self.ray = folder / "ray"
        self.items = {item.name: item for item in items}
        self.epoch_s = epoch_s
        self.speeds = dict(speeds or {})
        estimator: Any = SimpleNamespace(counts=grids.listing().counts(), finetuning=_finetuning, judge=epoch_s)
        self.durations = Durations(estimator, items, own_epochs(items, nothing_stored))

    def run(
        self,
        share: float = 1.0,
        *,
        probed: Sequence[str] = (),
        is_ready: Callable[[Wanted], bool] = lambda item: True,
        together: int = 0,
    ) -> None:
        """Run all trials; a process or machine that is lost does not count.

        Args:
            share: of a card, of each.
            probed: trials that need no card.
            is_ready: whether a trial may start, beside what it needs of others.
            together: nobody sleeps before so many have begun.
        """
        demand = Demand(cpus=1, fitting=given(share), uses_cards=share > 0, device="cuda", probed=probed)
        manager = PlaceManager()

        def ready(item: Wanted, live: list[Wanted]) -> bool:
            return is_ready(item) and self._is_ready(item, live)

        placing = Placing(lambda trial: self.items[trial.config["run"]["name"]], ready, demand, self.durations, manager)

        class Watcher(tune.Callback):
            """Hands rows on."""

            def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
                if "phase" in result:
                    placing.learn(trial, result)

            def __reduce__(self) -> Any:
                return tune.Callback, ()

        common = {"folder": str(self.folder), "speeds": self.speeds, "together": together}
        configs = [{**common, "name": name, "work": self._work(item)} for name, item in self.items.items()]
        with managing(manager):
            tune.Tuner(
                sleeper,
                param_space={"run": tune.grid_search(configs)},
                tune_config=tune.TuneConfig(scheduler=StudyScheduler(placing, ask_every_s=0.5), reuse_actors=True),
                run_config=tune.RunConfig(
                    storage_path=str(self.ray),
                    verbose=0,
                    callbacks=[Watcher()],
                    failure_config=tune.FailureConfig(max_failures=-1),
                ),
            ).fit()

    def attempts(self) -> list[Slept]:
        """Return what ran, in order."""
        notes = [json.loads(path.read_text() or "null") for path in self.folder.glob("attempt-*")]
        found = [Slept(**{**note, "cards": tuple(note["cards"])}) for note in notes if note]
        return sorted(found, key=lambda slept: slept.start)

    def marks(self) -> int:
        """Return how many epochs were slept for."""
        return sum(not path.name.startswith("attempt-") for path in self.folder.iterdir())

    def _work(self, item: Wanted) -> list[tuple[str, str, int, float]]:
        config = to_json(item.trial)
        pretraining = [("pretrain", s.stage, s.end, self.epoch_s(config, "pretrain")) for s in item.segments]
        after = [(p, f"{item.digest}-{p}", n, self.epoch_s(config, p)) for p, n in _finetuning(item).items()]
        return [*pretraining, *after]

    def _is_ready(self, item: Wanted, live: list[Wanted]) -> bool:
        """Return whether no live trial computes the pretraining that this one lacks; there are no trunks here."""
        lacks = {s.stage for s in item.segments if not (self.folder / f"{s.stage}-{s.end}").exists()}
        at_it = {s.stage for other in live for s in other.segments if not (self.folder / f"{s.stage}-{s.end}").exists()}
        return lacks.isdisjoint(at_it)


def _finetuning(item: Wanted) -> dict[str, int]:
    return dict.fromkeys(PHASES[1:], item.trial.finetune.epochs)
