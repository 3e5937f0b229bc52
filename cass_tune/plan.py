"""What a study wants, and what of it is there already."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cass_tune.config import ARMS, Trial, control, get_field, plain, to_json, with_field
from cass_tune.data.listing import Listing
from cass_tune.errors import UsageError
from cass_tune.identity import Inputs, Segment, matters, segments, trial_digest
from cass_tune.presets import of_method
from cass_tune.pruning import Pruning
from cass_tune.results import Results, TrialFolder

Axes = Mapping[str, Sequence[Any]]

OPEN = ("missing", "running", "untested", "pruned")
"""States of a trial that is neither finished nor failed: another process may be at it, or a search has left it so."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One trial of a study.

    Args:
        trial: its full description.
        name: only the fields that differ within the study, for example ``batch_size=8 seed=0``.
        inputs: data and weights that it reads, or None when they could not be read here.
        digest: identity, or None with unknown inputs.
        segments: of its pretraining; none for a control or unknown inputs.
        passes: what shorter trials of other studies would go on from and lies on its way: their identity and segment.
        pruning: when to stop it early, in a search.
        is_tested: whether the test images are looked at, or it ends untested, in a search.
        generation_epochs: see `cass_tune.run_options.RunOptions`.
    """

    trial: Trial
    name: str
    inputs: Inputs | None
    digest: str | None
    segments: tuple[Segment, ...] = ()
    passes: tuple[tuple[str, Segment], ...] = ()
    pruning: Pruning | None = None
    is_tested: bool = True
    generation_epochs: int = 0

    def ends(self) -> Iterator[tuple[str, Segment]]:
        """Yield every segment whose end must be stored, with the identity of the trial that goes on from it."""
        yield from ((str(self.digest), segment) for segment in self.segments)
        yield from self.passes

    @property
    def is_control(self) -> bool:
        """Whether it has no pretraining."""
        return self.trial.pretrain.method == "none"

    def record(self) -> dict[str, Any]:
        """Return what a plan file keeps of it."""
        return {
            "digest": self.digest,
            "name": self.name,
            "segments": [asdict(segment) for segment in self.segments],
            "weights": self.inputs.weights() if self.inputs else None,
            "config": to_json(self.trial),
        }


def grid(base: Trial, axes: Axes) -> Iterator[Trial]:
    """Yield the trials of a full grid.

    Args:
        base: every field that is not an axis.
        axes: values by ``"section.field"``.
    """
    for values in itertools.product(*axes.values()):
        trial = base
        for path, value in zip(axes, values, strict=True):
            trial = with_field(trial, path, value)
        yield trial


def star(base: Trial, axes: Axes) -> Iterator[Trial]:
    """Yield for every method the trials in which at most one other axis differs from the base.

    Args:
        base: the middle; an axis that does not take its value has its middle value there.
        axes: values by ``"section.field"``.
    """
    others = {path: values for path, values in axes.items() if path != "pretrain.method"}
    middle = {path: _middle(get_field(base, path), values) for path, values in others.items()}
    for trial in grid(base, axes):
        if sum(get_field(trial, path) != value for path, value in middle.items()) <= 1:
            yield trial


def _middle(value: Any, values: Sequence[Any]) -> Any:
    return value if value in values else values[len(values) // 2]


def with_controls(cells: Iterable[Trial]) -> list[Trial]:
    """Return the cells and, for every setting that a control can have among them, one control without pretraining."""
    cells = list(dict.fromkeys(cells))
    controls: dict[Any, Trial] = {}
    for trial in cells:
        controls.setdefault(_control_key(trial), control(trial))
    there = {_control_key(trial) for trial in cells if trial.pretrain.method == "none"}
    return [*cells, *(trial for key, trial in controls.items() if key not in there)]


def _control_key(trial: Trial) -> Any:
    """Return what a control's numbers depend on."""
    data = with_field(trial, "data.pretrain_fraction", 1.0).data
    weights = (trial.pretrain.weights_of(arm) for arm in ARMS)
    return (data, trial.finetune, trial.pretrain.cnn, trial.pretrain.vit, *weights)


def replicate(cells: Sequence[Trial], seeds: Sequence[int]) -> list[Trial]:
    """Return every cell with every seed, seed by seed, so that a complete table exists early."""
    return [with_field(trial, "seed", seed) for seed in seeds for trial in cells]


def select(trials: Sequence[Trial], only: Sequence[str], axes: Axes) -> list[Trial]:
    """Keep the trials that ``--only section.field=value,value ...`` names; a field that cannot matter always fits.

    Raises:
        UsageError: a condition names no axis or fits no trial; every one is named.
    """
    problems: list[str] = []
    kept = list(trials)
    for condition in only:
        path, equals, values = condition.partition("=")
        path = path.replace("-", "_")
        if not equals or path not in axes:
            known = ", ".join(axis.replace("_", "-") for axis in axes)
            problems.append(f"--only takes axis=value,value with an axis of the study ({known}), not {condition!r}.")
            continue
        wanted = {_comparable(text): text for text in values.split(",")}
        there = {_comparable(value): value for t in trials if matters(t, path) for value in [get_field(t, path)]}
        missing = [text for value, text in wanted.items() if value not in there]
        if missing:
            known = ", ".join(str(value) for value in there.values())
            problems.append(f"--only {condition}: no cell has {', '.join(missing)}; there are {known}.")
        kept = [t for t in kept if not matters(t, path) or _comparable(get_field(t, path)) in wanted]
    if not kept and not problems:
        problems.append(f"--only {' '.join(only)} leaves no cell: every condition must hold.")
    if problems:
        raise UsageError(*problems)
    return kept


def _comparable(value: Any) -> float | str:
    """Return a number, or its text, as a number, so that 1 and 1.0 are one; any other text as it is."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(plain(value))


def names(trials: Sequence[Trial]) -> list[str]:
    """Return a readable name for each trial that shows only the fields that differ among them, and the seed.

    The last part of a field's name is used, the whole where two sections share it. The method comes first where there
    are several, and ``none`` marks a control; what a method brings of its own (`cass_tune.presets.of_method`) is left
    out.
    """
    differing = _differing(trials)
    short = [path.rpartition(".")[2] for path in differing]
    labels = {p: (s if short.count(s) == 1 else p) for p, s in zip(differing, short, strict=True)}
    methods = {trial.pretrain.method for trial in trials} - {"none"}
    return [_name(trial, labels, names_method=len(methods) > 1) for trial in trials]


def _name(trial: Trial, labels: Mapping[str, str], *, names_method: bool) -> str:
    method = trial.pretrain.method
    shown = [f"{label}={_text(get_field(trial, path))}" for path, label in labels.items() if matters(trial, path)]
    return " ".join([*([method] if names_method or method == "none" else []), *shown, f"seed={trial.seed}"])


def _differing(trials: Sequence[Trial]) -> list[str]:
    """Return the fields that differ among trials of one method, beyond what the method brings."""
    by_method: dict[str, list[Trial]] = {}
    for trial in trials:
        by_method.setdefault(trial.pretrain.method, []).append(trial)
    records = [to_json(trial) for trial in trials]
    paths = [f"{s}.{name}" for s, section in records[0].items() if isinstance(section, dict) for name in section]
    controls = by_method.pop("none", [])
    groups = [[*own, *controls] for own in by_method.values()] or [controls]
    return [path for path in paths if path != "pretrain.method" and any(_differs(path, group) for group in groups)]


def _differs(path: str, trials: Sequence[Trial]) -> bool:
    found = [(trial, get_field(trial, path)) for trial in trials if matters(trial, path)]
    is_methods = found and all(path in own and own[path] == value for t, value in found for own in [of_method(t)])
    return not is_methods and len({_text(value) for _, value in found}) > 1


def resolve(trials: Sequence[Trial], inputs: Mapping[Trial, Inputs | None], passes: Iterable[int] = ()) -> list[Wanted]:
    """Give every trial its name and identities; trials of one identity are wanted once.

    Args:
        trials: of the study.
        inputs: what each reads.
        passes: numbers of pretraining epochs at which trials of other studies leave a pretraining.
    """
    lengths = tuple(passes)
    wanted: dict[Any, Wanted] = {}
    for trial, name in zip(trials, names(trials), strict=True):
        known = inputs[trial]
        digest = trial_digest(trial, known) if known else None
        parts = segments(trial, known) if known else ()
        item = Wanted(trial=trial, name=name, inputs=known, digest=digest, segments=parts)
        if known and lengths:
            item = replace(item, passes=tuple(_passes(trial, known, parts, lengths)))
        wanted.setdefault(digest or trial, item)
    return list(wanted.values())


def _passes(
    trial: Trial, inputs: Inputs, chain: Sequence[Segment], lengths: Iterable[int]
) -> Iterator[tuple[str, Segment]]:
    """Yield the segments of the same trial with fewer epochs that end within a chain, with that trial's identity."""
    furthest = {segment.stage: segment.end for segment in chain}
    for length in lengths:
        try:
            shorter = with_field(trial, "pretrain.epochs", length)
        except UsageError:  # it has no room for the warm-up
            continue
        for segment in segments(shorter, inputs):
            if segment.end < furthest.get(segment.stage, 0):
                yield trial_digest(shorter, inputs), segment


def to_run(wanted: Sequence[Wanted], results: Results, redo: str, *, collapsed_too: bool = True) -> list[Wanted]:
    """Return the trials that must run.

    Args:
        wanted: all trials of the study.
        results: root of all records.
        redo: ``failed`` (and missing ones), ``all``, or ``none`` (missing ones alone).
        collapsed_too: whether ``failed`` takes in the trials that were stopped because their pretraining collapsed.
    """
    again = {"failed": (*OPEN, "failed", *(["collapsed"] if collapsed_too else [])), "none": OPEN}
    return [w for w in wanted if w.digest and (redo == "all" or results.trial(w.digest).status() in again[redo])]


def to_probe(wanted: Sequence[Wanted], results: Results, probes: Sequence[str]) -> list[Wanted]:
    """Return the finished trials that lack some of these probes and can be probed without training."""
    return [
        item
        for item in wanted
        if item.digest
        and results.trial(item.digest).is_finished()
        and can_be_probed(results.trial(item.digest), results, item.segments, probes)
    ]


def can_be_probed(folder: TrialFolder, results: Results, chain: Sequence[Segment], probes: Sequence[str]) -> bool:
    """Return whether a trial lacks some of these probes while what its finetuning starts from is there.

    Args:
        folder: of the trial.
        results: root of all records.
        chain: segments of its pretraining; none for a control, which starts from its starting weights.
        probes: those asked for.
    """
    is_there = not chain or results.stage(chain[-1].stage).has_end(chain[-1].end)
    return is_there and bool(folder.missing_probes(probes))


def describe_data(listing: Listing) -> dict[str, Any]:
    """Return what a plan file keeps of the data."""
    return {
        "name": listing.name,
        "fingerprint": listing.fingerprint,
        "task": listing.task,
        "classes": list(listing.classes),
        "counts": listing.counts(),
        "bad_images": listing.bad_images,
    }
