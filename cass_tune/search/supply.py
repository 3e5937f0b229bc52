"""The trials of a search, one after the other: suggested, recorded, run or found, and at last the winner's test."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from cass_tune.config import ARMS, Trial
from cass_tune.patience import patience
from cass_tune.plan import Wanted
from cass_tune.pruning import Pruning, at, cutoffs
from cass_tune.results import Record, Results, SearchFolder, now
from cass_tune.search import population
from cass_tune.search.design import Design, Draw
from cass_tune.search.sampling import draw
from cass_tune.search.space import label

Resolve = Callable[[Trial, str], Wanted]
"""Returns a trial, given with its name, as one that can be run.

Raises:
    UsageError: it does not fit the data, or its weights are not there.
"""

BAD = ("Collapsed", "DivergedError")
"""Failures that say something of a trial's hyperparameters: to the sampler it was pruned, as one of the worst."""


class Suggestions:
    """Hands out trials while a search runs; only the process that holds the search's folder may use it.

    A suggestion is recorded before its trial starts, and then what becomes of it: whoever goes on with the search makes
    the same suggestions as in a search that nothing has disturbed.

    Args:
        design: of the search.
        folder: of its records.
        results: root of all records.
        resolve: makes a suggestion a trial that can be run.
    """

    def __init__(self, design: Design, folder: SearchFolder, results: Results, resolve: Resolve) -> None:
        self.design = design
        self.records = folder.suggestions()[: design.settings.trials]
        self.outcomes = {n: found for n, found in folder.outcomes().items() if n < len(self.records)}
        self._folder = folder
        self._results = results
        self._resolve = resolve
        self._open: set[str] = set()
        self._is_over = False

    def wanted(self, record: Mapping[str, Any], trial: Trial) -> Wanted:
        """Return a recorded suggestion as a trial that can be run.

        Args:
            record: of the suggestion.
            trial: that it resolves to.
        """
        pruning = Pruning.from_record(record["pruning"]) if record["pruning"] else None
        item = self._resolve(trial, record["trial"]["name"])
        epochs = self.design.settings.generation_epochs
        return replace(item, pruning=pruning, is_tested=False, generation_epochs=epochs)

    def is_open(self, record: Mapping[str, Any]) -> bool:
        """Return whether the trial of a recorded suggestion is still to be run, or to be run on."""
        return self._became(record) is None

    def take(self, items: Collection[Wanted]) -> None:
        """Take note of trials that the run begins with."""
        self._open.update(str(item.digest) for item in items)

    # The supply of a run

    def next(self, has_settled: Callable[[str], bool]) -> Wanted | None:
        """Return the next trial to be run, or None: none at present.

        Args:
            has_settled: returns whether a trial that was handed out is over.

        Raises:
            UsageError: the space fails, is empty or contradicts a rule, or its trial does not fit the data.
            StorageError: a record could not be written.
        """
        self._note_ends(has_settled)
        while len(self.records) < self.design.settings.trials:
            if any(n not in self.outcomes for n in range(self.design.known(len(self.records)))):
                return None
            item = self._suggest()
            if item:
                self._open.add(str(item.digest))
                return item
            self._note_ends(has_settled)
        return self._last(has_settled)

    def is_over(self) -> bool:
        """Return whether no trial will come any more."""
        return self._is_over

    def _last(self, has_settled: Callable[[str], bool]) -> Wanted | None:
        """Return the winner, to be tested, when all others have ended."""
        if self._is_over or len(self.outcomes) < len(self.records):
            return None
        self._is_over = True
        self._remove_ends(len(self.records) - self.design.settings.parallel)
        winner = self.winner()
        if winner is None or self._results.trial(winner["trial"]["digest"]).is_finished():
            return None
        trial = self.trial(winner)
        item = self.wanted(winner, trial)
        return replace(item, name=f"{item.name}, the winner's test", pruning=None, is_tested=True)

    def trial(self, record: Mapping[str, Any]) -> Trial:
        """Return the trial of a recorded suggestion."""
        if self.design.settings.is_population:
            return population.trial(self.design, self.records, record)
        return self.design.trial(record["fields"], record["params"])

    # Suggesting

    def _suggest(self) -> Wanted | None:
        """Record the next suggestion, and return its trial if it must run."""
        number = len(self.records)
        self._remove_ends(number - number % self.design.settings.parallel - self.design.settings.parallel)
        found = draw(self.design, number, self.records, self.outcomes)
        item = self._resolve(found.trial, label(number, found.asked["params"], found.trial.seed))
        record = self._record(number, found, item)
        self._folder.suggest(number, record)
        self.records.append(record)
        self._write_journal()
        if item.digest in self._open or self._became(record) is not None:
            return None
        return self.wanted(record, found.trial)

    def _record(self, number: int, found: Draw, item: Wanted) -> Record:
        return {
            "number": number,
            "time": now(),
            **found.asked,
            "fields": dict(found.fields),
            "pruning": self._pruning(number, found.trial),
            "trial": item.record(),
            **({"population": found.lineage} if found.lineage else {}),
        }

    def _pruning(self, number: int, trial: Trial) -> Record | None:
        """Return when a trial is to stop: compared with those that its suggestion knows of and that are as long."""
        if not self.design.settings.prunes:
            return None
        goal, epochs = self.design.goal, trial.finetune.epochs
        known = range(self.design.known(number))
        alike = [n for n in known if self.records[n]["trial"]["config"]["finetune"]["epochs"] == epochs]
        curves = [{int(p): value for p, value in self.outcomes[n]["curve"].items()} for n in alike]
        found = cutoffs(curves, len(goal.arms) * epochs)
        return Pruning(goal=goal, select_by=trial.finetune.select_by, epochs=epochs, cutoffs=found).record()

    def _remove_ends(self, start: int) -> None:
        """Delete the ends that the generation which begins with this suggestion went on from; it has ended."""
        size = self.design.settings.parallel
        before = self.records[max(0, start - size) : max(0, start)] if self.design.settings.is_population else []
        with suppress(OSError), patience(0):  # they only take room
            for record in before:
                self._results.trial(record["trial"]["digest"]).remove_ends()

    # What became of them

    def _note_ends(self, has_settled: Callable[[str], bool]) -> None:
        """Record what became of the trials that have ended since the last time."""
        ended = []
        for record in self.records:
            number, digest = record["number"], record["trial"]["digest"]
            is_open = digest in self._open
            if not has_settled(digest) if is_open else number in self.outcomes:
                continue
            found = self._became(record) or _failed("it ended without a record")
            if number not in self.outcomes or _differs(self.outcomes[number], found):
                self.outcomes[number] = found
                self._folder.end(number, found)
                ended.append(digest)
        self._open -= {digest for digest in self._open if has_settled(digest)}
        if ended:
            self._write_journal()

    def _became(self, record: Mapping[str, Any]) -> Record | None:
        """Return what the records of a suggestion's trial say, or None when it is to be run (on)."""
        folder, config = self._results.trial(record["trial"]["digest"]), record["trial"]["config"]["finetune"]
        result, failure = folder.outcome(), folder.failure()
        if result is None and failure is None:
            return None
        curve = self.design.goal.curve(folder.rows(), config["select_by"], config["epochs"])
        shown = {str(progress): value for progress, value in curve.items()}
        if result is not None:
            return self._completed(result, shown)
        assert failure is not None
        why = f"{failure['type']}: {(failure['message'].strip().splitlines() or [''])[0]}"
        if failure["type"] == "Pruned":
            pruning = Pruning.from_record(record["pruning"]) if record["pruning"] else None
            if pruning is None or not any(_is_below(curve, *pair) for pair in pruning.cutoffs):
                return None  # another search has pruned it
            return {"state": "pruned", "why": why, "values": [curve[max(curve)]], "curve": shown, "time": now()}
        if failure["type"] in BAD:
            return {"state": "pruned", "why": why, "values": None, "curve": {}, "time": now()}
        return _failed(why)

    def _completed(self, result: Record, curve: Mapping[str, float]) -> Record:
        value = self.design.goal.value(result)
        if value is None:
            return _failed(f"its result has no {self.design.goal.metric}")
        seconds = [result["seconds"].get(part) for part in ("pretrain", *ARMS)]
        hours = [sum(second or 0.0 for second in seconds) / 3600] if self.design.asks_for_hours else []
        return {"state": "complete", "why": "", "values": [value, *hours], "curve": dict(curve), "time": now()}

    def winner(self) -> Record | None:
        """Return the suggestion with the highest metric, of equal ones the first, or None."""
        complete = [r for r in self.records if self.outcomes.get(r["number"], {}).get("state") == "complete"]
        return max(complete, key=lambda r: self.outcomes[r["number"]]["values"][0], default=None)

    def _write_journal(self) -> None:
        from cass_tune.search.history import write_journal

        objectives = len(self.design.settings.objectives)
        write_journal(self._folder.journal, self.design.name, objectives, self.records, self.outcomes)


def _failed(why: str) -> Record:
    return {"state": "failed", "why": why, "values": None, "curve": {}, "time": now()}


def _differs(before: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Return whether a trial that was run again has ended otherwise."""
    return any(before[name] != found[name] for name in ("state", "values"))


def _is_below(curve: dict[int, float], rung: int, cutoff: float) -> bool:
    value = at(curve, rung)
    return value is not None and value < cutoff
