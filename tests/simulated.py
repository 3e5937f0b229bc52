"""A search over a known objective: real suggestions, records and pruning, and trials that are computed by a formula."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cass_tune.config import ARMS, Trial, with_field
from cass_tune.identity import Inputs, segments, trial_digest
from cass_tune.plan import Wanted
from cass_tune.results import Record, Results, SearchFolder, TrialFolder
from cass_tune.search import SearchSettings
from cass_tune.search.design import Design
from cass_tune.search.space import Space
from cass_tune.search.supply import Suggestions

if TYPE_CHECKING:
    import optuna

INPUTS = Inputs(data="0" * 64, cnn="random", vit="random")
EPOCHS = 27
RATES = tuple(10 ** (-6 + number / 2) for number in range(8))
GAMMAS = (0.0, 1.0, 2.0, 3.0)
BEST = (RATES[6], 2.0)


def space(trial: optuna.Trial) -> Mapping[str, Any]:
    """Return one of 32 cells."""
    return {
        "finetune.learning_rate": trial.suggest_categorical("rate", RATES),
        "finetune.focal_gamma": trial.suggest_categorical("gamma", GAMMAS),
    }


def score(trial: Trial) -> float:
    """Return what a trial reaches in the end: the nearer to the best cell the more."""
    rate = abs(math.log10(trial.finetune.learning_rate / BEST[0]))
    return 0.9 - 0.15 * rate - 0.05 * abs(trial.finetune.focal_gamma - BEST[1])


def rows(trial: Trial, arm: str) -> list[Record]:
    """Return an arm's epochs: it learns towards the score, the slower, the worse it is."""
    values = [score(trial) * (1 - math.exp(-epoch / 5)) for epoch in range(1, trial.finetune.epochs + 1)]
    return [{"phase": f"finetune_{arm}", "epoch": n, "macro_f1": value} for n, value in enumerate(values, 1)]


@dataclass
class Driver:
    """Runs a simulated search, at most `parallel` trials at a time, which end in an order of chance.

    Args:
        root: results root.
        chance: orders the ends of trials; None: one after the other.
        kill: ends the driver, with everything that it knows in memory, after about one of so many steps.
        space: of the search.
        options: fields of its settings.
    """

    root: Path
    chance: random.Random | None = None
    kill: int = 0
    space: Space = space
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 0
    """Epochs of finetuning that were computed, of both arms."""
    tested: list[str] = field(default_factory=list)
    most_at_once: int = 0

    def run(self) -> list[Record]:
        """Run the search to its end, however often it is killed, and return what it suggested and what came of it."""
        while not self._until_killed():
            pass
        return self.history()

    @property
    def design(self) -> Design:
        base = with_field(Trial(), "finetune.epochs", EPOCHS)
        base = with_field(base, "finetune.select_by", "macro_f1")
        return Design(name="simulated", space=self.space, base=base, settings=SearchSettings(**self.options))

    @property
    def folder(self) -> SearchFolder:
        return SearchFolder(self.root / "search")

    def suggestions(self) -> Suggestions:
        """Return a supply that knows what is on disk."""
        return Suggestions(self.design, self.folder, Results(self.root), resolve)

    def history(self) -> list[Record]:
        """Return the records without times."""
        outcomes = self.folder.outcomes()
        return [
            {**_timeless(record), "became": _timeless(outcomes[record["number"]])}
            for record in self.folder.suggestions()
        ]

    def _until_killed(self) -> bool:
        supply, settled = self.suggestions(), set[str]()
        line = [supply.wanted(r, supply.trial(r)) for r in supply.records if supply.is_open(r)]
        line = list({item.digest: item for item in line}.values())
        supply.take(line)
        while True:
            while (item := supply.next(settled.__contains__)) is not None:
                line.append(item)
                settled.discard(str(item.digest))
            if not line:
                assert supply.is_over()
                return True
            self.most_at_once = max(self.most_at_once, len(line))
            item = line.pop(self.chance.randrange(len(line)) if self.chance else 0)
            self._train(item)
            settled.add(str(item.digest))
            if self.chance and self.kill and self.chance.randrange(self.kill) == 0:
                return False

    def _train(self, item: Wanted) -> None:
        folder = Results(self.root).trial(str(item.digest))
        folder.write_config({})
        if item.is_tested:
            self.tested.append(item.name)
            folder.finish(record(item.trial))
            return
        done: list[Record] = []
        for row in (row for arm in ARMS for row in rows(item.trial, arm)):
            done.append(row)
            reason = item.pruning.reason(done) if item.pruning else None
            if reason:
                folder.fail("Pruned", reason, "")
                break
        else:
            folder.leave_untested(record(item.trial))
        self.epochs += len(done)
        _write(folder, done)


def record(trial: Trial) -> Record:
    """Return the result of a simulated trial."""
    value = rows(trial, "cnn")[-1]["macro_f1"]
    arms = {arm: {"validation": {"macro_f1": value}} for arm in ARMS}
    seconds = {"pretrain": 1800 * trial.finetune.learning_rate / BEST[0], "cnn": 900.0, "vit": 900.0}
    return {"arms": arms, "seconds": seconds}


def resolve(trial: Trial, name: str) -> Wanted:
    """Return a trial as it would be run."""
    digest = trial_digest(trial, INPUTS)
    return Wanted(trial=trial, name=name, inputs=INPUTS, digest=digest, segments=segments(trial, INPUTS))


def _write(folder: TrialFolder, done: list[Record]) -> None:
    with folder.row_file("one") as lines:
        for row in done:
            lines.append(json.dumps(row))


def _timeless(record: Record) -> Record:
    return {name: value for name, value in record.items() if name != "time"}
