"""Schedules without machines: what placement does is played through in simulated time and compared with bounds."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from cass_tune.config import to_json
from cass_tune.durations import Durations
from cass_tune.estimate import seconds
from cass_tune.pace import PHASES, images_passed, kind
from cass_tune.placement import Busy, Node, Place, Placement
from cass_tune.plan import Wanted
from cass_tune.sharing import nothing_stored, own_epochs
from tests import grids

SECONDS_PER_IMAGE = 1 / 500


@dataclass
class Run:
    """A trial in simulated time.

    Args:
        item: the trial.
        place: where it runs.
        start_s: when it began.
        first: epochs of pretraining that were there.
        end_s: when it ends.
    """

    item: Wanted
    place: Place
    start_s: float
    first: int
    end_s: float


class Grid:
    """The paper's grid on machines of different speeds.

    Args:
        items: its trials.
        speeds: images per second of each kind of card, relative to `SECONDS_PER_IMAGE`.
    """

    def __init__(self, items: Sequence[Wanted], speeds: Mapping[str, float]) -> None:
        self.items = items
        self.speeds = speeds
        self.counts = grids.listing().counts()
        self.stored: set[tuple[str, int]] = set()

    def durations(self) -> Durations:
        """Return what judges the trials before they run; how fast the cards are has been measured."""
        estimator: Any = SimpleNamespace(counts=self.counts, finetuning=self.finetuning, judge=self.epoch_s)
        durations = Durations(estimator, self.items, own_epochs(self.items, nothing_stored))
        config = to_json(self.items[0].trial)
        for card, speed in self.speeds.items():
            durations.measured(card, {kind(config, "pretrain"): SECONDS_PER_IMAGE / speed})
        return durations

    def epoch_s(self, config: Mapping[str, Any], phase: str) -> float:
        """Return the seconds of an epoch on a card of speed 1."""
        return images_passed(config, self.counts, phase) * SECONDS_PER_IMAGE

    @staticmethod
    def finetuning(item: Wanted) -> dict[str, int]:
        """Return the epochs of finetuning."""
        return dict.fromkeys(PHASES[1:], item.trial.finetune.epochs)

    def missing(self, item: Wanted) -> tuple[int, list[str]]:
        """Return how many epochs of pretraining are stored of a trial's, and the stages that lack some."""
        lacks: list[str] = []
        for segment in reversed(item.segments):
            there = max((end for stage, end in self.stored if stage == segment.stage and end <= segment.end), default=0)
            if there == segment.end:
                return segment.end, lacks
            lacks.append(segment.stage)
            if there > segment.start:
                return there, lacks
        return 0, lacks

    def shared_s(self) -> dict[str, float]:
        """Return the seconds on a card of speed 1 of all finetunings and pretrainings, by trial and by first stage."""
        found = {str(item.digest): self.work_s(item, item.trial.pretrain.epochs) for item in self.items}
        for item in self.items:
            stage = item.segments[0].stage
            found[stage] = max(found.get(stage, 0.0), self.work_s(item, 0) - found[str(item.digest)])
        return found

    def work_s(self, item: Wanted, first: int) -> float:
        """Return the seconds of a trial on a card of speed 1 that goes on from so many epochs of pretraining."""
        epochs = {"pretrain": item.trial.pretrain.epochs - first if item.segments else 0, **self.finetuning(item)}
        return seconds(to_json(item.trial), self.counts, epochs, self.epoch_s)[0]


def play(grid: Grid, nodes: Sequence[Node], share: float = 1.0) -> tuple[float, list[Run]]:
    """Return the makespan in seconds and the runs, as `Placement` and `Durations` decide.

    Args:
        grid: the trials.
        nodes: the machines, none of which shares cards.
        share: of a card.
    """
    durations = grid.durations()
    placement = Placement[Wanted](lambda item, kind: share, 1, durations.seconds)
    waiting, live, done = list(grid.items), list[Run](), list[Run]()
    events: list[tuple[float, int, Callable[[], None]]] = []
    counter = itertools.count()
    now = 0.0

    def at(when: float, what: Callable[[], None]) -> None:
        heapq.heappush(events, (when, next(counter), what))

    def end(run: Run) -> None:
        live.remove(run)
        done.append(run)

    def is_ready(item: Wanted, ahead: list[Wanted]) -> bool:
        lacks = set(grid.missing(item)[1])
        return all(lacks.isdisjoint(grid.missing(other)[1]) for other in (*(run.item for run in live), *ahead))

    def start(item: Wanted, place: Place) -> None:
        speed = grid.speeds[place.group.kind]
        first = grid.missing(item)[0]
        run = Run(item, place, now, first, now + grid.work_s(item, first) / speed)
        waiting.remove(item)
        live.append(run)
        at(run.end_s, lambda: end(run))
        config = to_json(item.trial)
        wanted_ends = {
            s.end for other in grid.items for s in other.segments if s.stage in {t.stage for t in item.segments}
        }
        for segment in item.segments:
            for epoch in sorted(e for e in wanted_ends | {segment.end} if max(first, segment.start) < e <= segment.end):
                when = now + (epoch - first) * grid.epoch_s(config, "pretrain") / speed
                at(when, lambda key=(segment.stage, epoch): grid.stored.add(key))

    while waiting or live:
        busy = [Busy(place=run.place, left_s=run.end_s - now) for run in live]
        cards = sum(node.cards for node in nodes)
        ordered = durations.in_order(waiting, cards, [run.item for run in live])
        chosen = placement.choose(ordered, nodes, busy, is_ready)
        if chosen:
            start(*chosen)
            continue
        assert events, "nothing runs, and nothing starts"
        now, _, what = heapq.heappop(events)
        what()
        while events and events[0][0] <= now:
            heapq.heappop(events)[2]()
    return max(run.end_s for run in done), done


def bound(grid: Grid, runs: Sequence[Run], speeds: Sequence[float]) -> float:
    """Return a makespan that no schedule is below in which each pretraining is run through on one card.

    All that was computed takes at least as long as all cards together need. And on whichever cards pretrainings run,
    the last one is followed by a finetuning.
    """
    total = sum((run.end_s - run.start_s) * grid.speeds[run.place.group.kind] for run in runs) / sum(speeds)
    parts = grid.shared_s()
    trunks = [parts[stage] for stage in {item.segments[0].stage for item in grid.items}]
    after = max(parts[str(item.digest)] for item in grid.items) / max(speeds)
    ways = itertools.product(range(len(speeds)), repeat=len(trunks))
    return max(total, min(_last_end(trunks, way, speeds) for way in ways) + after)


def _last_end(lengths: Sequence[float], way: Sequence[int], speeds: Sequence[float]) -> float:
    """Return when the last trial has ended, with each on the card given."""
    loads = [0.0] * len(speeds)
    for length, number in zip(lengths, way, strict=True):
        loads[number] += length / speeds[number]
    return max(loads)


def best(lengths: Sequence[float], speeds: Sequence[float]) -> float:
    """Return the least makespan of independent trials by trying every assignment."""
    ways = itertools.product(range(len(speeds)), repeat=len(lengths))
    return min(_last_end(lengths, way, speeds) for way in ways)
