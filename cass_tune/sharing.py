"""What the trials of a study have in common: which pretrainings are computed once, by whom, and in what order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from cass_tune.identity import Segment, why_apart
from cass_tune.plan import Wanted
from cass_tune.results import Record, Results

Ends = Callable[[str], Iterable[int]]
"""Returns the epochs whose ends are stored, of a stage."""


def nothing_stored(stage: str) -> Iterable[int]:
    """Say that a stage has no ends."""
    return ()


def in_order(items: Sequence[Wanted]) -> list[Wanted]:
    """Return trials in the order in which they should start.

    Seed by seed, so that a complete table exists early. Within a seed first, for every chain of pretraining, the trial
    that goes furthest, the longest chain first: it computes what the others share. Then the others, as they were asked
    for, and the controls.

    Args:
        items: as they were asked for.
    """
    seeds = dict.fromkeys(item.trial.seed for item in items)
    return [item for seed in seeds for item in _of_seed([item for item in items if item.trial.seed == seed])]


def _of_seed(items: Sequence[Wanted]) -> list[Wanted]:
    furthest: dict[object, Wanted] = {}
    for item in items:
        chain = item.segments[0].stage if item.segments else item.trial
        if not item.is_control and _epochs(item) > (_epochs(furthest[chain]) if chain in furthest else 0):
            furthest[chain] = item
    first = sorted(furthest.values(), key=_epochs, reverse=True)
    rest = [item for item in items if item not in first]
    return [*first, *sorted(rest, key=lambda item: item.is_control)]


def _epochs(item: Wanted) -> int:
    return item.trial.pretrain.epochs


def wanted_ends(items: Iterable[Wanted]) -> dict[str, dict[int, list[str]]]:
    """Return which trials want the ends of which epochs, by stage and epoch; also of what is passed for others."""
    found: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        for digest, segment in item.ends():
            if digest not in found[segment.stage][segment.end]:
                found[segment.stage][segment.end].append(digest)
    return {stage: dict(ends) for stage, ends in found.items()}


def register(items: Iterable[Wanted], results: Results) -> None:
    """Record at every stage which trials want its ends, so that whoever computes it stores them.

    Raises:
        StorageError: it could not be written.
    """
    items = list(items)
    trunks = {segment.stage for item in items for segment in item.segments[:-1]}
    for stage, ends in wanted_ends(items).items():
        results.stage(stage).want(ends, is_trunk=stage in trunks)


def own_epochs(items: Sequence[Wanted], stored: Ends, begun: Ends = nothing_stored) -> dict[str, int]:
    """Return how many epochs of pretraining each trial computes itself, by its identity; the rest it shares.

    Args:
        items: trials that will run, in order.
        stored: which ends are stored.
        begun: the epochs of the checkpoints, from which a stage goes on, too.
    """
    return computed(items, stored, begun)[0]


def computed(
    items: Sequence[Wanted], stored: Ends, begun: Ends = nothing_stored
) -> tuple[dict[str, int], dict[str, set[int]]]:
    """Return what `own_epochs` does, and the epochs whose ends these trials will store, by stage."""
    wanted = wanted_ends(items)
    before = {stage: set(stored(stage)) for stage in wanted}
    there = {stage: set(ends) for stage, ends in before.items()}
    saved = {stage: set(begun(stage)) for stage in wanted}
    own = {str(item.digest): _compute(item.segments, wanted, there, saved) for item in items}
    return own, {stage: ends - before[stage] for stage, ends in there.items()}


def _compute(
    segments: Sequence[Segment],
    wanted: Mapping[str, Mapping[int, object]],
    there: dict[str, set[int]],
    saved: Mapping[str, set[int]],
) -> int:
    """Return how many epochs are missing up to the end of the last segment, and take them as stored from now on."""
    if not segments or segments[-1].end in there[segments[-1].stage]:
        return 0
    last = segments[-1]
    begun = [epoch for epoch in there[last.stage] | saved[last.stage] if last.start < epoch <= last.end]
    before = 0 if begun else _compute(segments[:-1], wanted, there, saved)
    start = max(begun, default=last.start)
    there[last.stage].update(epoch for epoch in wanted[last.stage] if start <= epoch <= last.end)
    return before + last.end - start


def unshared_reason(items: Iterable[Wanted]) -> str | None:
    """Return why pretrainings that differ only in their number of epochs share nothing, if some do, or None."""
    epochs: dict[tuple[int, str, str], set[int]] = defaultdict(set)
    for item in items:
        reason = why_apart(item.trial)
        if reason:
            epochs[item.trial.seed, item.trial.pretrain.method, reason].add(_epochs(item))
    reasons = dict.fromkeys(reason for (*_, reason), found in epochs.items() if len(found) > 1)
    return f"pretrainings of different lengths share nothing: {'; '.join(reasons)}" if reasons else None


def rows_of(results: Results, segments: Sequence[Segment]) -> list[Record]:
    """Return the rows of a stored pretraining, marked as reused; of an end that is gone those that were kept.

    Args:
        results: root of all records.
        segments: of the pretraining.
    """
    if not segments:
        return []
    last = segments[-1]
    rows = results.stage(last.stage).end_record(last.end).get("rows")
    if rows is None:
        every = [(segment, row) for segment in segments for row in results.stage(segment.stage).rows()]
        kept = (row for segment, row in every if segment.start < row["epoch"] <= segment.end)
        rows = sorted(kept, key=lambda row: row["epoch"])
    return [{**row, "epochs": last.end, "reused": True} for row in rows]
