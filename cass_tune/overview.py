"""A study's plan, and a trial's end, in lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cass_tune.config import ARMS
from cass_tune.console import Work
from cass_tune.data.listing import Listing
from cass_tune.data.splits import split
from cass_tune.plan import Wanted
from cass_tune.results import Results
from cass_tune.sharing import own_epochs

WARNINGS_SHOWN = 6


def headline(record: Mapping[str, Any]) -> str:
    """Return both arms' macro-F1 on the test part, in one line."""
    return "macro-F1 " + ", ".join(f"{arm} {values['test']['macro_f1']:.3f}" for arm, values in record["arms"].items())


def failure_line(failure: Mapping[str, Any] | None) -> str:
    """Return an error's type, its first line and where the log lies."""
    if failure is None:
        return "unknown error"
    first = (failure["message"].strip().splitlines() or [""])[0]
    return f"{failure['type']}: {first[:300]}  (log: {failure['log']})"


def position_text(position: Mapping[str, Any]) -> str:
    """Return where a trial is, for example ``finetune_cnn, epoch 13, batch 4``."""
    batch = f", batch {position['batch']}" if position["batch"] else ""
    return f"{position['phase']}, after epoch {position['epoch']}{batch}"


def plan_lines(
    wanted: Sequence[Wanted], missing: Sequence[Wanted], results: Results, listing: Listing | None, unchecked: str
) -> list[str]:
    """Return what the study wants, what is there, and what will run.

    Args:
        wanted: every trial.
        missing: those that will run.
        results: root of all records.
        listing: the data, or None when they are not on this machine.
        unchecked: why something could not be checked, or an empty text.
    """
    lines = [*_data_lines(listing), _trials_line(wanted)]
    if unchecked:
        lines.append(f"finished: unknown. Not checked: {unchecked}")
    else:
        lines += [_state_line(wanted, missing, results), _pretraining_line(wanted, missing, results)]
    return lines


def _data_lines(listing: Listing | None) -> list[str]:
    if listing is None:
        return []
    parts = ", ".join(f"{sum(counts.values())} {part}" for part, counts in listing.counts().items())
    skipped = [f"skipped {len(listing.bad_images)} images that cannot be read"] if listing.bad_images else []
    warnings = [*skipped, *listing.warnings]
    more = [f"  and {len(warnings) - WARNINGS_SHOWN} more warnings"] if len(warnings) > WARNINGS_SHOWN else []
    return [
        f"data: {listing.name}, {parts} images, classes {', '.join(listing.classes)}",
        *(f"  note: {text}" for text in warnings[:WARNINGS_SHOWN]),
        *more,
    ]


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


def _state_line(wanted: Sequence[Wanted], missing: Sequence[Wanted], results: Results) -> str:
    states = [results.trial(str(item.digest)).status() for item in wanted]
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in ("done", "failed", "collapsed", "running") if state in states
    )
    return f"finished: {counts or 'none'}; to run: {len(missing)}"


def _pretraining_line(wanted: Sequence[Wanted], missing: Sequence[Wanted], results: Results) -> str:
    distinct = {item.segments[0].stage for item in wanted if item.segments}
    asked = sum(item.trial.pretrain.epochs for item in wanted if item.segments)
    own = own_epochs(missing, lambda stage: results.stage(stage).ends())
    return (
        f"pretraining: {len(distinct)} distinct, {_count(asked, 'epoch')} asked for, "
        f"{sum(own.values())} to run (what trials have in common is done once)"
    )


def trial_lines(wanted: Sequence[Wanted], results: Results) -> list[str]:
    """Return one line per trial: identity, state, name."""
    lines = []
    for item in wanted:
        state = results.trial(item.digest).status() if item.digest else "unknown"
        lines.append(f"{(item.digest or '?')[:12]:12}  {state:9}  {item.name}")
    return lines


def work(item: Wanted, listing: Listing, own_epochs: int) -> Work:
    """Return a trial's amount of work, counted in images passed forward and backward through one network.

    Args:
        item: the trial.
        listing: its data.
        own_epochs: epochs of pretraining that it computes itself.
    """
    trial = item.trial
    parts = split(listing, trial.data, trial.seed)
    phases: dict[str, tuple[float, int]] = {}
    shared: dict[str, int] = {}
    if item.segments:
        phases["pretrain"] = (len(ARMS) * len(parts.pretrain), trial.pretrain.epochs)
        shared["pretrain"] = trial.pretrain.epochs - own_epochs
    for arm in ARMS:
        phases[f"finetune_{arm}"] = (len(parts.labelled) + len(parts.validation) / 3, trial.finetune.epochs)
    return Work(name=item.name, phases=phases, shared=shared)
