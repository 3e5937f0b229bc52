"""A study's plan, and a trial's end, in lines for people."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cass_tune.config import ARMS, Data
from cass_tune.console import Work, duration
from cass_tune.data.listing import Listing
from cass_tune.data.listings import Listings
from cass_tune.data.splits import SPLIT_OPTIONS, distinct_splits, left_out
from cass_tune.data.wording import listed
from cass_tune.estimate import PUBLISHED, RATES, Estimate, Room, Sizes, Time
from cass_tune.fitting import Fit
from cass_tune.keeping import gigabytes
from cass_tune.plan import Wanted
from cass_tune.results import SPLIT_DIGITS
from cass_tune.sharing import unshared_reason

WARNINGS_SHOWN = 6
SHARED_SHOWN = 3
SPLITS_SHOWN = 3
PARTS_SHOWN = 3


def headline(record: Mapping[str, Any]) -> str:
    """Return both arms' macro-F1 in one line: on the test part, or on validation where the test was left out."""
    part = "test" if all("test" in values for values in record["arms"].values()) else "validation"
    numbers = ", ".join(f"{arm} {values[part]['macro_f1']:.3f}" for arm, values in record["arms"].items())
    return f"{'macro-F1' if part == 'test' else 'validation macro-F1'} {numbers}"


def failure_line(failure: Mapping[str, Any] | None) -> str:
    """Return an error's type, its first line and where the log lies."""
    if failure is None:
        return "unknown error"
    first = (failure["message"].strip().splitlines() or [""])[0]
    return f"{failure['type']}: {first[:300]}  (log: {failure['log']})"


def share_line(card: str, fit: Fit, trials: int) -> str:
    """Return how trials are placed on a kind of card.

    Args:
        card: the kind.
        fit: of the trials.
        trials: how many.
    """
    together = math.floor(1 / fit.share) if 0 < fit.share < 1 else 1
    share = f"{together} at a time on one card" if together > 1 else f"{fit.share:g} for each"
    again = ", with activation checkpointing" if fit.checkpointing else ""
    return f"{card}: {trials} trials, {share}{again}"


def position_text(position: Mapping[str, Any]) -> str:
    """Return where a trial is, for example ``finetune_cnn, epoch 13, batch 4``."""
    batch = f", batch {position['batch']}" if position["batch"] else ""
    return f"{position['phase']}, after epoch {position['epoch']}{batch}"


def plan_lines(
    wanted: Sequence[Wanted],
    missing: Sequence[Wanted],
    states: Mapping[str, str],
    listings: Listings | None,
    estimate: Estimate | None,
    *,
    unchecked: str,
    price: float | None,
    trials: str | None = None,
) -> list[str]:
    """Return what the study wants, what is there, what will run, and what that takes.

    Args:
        wanted: every trial.
        missing: those that will run, in order.
        states: of every trial, by identity.
        listings: the data, as each of the trials has them, or None when they are not on this machine.
        estimate: of the missing trials; None when something could not be checked.
        unchecked: why something could not be checked, or an empty text.
        price: of an hour of one device.
        trials: says how many trials there are; the cells, controls and seeds of the wanted ones by default.
    """
    lines = [*_data_lines(listings), *_split_lines(listings, wanted), trials or _trials_line(wanted)]
    if estimate is None:
        return [*lines, f"finished: unknown. Not checked: {unchecked}"]
    lines += [_state_line(missing, states), *_pretraining_lines(wanted, missing, estimate)]
    if missing:
        lines += [_samples_line(estimate), *time_lines(estimate.times, price), *room_lines(estimate.room)]
    return lines


def _data_lines(listings: Listings | None) -> list[str]:
    if listings is None:
        return []
    listing, parts = listings.first, list(dict.fromkeys(map(_parts_text, listings.known)))
    skipped = [f"skipped {len(listing.bad_images)} images that cannot be read"] if listing.bad_images else []
    warnings = list(dict.fromkeys([*skipped, *(text for each in listings.known for text in each.warnings)]))
    more = [f"  and {len(warnings) - WARNINGS_SHOWN} more warnings"] if len(warnings) > WARNINGS_SHOWN else []
    return [
        f"data: {listing.name}, {listed(parts, limit=PARTS_SHOWN, separator=' or ')} images, "
        f"classes {', '.join(listing.classes)}",
        *(f"  note: {text}" for text in warnings[:WARNINGS_SHOWN]),
        *more,
    ]


def _parts_text(listing: Listing) -> str:
    return ", ".join(f"{sum(counts.values())} {part}" for part, counts in listing.counts().items())


def _split_lines(listings: Listings | None, wanted: Sequence[Wanted]) -> Iterator[str]:
    """Yield the hash of each distinct split, with which options it is that of which trials."""
    splits = distinct_splits(listings, (item.trial.data for item in wanted)) if listings else {}
    varied = [name for name in SPLIT_OPTIONS if len({getattr(data, name) for data in splits.values()}) > 1]
    shown = [digest[:SPLIT_DIGITS] + _options_text(data, varied) for digest, data in splits.items()]
    if shown:
        yield f"{'split' if len(shown) == 1 else f'splits: {len(shown)}'}: {listed(shown, limit=SPLITS_SHOWN)}"
    if listings:
        dropped = dict.fromkeys(text for data in splits.values() for text in left_out(listings(data), data))
        yield from (f"  note: {text}" for text in list(dropped)[:SPLITS_SHOWN])


def _options_text(data: Data, names: Sequence[str]) -> str:
    """Return for example `` (fold 2)``; nothing of no options."""
    options = ", ".join(f"{name.replace('_', ' ')} {getattr(data, name)}" for name in names)
    return f" ({options})" if options else ""


def _trials_line(wanted: Sequence[Wanted]) -> str:
    seeds = sorted({item.trial.seed for item in wanted})
    controls = sum(item.trial.pretrain.method == "none" for item in wanted) // len(seeds)
    cells = len(wanted) // len(seeds) - controls
    shown = " ".join(map(str, seeds))
    return (
        f"trials: {_count(cells, 'cell')} and {_count(controls, 'control')} without pretraining, "
        f"{_count(len(seeds), 'seed')} ({shown}): {len(wanted)}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _state_line(missing: Sequence[Wanted], states: Mapping[str, str]) -> str:
    found = Counter(states.values())
    counts = ", ".join(
        f"{found[state]} {state}"
        for state in ("done", "untested", "failed", "collapsed", "pruned", "running")
        if found[state]
    )
    return f"finished: {counts or 'none'}; to run: {len(missing)}"


def _pretraining_lines(wanted: Sequence[Wanted], missing: Sequence[Wanted], estimate: Estimate) -> Iterator[str]:
    groups: dict[str, list[Wanted]] = defaultdict(list)
    for item in wanted:
        if item.segments:
            groups[item.segments[0].stage].append(item)
    asked = sum(item.trial.pretrain.epochs for items in groups.values() for item in items)
    yield (
        f"pretraining: {len(groups)} distinct, {_count(asked, 'epoch')} asked for, "
        f"{sum(estimate.own.values())} to run (what trials have in common is done once)"
    )
    if any(estimate.own.values()):
        there = {segment.stage for item in missing for segment in item.segments}
        yield from _sharing_lines([items for stage, items in groups.items() if len(items) > 1 and stage in there])
        reason = unshared_reason(wanted) or _different(list(groups.values()))
        yield from [f"  note: {reason}"] if reason else []


def _sharing_lines(groups: Sequence[Sequence[Wanted]]) -> Iterator[str]:
    """Yield how each pretraining that several trials need is shared."""
    for items in groups[:SHARED_SHOWN]:
        yield f"  {_common_name(items)}: {_ends_text(items)}; {len(items)} trials"
    if len(groups) > SHARED_SHOWN:
        yield f"  and {len(groups) - SHARED_SHOWN} more that are shared"


def _common_name(items: Sequence[Wanted]) -> str:
    """Return what the names of all these trials say alike."""
    words = [item.name.split() for item in items]
    return " ".join(word for word in words[0] if all(word in others for others in words))


def _ends_text(items: Sequence[Wanted]) -> str:
    """Return for example ``200 epochs, also the ends of 50 and 100``, or how they leave a trunk."""
    lengths = sorted({item.trial.pretrain.epochs for item in items})
    decays = sorted({item.segments[-1].end - item.segments[-1].start for item in items if len(item.segments) > 1})
    if decays:
        trunk = max(item.segments[0].end for item in items)
        return f"a trunk of {_count(trunk, 'epoch')}, from which decays of {_and(decays)} lead to {_and(lengths)}"
    also = f", also the ends of {_and(lengths[:-1])}" if len(lengths) > 1 else ""
    return f"{_count(lengths[-1], 'epoch')}{also}"


def _and(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def _different(groups: Sequence[Sequence[Wanted]]) -> str | None:
    """Return why nothing is shared, if every trial has a pretraining of its own."""
    if len(groups) < 2 or any(len(items) > 1 for items in groups):
        return None
    words = [set(items[0].name.split()) for items in groups]
    names = dict.fromkeys(word.partition("=")[0] for word in groups[0][0].name.split())
    varied = [n for n in names if len({word for each in words for word in each if word.startswith(f"{n}=")}) > 1]
    return f"no two trials have a pretraining in common: they differ in {' and '.join(varied)}"


def _samples_line(estimate: Estimate) -> str:
    saved = f"{estimate.samples_alone / estimate.samples:.2f} times as many" if estimate.samples else ""
    times = f" ({saved})" if estimate.samples_alone > estimate.samples > 0 else ""
    most = "at most " if estimate.may_be_fewer else ""
    shared, alone = _number(estimate.samples), _number(estimate.samples_alone)
    return f"samples: {most}{shared} to train on, {alone} without sharing{times}"


def _number(count: int) -> str:
    return f"{count / 1e6:.4g} M" if count >= 1e6 else f"{count:,}"


def time_lines(times: Sequence[Time], price: float | None) -> list[str]:
    """Return how long devices will be at work and, given a price, what that costs.

    Args:
        times: one that is measured, or several with published rates, or none.
        price: of an hour of one device.
    """
    if not times:
        return ["hours: not known before a trial of this kind has run here, or a probe at the start of a run"]
    first = times[0]
    shown = ", ".join(f"{_hours(time)}{_at(time)}{_rate(time)}" for time in times)
    if not first.is_measured:
        lines = [f"hours: at published rates (nothing was measured here) {shown}"]
    else:
        rest = f", for the rest at {RATES}" if first.name else ""
        lines = [f"hours: {shown}, {first.source}{rest}"]
    at_least = f"at least: {_count(first.unjudged, 'epoch')} cannot be judged"
    lines[0] = "; ".join([*lines, *([at_least] if first.unjudged else []), *first.notes])
    if price is not None:
        about = "at least" if first.unjudged else "about"
        costs = ", ".join(f"{price * time.hours:.2f}{_at(time)}" for time in times)
        lines.append(f"cost: {about} {costs}, at {price:g} per {_UNIT[first.device]}-hour")
    return lines


def _at(time: Time) -> str:
    """Return which device a published rate is of."""
    if time.name is None:
        return ""
    return f" with the rate of a {time.name}" if time.is_measured else f" on a {time.name}"


def _rate(time: Time) -> str:
    return f" ({PUBLISHED[time.name]:g} images/s)" if time.name else ""


_UNIT = {"cuda": "GPU", "cpu": "machine"}


def _hours(time: Time) -> str:
    unit = f"{_UNIT[time.device]}-hours"
    if time.hours < 0.01:
        return f"less than 0.01 {unit}"
    hours = f"{time.hours:.2g}" if time.hours < 10 else f"{time.hours:.0f}"
    exact = f" ({duration(3600 * time.hours)})" if time.hours < 1 else ""
    return f"about {hours} {unit}{exact}"


def room_lines(room: Room | None) -> list[str]:
    """Return what will be written, what is free, and a warning when that is too little.

    Args:
        room: what is needed, or None: not known.
    """
    if room is None:
        return ["disk: not known before the networks are built, at the start of a run"]
    passed = f" ({room.passed} of them for other studies)" if room.passed else ""
    parts = [
        f"{gigabytes(room.stages)} for {_count(room.ends, 'end')} of pretrainings{passed}" if room.ends else "",
        f"{gigabytes(room.weights)} for finetuned networks" if room.weights else "",
        f"{gigabytes(room.finetunings)} for the ends of two generations" if room.finetunings else "",
        f"{gigabytes(room.checkpoints)} of checkpoints per running trial",
    ]
    free = "an object store" if room.free is None else f"{gigabytes(room.free)} free"
    lines = [f"disk: at most {', '.join(filter(None, parts))}; {free}"]
    if not room.is_enough:
        lines.append(
            "warning: this does not fit: make room, or give another --results, --keep-stages unfinished, "
            "or --keep-weights none"
        )
    return lines


def trial_lines(wanted: Sequence[Wanted], states: Mapping[str, str]) -> list[str]:
    """Return one line per trial: identity, state, name.

    Args:
        wanted: every trial.
        states: by identity.
    """
    return [
        f"{(item.digest or '?')[:12]:12}  {states[item.digest] if item.digest else 'unknown':9}  {item.name}"
        for item in wanted
    ]


def work(item: Wanted, sizes: Sizes, own_epochs: int) -> Work:
    """Return a trial's amount of work, counted in images passed forward and backward through one network.

    Args:
        item: the trial.
        sizes: of its parts.
        own_epochs: epochs of pretraining that it computes itself.
    """
    trial = item.trial
    phases: dict[str, tuple[float, int]] = {}
    shared: dict[str, int] = {}
    if item.segments:
        phases["pretrain"] = (len(ARMS) * sizes.pretrain, trial.pretrain.epochs)
        shared["pretrain"] = trial.pretrain.epochs - own_epochs
    for arm in ARMS:
        phases[f"finetune_{arm}"] = (sizes.labelled + sizes.validation / 3, trial.finetune.epochs)
        if item.generation_epochs:
            shared[f"finetune_{arm}"] = trial.finetune.epochs - item.generation_epochs
    return Work(name=item.name, phases=phases, shared=shared)
