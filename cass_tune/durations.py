"""How long trials take on each kind of card, how long what waits for them, and in which order they should start."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from cass_tune.config import to_json
from cass_tune.estimate import Estimator, Judge, seconds
from cass_tune.pace import PHASES, Kind, images_passed, kind
from cass_tune.plan import Wanted


class Speeds:
    """How long an image takes on each kind of card, by the epochs of this run."""

    def __init__(self) -> None:
        self._totals: defaultdict[Kind, dict[str, tuple[float, float]]] = defaultdict(dict)
        """Seconds, and the images passed in them, by what was run and kind of card."""

    def learn(self, card: str, what: Kind, seconds: float, images: float) -> None:
        """Take in an epoch."""
        before = self._totals[what].get(card, (0.0, 0.0))
        self._totals[what][card] = (before[0] + seconds, before[1] + images)

    def factor(self, card: str) -> float:
        """Return how much longer epochs take on a kind of card than on average over all kinds that have run the same.

        1 before any were run on it and on another.
        """
        ratios = []
        for what, by_card in self._totals.items():
            if card in by_card and len(by_card) > 1:
                ratios.append(math.log(self._rate(what, card) / fmean(self._rate(what, other) for other in by_card)))
        return math.exp(fmean(ratios)) if ratios else 1.0

    def seconds(self, card: str, what: Kind, images: float) -> float | None:
        """Return the seconds of an epoch by those of the same kind, on any card, or None before there were any."""
        by_card = self._totals.get(what)
        if not by_card:
            return None
        if card in by_card:
            return images * self._rate(what, card)
        return images * self.factor(card) * fmean(self._rate(what, other) / self.factor(other) for other in by_card)

    def _rate(self, what: Kind, card: str) -> float:
        seconds, images = self._totals[what][card]
        return max(seconds, 1e-9) / max(images, 1e-9)


@dataclass(frozen=True, kw_only=True)
class _Load:
    """What a trial computes: its configuration as JSON, and epochs by phase."""

    config: Mapping[str, Any]
    epochs: Mapping[str, int]
    item: Wanted
    done: Counter[str] = field(default_factory=Counter)
    """Epochs by phase, of those that were computed in this run."""

    def left(self) -> dict[str, int]:
        """Return the epochs by phase that are left; a phase is over, be it by patience, when the next has begun."""
        begun = [number for number, phase in enumerate(PHASES) if self.done[phase]]
        over = PHASES[: begun[-1]] if begun else ()
        return {p: 0 if p in over else max(0, n - self.done[p]) for p, n in self.epochs.items()}


class Durations:
    """Judges trials by the epochs of this run, and before there are any by what the estimator knows.

    Args:
        estimator: has judged the trials.
        items: trials of the run.
        own: epochs of pretraining that each computes itself, by its identity.
    """

    def __init__(
        self, estimator: Estimator, items: Iterable[Wanted] = (), own: Mapping[str, int] | None = None
    ) -> None:
        self._estimator = estimator
        self._speeds = Speeds()
        self._loads: dict[str, _Load] = {}
        self._by_stage: defaultdict[str, dict[str, _Load]] = defaultdict(dict)
        for item in items:
            self.add(item, (own or {}).get(str(item.digest), 0))

    def add(self, item: Wanted, own: int) -> None:
        """Take in a trial that computes so many epochs of pretraining itself."""
        epochs = {"pretrain": own, **self._estimator.finetuning(item)}
        load = _Load(config=to_json(item.trial), epochs=epochs, item=item)
        self._loads[str(item.digest)] = load
        for stage in dict.fromkeys(segment.stage for segment in item.segments):
            self._by_stage[stage][str(item.digest)] = load

    def measured(self, card: str, per_image: Mapping[Kind, float]) -> None:
        """Take in the seconds per image that were measured on a kind of card, by what was run."""
        for what, seconds_each in per_image.items():
            self._speeds.learn(card, what, seconds_each, 1.0)

    def learn(self, item: Wanted, card: str, row: Mapping[str, Any]) -> None:
        """Take in an epoch that was computed on a kind of card."""
        load = self._loads.get(str(item.digest))
        if load and row["phase"] in PHASES and row["reused"] is not True:
            images = images_passed(load.config, self._estimator.counts, row["phase"])
            self._speeds.learn(card, kind(load.config, row["phase"]), row["seconds"], images)
            load.done[row["phase"]] += 1

    def seconds(self, item: Wanted, card: str) -> float | None:
        """Return how long a trial will still keep a card of a kind at work, or None: not known; if only probed, 0."""
        load = self._loads.get(str(item.digest))
        return self._time(load, self._judge(card)) if load else 0.0

    def in_order(self, items: Sequence[Wanted], cards: int, running: Sequence[Wanted] = ()) -> list[Wanted]:
        """Return trials in the order in which they should start.

        Seed by seed, so that a complete table exists early; within a seed the longest first, where a pretraining for
        which others wait counts with the longest of these. A trial of a later seed comes first when it, with what waits
        for it, will take as long as all that is left takes on all cards: the study would wait for it in the end.

        Args:
            items: trials that wait, as they were asked for.
            cards: how many there are.
            running: trials that run.
        """
        judge = self._common_judge(items)
        lengths = {id(item): self._chain(item, judge) for item in items}
        whole = sum(self._length(item, judge) for item in (*items, *running))
        seeds = list(dict.fromkeys(item.trial.seed for item in items))

        def urgency(item: Wanted) -> tuple[bool, int, float]:
            length = lengths[id(item)]
            can_wait = length * cards < whole
            return can_wait, seeds.index(item.trial.seed) if can_wait else 0, -length

        return sorted(items, key=urgency)

    def _chain(self, item: Wanted, judge: Judge) -> float:
        """Return how long a trial takes, or the longest of those that go on from what it computes, from its start."""
        load = self._loads.get(str(item.digest))
        if load is None:
            return 0.0
        own = load.epochs["pretrain"]
        ends = {segment.stage: segment.end for segment in item.segments}
        epoch_s = (judge(load.config, "pretrain") or 0.0) if own else 0.0
        begun = item.trial.pretrain.epochs - own
        longest = self._length(item, judge)
        for other in (other for stage in ends for other in self._by_stage[stage].values() if own and other is not load):
            needed = max((s.end for s in other.item.segments if s.end <= ends.get(s.stage, 0)), default=0)
            if needed > begun:
                longest = max(longest, (needed - begun) * epoch_s + self._length(other.item, judge))
        return longest

    def _length(self, item: Wanted, judge: Judge) -> float:
        load = self._loads.get(str(item.digest))
        return (self._time(load, judge) or 0.0) if load else 0.0

    def _time(self, load: _Load, judge: Judge) -> float | None:
        known, unjudged = seconds(load.config, self._estimator.counts, load.left(), judge)
        return None if unjudged else known

    def _judge(self, card: str) -> Judge:
        def judge(config: Mapping[str, Any], phase: str) -> float | None:
            images = images_passed(config, self._estimator.counts, phase)
            found = self._speeds.seconds(card, kind(config, phase), images)
            if found is None:
                each = self._estimator.judge(config, phase)
                return None if each is None else each * self._speeds.factor(card)
            return found

        return judge

    def _common_judge(self, items: Iterable[Wanted]) -> Judge:
        """Return a judge that knows all these trials: in seconds on an average card, otherwise by the images passed."""
        judge = self._judge("")
        loads = [self._loads[str(item.digest)] for item in items if str(item.digest) in self._loads]
        if all(self._time(load, judge) is not None for load in loads):
            return judge
        return lambda config, phase: images_passed(config, self._estimator.counts, phase)
