"""What the missing trials of a study will take: samples, hours and room, from what is known before they run."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cass_tune.config import ARMS, Trial, to_json
from cass_tune.data.listings import Listings
from cass_tune.data.splits import split
from cass_tune.options import Settings
from cass_tune.pace import PHASES, Kind, Pace, images_passed, kind
from cass_tune.plan import Wanted
from cass_tune.results import Folder, Results, StudyFolder
from cass_tune.sharing import computed
from cass_tune.storage import AnyPath

Judge = Callable[[Mapping[str, Any], str], "float | None"]
"""Returns the seconds of an epoch of a trial, given as JSON, in a phase, or None: not known."""

Work = Sequence[tuple[dict[str, Any], dict[str, int]]]
"""Trials as JSON, each with the epochs that are to be computed, by phase."""

PUBLISHED = {"V100": 24.0, "T4": 7.15}
"""Images per second of the paper's pretraining, both networks at 384 px: a V100 of 16 GB took 190.4 s for an epoch of
4569 images (Padalkar's reproduction, its notebook), a T4 22 h 12 min for 100 epochs (ShineyAji's reproduction)."""
PAPER = {"cnn": "resnet50", "vit": "vit_base_patch16_384"}
PAPER_PX = 384
SHARE = {"cnn": 0.177, "vit": 0.823}
"""Each network's share of the operations of that pretraining: 71.39 and 332.23 GFLOP per image."""

PARAMETERS = {
    "resnet50": 25_557_032,
    "vit_base_patch16_384": 86_859_496,
    "test_resnet": 469_688,
    "test_vit": 371_240,
}
"""Parameters, with 1000 outputs, of the networks of the presets."""
WEIGHT_BYTES, STATE_BYTES = 4, 12
"""Per parameter: float32; and the same with Adam's two moments, as an end of pretraining and a checkpoint have it."""
NETWORKS_ALONE = ("cass", "supervised", "none")
"""Methods that keep both networks, and hardly anything else."""
CHECKPOINTS = 3
"""So many checkpoints of a running trial there are at most: two are kept while the next is written."""

MOST_FOLDERS = 3
"""So many folders with epochs of one kind on one kind of device are read, at most."""
MOST_USELESS = 50
"""After so many folders that teach nothing the rest of a source is not looked at: a store takes its time for each."""

EARLIER = "by earlier trials of the same kind"
RATES = "published rates"
PATIENCE = "less where --finetune.patience ends a finetuning before"
TOGETHER = "trials that share a GPU are taken to be together no faster than one alone"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many images each part of a trial has."""

    pretrain: int
    labelled: int
    validation: int


class PartSizes:
    """How many images the parts of trials have; they are split once for all trials with the same data section.

    Args:
        listings: the data, as each of the trials has them.
    """

    def __init__(self, listings: Listings) -> None:
        self._listings = listings
        self._known: dict[object, Sizes] = {}

    def __call__(self, trial: Trial) -> Sizes:
        """Return the sizes of a trial's parts, which its seed does not change.

        Raises:
            UsageError: a class has no training image left, or there is no image for validation.
        """
        if trial.data not in self._known:
            parts = split(self._listings(trial.data), trial.data, trial.seed)
            self._known[trial.data] = Sizes(
                pretrain=len(parts.pretrain), labelled=len(parts.labelled), validation=len(parts.validation)
            )
        return self._known[trial.data]


def _finetuning_left(epochs: int, done: Mapping[str, int]) -> dict[str, int]:
    """Return the epochs of finetuning that are left, by phase.

    Args:
        epochs: of each arm.
        done: by phase; an arm is finished, be it by patience, when the next has begun.
    """
    begun = [phase for phase in PHASES[1:] if done.get(phase)]
    return {phase: 0 if phase in begun[:-1] else max(0, epochs - done.get(phase, 0)) for phase in PHASES[1:]}


def training_samples(
    trial: Trial, pretrain_epochs: int, sizes: Sizes, finetuning: Mapping[str, int] | None = None
) -> int:
    """Return how many images pass forward and backward through one network; early stopping is not counted.

    Args:
        trial: both networks are pretrained together, without the last partial batch, then each is finetuned.
        pretrain_epochs: of these.
        sizes: of its parts.
        finetuning: epochs by phase; all by default.
    """
    batch = trial.pretrain.batch_size
    pretraining = pretrain_epochs * (sizes.pretrain // batch * batch)
    epochs = sum((_finetuning_left(trial.finetune.epochs, {}) if finetuning is None else finetuning).values())
    return len(ARMS) * pretraining + epochs * sizes.labelled


def seconds(
    config: Mapping[str, Any], counts: Mapping[str, Any], epochs: Mapping[str, int], judge: Judge
) -> tuple[float, int]:
    """Return the seconds of the phases that can be judged, and how many epochs cannot be.

    Args:
        config: the trial as JSON.
        counts: images in the data by part and class.
        epochs: that are to be computed, by phase; the tests of a finetuned network belong to its last epoch.
        judge: knows the seconds of an epoch.
    """
    known, unjudged = 0.0, 0
    for phase, count in epochs.items():
        each = judge(config, phase) if count else 0.0
        if each is None:
            unjudged += count
        else:
            known += each * (count + _evaluation(config, counts, phase))
    return known, unjudged


def _evaluation(config: Mapping[str, Any], counts: Mapping[str, Any], phase: str) -> float:
    """Return the time of the last evaluation, on validation and test part, in epochs; a forward pass is 1/3."""
    if phase == "pretrain":
        return 0.0
    epoch = images_passed(config, counts, phase)
    train, validation, test = (sum(counts.get(part, {}).values()) for part in ("train", "val", "test"))
    return (test + (validation or config["data"]["validation_fraction"] * train)) / 3 / max(epoch, 1.0)


def published(rate: float, counts: Mapping[str, Any]) -> Judge:
    """Return a judge by a published rate: of the paper's networks at its image size alone, pretrained by CASS.

    Args:
        rate: images per second of pretraining.
        counts: images in the data by part and class.
    """

    def judge(config: Mapping[str, Any], phase: str) -> float | None:
        networks = {arm: config["pretrain"][arm].partition(".")[0] for arm in ARMS}
        if networks != PAPER or config["data"]["image_size_px"] != PAPER_PX:
            return None
        if phase == "pretrain" and config["pretrain"]["method"] != "cass":
            return None
        passed = images_passed(config, counts, phase)
        return passed / len(ARMS) / rate if phase == "pretrain" else passed * SHARE[_arm(phase)] / rate

    return judge


def _arm(phase: str) -> str:
    return phase.removeprefix("finetune_")


@dataclass(frozen=True, kw_only=True)
class Time:
    """How long devices will be at work.

    Args:
        hours: of one device.
        device: ``cuda`` or ``cpu``.
        source: what it is judged by.
        unjudged: epochs that are not in it, because nothing like them is known.
        name: of the device whose published rate stands for what was not measured.
        is_measured: whether any of it was.
        notes: what else is to be said of it.
    """

    hours: float
    device: str
    source: str
    unjudged: int = 0
    name: str | None = None
    is_measured: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Room:
    """What will be written, in bytes at most, and what is free.

    Args:
        ends: ends of pretrainings that will be stored.
        passed: those of them that only other studies will go on from.
        stages: their bytes.
        weights: bytes of the finetuned networks.
        checkpoints: bytes of one running trial's checkpoints.
        finetunings: bytes of the ends of finetunings that are kept at once, of a population.
        free: bytes, or None: not known, of an object store.
    """

    ends: int
    passed: int
    stages: int
    weights: int
    checkpoints: int
    free: int | None
    finetunings: int = 0

    @property
    def is_enough(self) -> bool:
        """Whether all fits, with one trial running, as far as that is known."""
        needed = self.stages + self.weights + self.checkpoints + self.finetunings
        return self.free is None or needed <= self.free


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What trials will take.

    Args:
        own: epochs of pretraining that each computes itself, by its identity.
        samples: images that pass forward and backward through a network.
        samples_alone: the same if nothing were shared and every pretraining began anew.
        may_be_fewer: whether patience may end a finetuning before its last epoch.
        times: one that is measured, or several with published rates, or none: not known.
        room: on the disk, or None: the networks' sizes are not known.
    """

    own: Mapping[str, int]
    samples: int
    samples_alone: int
    may_be_fewer: bool
    times: Sequence[Time]
    room: Room | None


@dataclass(frozen=True, kw_only=True)
class _Earlier:
    """A trial that may have run before.

    Args:
        digest: its identity.
        stages: of its pretraining.
        config: the trial as JSON.
        counts: images in its data by part and class.
    """

    digest: str
    stages: Sequence[str]
    config: Mapping[str, Any]
    counts: Mapping[str, Any]

    @classmethod
    def of(cls, item: Wanted, counts: Mapping[str, Any]) -> _Earlier:
        stages = [segment.stage for segment in item.segments]
        return cls(digest=str(item.digest), stages=stages, config=to_json(item.trial), counts=counts)


def _asked_for(studies: Iterable[StudyFolder]) -> Iterator[_Earlier]:
    """Yield the trials of studies, those that were asked for last first."""
    for study in studies:
        for plan in reversed(study.plans()):
            for trial in plan["trials"]:
                stages = [segment["stage"] for segment in trial.get("segments", ())]
                counts = plan["data"]["counts"]
                yield _Earlier(digest=trial["digest"], stages=stages, config=trial["config"], counts=counts)


class _Lesson:
    """Reads rows of some kinds, so many of each kind and device as are needed.

    Args:
        kinds: of epochs.
        devices: on which they may have run, the one that is asked for last.
        paces: that learn, by device.
    """

    def __init__(self, kinds: Collection[Kind], devices: Sequence[str], paces: Mapping[str, Pace]) -> None:
        self._kinds = set(kinds)
        self._devices = devices
        self._paces = paces
        self._read: Counter[tuple[Kind, str]] = Counter()

    @property
    def is_learned(self) -> bool:
        """Whether enough of every kind was read, on the device that is asked for."""
        return self._are_read(self._kinds, self._devices[-1:])

    def _are_read(self, kinds: Iterable[Kind], devices: Sequence[str]) -> bool:
        return all(self._read[each, device] >= MOST_FOLDERS for each in kinds for device in devices)

    def learn(self, parts: Iterable[tuple[_Earlier, Folder, Sequence[str]]]) -> None:
        """Learn from folders until enough is known, or many have taught nothing."""
        useless = 0
        for item, folder, phases in parts:
            kinds = {kind(item.config, phase) for phase in phases} & self._kinds
            if not self._are_read(kinds, self._devices):
                useless += not self._learn(item, folder, kinds)
            if useless == MOST_USELESS or self.is_learned:
                return

    def _learn(self, item: _Earlier, folder: Folder, kinds: Collection[Kind]) -> bool:
        environment = folder.environment() or {"devices": ()}
        device = "cuda" if any(name.startswith("cuda") for name in environment["devices"]) else "cpu"
        is_new = bool(environment["devices"]) and device in self._devices and not self._are_read(kinds, [device])
        rows = folder.rows() if is_new else []
        if rows:
            self._paces[device].learn(item.config, item.counts, rows)
            self._read.update((each, device) for each in kinds)
        return bool(rows)


class Estimator:
    """Judges what trials will take, by what is known when it is asked.

    Args:
        results: root of all records.
        listings: the data, as each of the trials has them.
        settings: of the run.
    """

    def __init__(self, results: Results, listings: Listings, settings: Settings) -> None:
        self.listings = listings
        self.sizes = PartSizes(listings)
        self.counts = listings.first.counts()
        """Images by part and class, from which hours follow: near enough for a trial whose test part is another."""
        self.device = "cpu" if settings.device == "cpu" else "cuda"
        """On which the trials will run, as far as that is known."""
        self.parameters: dict[tuple[str, int, int], int] = {}
        """Of networks that have been built, by timm name, image size and width of the output."""
        self.state_bytes: dict[object, int] = {}
        """Of an end of pretraining by methods that keep more than both networks, by `kept_with`."""
        self._results = results
        self._settings = settings
        self._paces = {"cpu": Pace(), "cuda": Pace()}
        self._source = EARLIER
        self._alone: set[Kind] = set()
        """What was measured with nothing else on the device."""

    @property
    def pace(self) -> Pace:
        """That of the device on which the trials will run."""
        return self._paces[self.device]

    def learn_earlier(
        self,
        wanted: Sequence[Wanted],
        missing: Sequence[Wanted],
        states: Mapping[str, str],
        study: StudyFolder | None = None,
    ) -> None:
        """Learn from the rows of earlier trials of the same kinds, no more than needed.

        The nearest first: finished trials that are wanted, those that were asked for before in this study, and those
        of other studies. Without ``--device``, trials are expected to run where earlier ones did, on a GPU if some did.

        Args:
            wanted: trials whose rows, and whose pretrainings', may be read.
            missing: trials that are to be judged.
            states: of the wanted trials, by identity.
            study: that they belong to; without it only wanted trials are looked at.
        """
        needed = {kind(to_json(item.trial), phase) for item in missing for phase in PHASES}
        lesson = _Lesson(needed, ("cpu",) if self.device == "cpu" else ("cpu", "cuda"), self._paces)
        done_first = sorted(wanted, key=lambda item: states[str(item.digest)] != "done")
        sources = [(_Earlier.of(item, self.counts) for item in done_first)]
        if study:
            sources += [_asked_for([study]), _asked_for(self._results.studies())]
        seen: set[str] = set()
        for source in sources:
            if not lesson.is_learned:
                lesson.learn(self._parts(source, seen))
        if self._settings.device == "auto" and not self._paces["cuda"].has_learned and self._paces["cpu"].has_learned:
            self.device = "cpu"

    def _parts(self, source: Iterable[_Earlier], seen: set[str]) -> Iterator[tuple[_Earlier, Folder, Sequence[str]]]:
        """Yield every folder that may have rows and was not seen, with its trial and the phases of its rows."""
        for item in source:
            new = [digest for digest in (*item.stages, item.digest) if digest not in seen]
            seen.update(new)
            for digest in new:
                is_trial = digest == item.digest
                folder = self._results.trial(digest) if is_trial else self._results.stage(digest)
                yield item, folder, PHASES[1:] if is_trial else PHASES[:1]

    def unknown_kinds(self, missing: Iterable[Wanted], own: Mapping[str, int]) -> dict[Kind, tuple[Trial, str]]:
        """Return one trial and phase for every kind of epoch that will run and of which none is known.

        Args:
            missing: trials that will run.
            own: epochs of pretraining that each computes itself, by its identity.
        """
        found: dict[Kind, tuple[Trial, str]] = {}
        for item in missing:
            config = to_json(item.trial)
            for phase in PHASES if own[str(item.digest)] else PHASES[1:]:
                if not self.pace.knows(config, phase):
                    found.setdefault(kind(config, phase), (item.trial, phase))
        return found

    def measured(self, per_image: Mapping[Kind, float], source: str) -> None:
        """Take in what a probe measured.

        Args:
            per_image: seconds per image that passes forward and backward through one network, by kind.
            source: names the probe in the lines for people.
        """
        for each, value in per_image.items():
            self.pace.measured(each, value, 1.0)
            self._alone.add(each)
        if per_image:
            self._source = source

    def judge(self, config: Mapping[str, Any], phase: str) -> float | None:
        """Return the seconds of an epoch by those of the same kind, or None.

        Earlier trials are taken to have shared the device as these will; a probe had it alone.
        """
        each = self.pace.of_kind(config, self.counts, phase)
        return each if each is None or kind(config, phase) not in self._alone else each * self._slowdown

    @property
    def _slowdown(self) -> float:
        """How many times longer a step takes beside others on a GPU, at most: together they are as fast as one."""
        part = _part_of_device(self._settings, self.device)
        return 1 / part if self.device == "cuda" and 0 < part < 1 else 1.0

    def estimate(self, missing: Sequence[Wanted], known: Iterable[Wanted] = ()) -> Estimate:
        """Return what trials will take.

        Args:
            missing: trials that will run, in order.
            known: trials from whose stored pretrainings the size of the networks may be seen.
        """
        own, new = self._computed(missing)
        sizes = [(item, self.sizes(item.trial)) for item in missing]
        shared = sum(training_samples(w.trial, own[str(w.digest)], size, self.finetuning(w)) for w, size in sizes)
        alone = sum(training_samples(w.trial, _epochs(w), size) for w, size in sizes)
        return Estimate(
            own=own,
            samples=shared,
            samples_alone=alone,
            may_be_fewer=any(item.trial.finetune.patience for item in missing),
            times=self.times(missing, own),
            room=self._room(missing, new, known),
        )

    def own_epochs(self, missing: Sequence[Wanted]) -> dict[str, int]:
        """Return how many epochs of pretraining each trial computes itself, by its identity.

        Args:
            missing: trials that will run, in order.
        """
        return self._computed(missing)[0]

    def _computed(self, missing: Sequence[Wanted]) -> tuple[dict[str, int], dict[str, set[int]]]:
        """See `cass_tune.sharing.computed`."""
        stage = self._results.stage
        return computed(
            missing,
            lambda digest: stage(digest).ends(),
            lambda digest: [epochs["pretrain"] for epochs in stage(digest).saved() if epochs],
        )

    def finetuning(self, item: Wanted, *, is_anew: bool = False) -> dict[str, int]:
        """Return the epochs of finetuning that a trial will compute, by phase.

        Args:
            item: the trial.
            is_anew: whether it does not go on from what is saved of it; in a population, it goes on from the generation
            before all the same.
        """
        saved = [] if is_anew else self._results.trial(str(item.digest)).saved()
        done = max(saved, key=lambda done: sum(done.values()), default={})
        left = _finetuning_left(item.trial.finetune.epochs, done)
        return {phase: min(epochs, item.generation_epochs or epochs) for phase, epochs in left.items()}

    def times(self, missing: Sequence[Wanted], own: Mapping[str, int]) -> tuple[Time, ...]:
        """Return how long trials will keep a device at work: see `Estimate.times`.

        Args:
            missing: trials that will run.
            own: epochs of pretraining that each computes itself, by its identity.
        """
        epochs = ({"pretrain": own[str(item.digest)], **self.finetuning(item)} for item in missing)
        work = [(to_json(item.trial), to_compute) for item, to_compute in zip(missing, epochs, strict=True)]
        found = self._time(work, self.judge)
        by_rates = [
            self._time(work, self._filled(rate), name=name, is_measured=found.hours > 0)
            for name, rate in PUBLISHED.items()
        ]
        if found.unjudged > by_rates[0].unjudged and self.device == "cuda":
            return tuple(by_rates)
        return (found,) if found.hours else ()

    def _time(self, work: Work, judge: Judge, **more: Any) -> Time:
        found = [seconds(config, self.counts, epochs, judge) for config, epochs in work]
        hours = sum(known for known, _ in found) / 3600 * _part_of_device(self._settings, self.device)
        unjudged = sum(epochs for _, epochs in found)
        source = self._source if more.get("is_measured", True) else RATES
        notes = [PATIENCE] if any(config["finetune"]["patience"] for config, _ in work) else []
        notes += [TOGETHER] if self._slowdown > 1 and ("name" in more or self._alone) else []
        return Time(hours=hours, device=self.device, source=source, unjudged=unjudged, notes=tuple(notes), **more)

    def _filled(self, rate: float) -> Judge:
        """Return a judge by epochs of the same kind and, where there are none, by a published rate."""
        by_rate = published(rate, self.counts)

        def judge(config: Mapping[str, Any], phase: str) -> float | None:
            each = self.judge(config, phase)
            if each is not None:
                return each
            alone = by_rate(config, phase)
            return None if alone is None else alone * self._slowdown

        return judge

    def room(self, missing: Sequence[Wanted]) -> Room | None:
        """Return what trials that will run will write, or None where the size of a network is not known."""
        return self._room(missing, self._computed(missing)[1], ())

    def _room(
        self, missing: Sequence[Wanted], new: Mapping[str, Collection[int]], known: Iterable[Wanted]
    ) -> Room | None:
        stored = list(known)
        counts = [self._parameters(item.trial, stored) for item in missing]
        states = [self._state_bytes(item.trial, count, stored) for item, count in zip(missing, counts, strict=True)]
        parameters, of_end = ([value for value in each if value is not None] for each in (counts, states))
        if len(parameters) + len(of_end) < 2 * len(missing) or not missing:
            return None
        size = {segment.stage: s for item, s in zip(missing, of_end, strict=True) for segment in item.segments}
        own = {segment for item in missing for segment in item.segments}
        ends = sum(len(epochs) for epochs in new.values())
        keeps = self._settings.keep_weights != "none"
        return Room(
            ends=ends,
            passed=ends - sum(segment.end in new[segment.stage] for segment in own),
            stages=sum(size[stage] * len(epochs) for stage, epochs in new.items()),
            weights=WEIGHT_BYTES * sum(parameters) if keeps else 0,
            checkpoints=CHECKPOINTS * max(of_end),
            free=free_bytes(self._results.root),
            finetunings=_kept_finetunings(missing) * (STATE_BYTES + WEIGHT_BYTES) * max(parameters),
        )

    def _state_bytes(self, trial: Trial, parameters: int | None, stored: Sequence[Wanted]) -> int | None:
        """Return the bytes of an end of a trial's pretraining (of a control: of its networks in training), or None."""
        if parameters is None or trial.pretrain.method in NETWORKS_ALONE:
            return None if parameters is None else STATE_BYTES * parameters
        same = (item for item in stored if kept_with(item.trial) == kept_with(trial))
        return self.state_bytes.get(kept_with(trial)) or next(self._stored_bytes(same), None)

    def _parameters(self, trial: Trial, stored: Sequence[Wanted]) -> int | None:
        """Return the number of parameters of both networks, or None."""
        size, width = trial.data.image_size_px, trial.pretrain.embedding_dim
        names = [getattr(trial.pretrain, arm) for arm in ARMS]
        counts = [self.parameters.get((name, size, width), PARAMETERS.get(name.partition(".")[0])) for name in names]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(ARMS) else self._parameters_stored(trial, stored)

    def _parameters_stored(self, trial: Trial, stored: Sequence[Wanted]) -> int | None:
        """Return the number by a stored end of a pretraining of the same networks, or None."""
        plain = (item for item in stored if item.trial.pretrain.method in NETWORKS_ALONE)
        same = (item for item in plain if _networks(item.trial) == _networks(trial))
        return next((size // STATE_BYTES for size in self._stored_bytes(same)), None)

    def _stored_bytes(self, items: Iterable[Wanted]) -> Iterator[int]:
        """Yield the bytes of every stored end of pretrainings."""
        for item in items:
            for segment in item.segments:
                size = self._results.stage(segment.stage).end_bytes(segment.end)
                if size:
                    yield size


def _kept_finetunings(items: Iterable[Wanted]) -> int:
    """Return how many trials keep the ends of their finetunings, with the best weights, at once: two generations."""
    generations = Counter(item.trial.finetune.epochs for item in items if item.generation_epochs)
    return sum(count for _, count in generations.most_common(2))


def _networks(trial: Trial) -> tuple[object, ...]:
    pretrain = trial.pretrain
    return (pretrain.cnn, pretrain.vit, pretrain.embedding_dim, trial.data.image_size_px)


def kept_with(trial: Trial) -> tuple[object, ...]:
    """Return what the size of an end of pretraining depends on."""
    method = trial.pretrain.method
    return (method, *_networks(trial), trial.dino.outputs if method == "dino" else None)


def _epochs(item: Wanted) -> int:
    return item.trial.pretrain.epochs if item.segments else 0


def _part_of_device(settings: Settings, device: str) -> float:
    """Return which part of a GPU, or of a machine like this one, a trial takes."""
    if device == "cuda":
        return 1.0 if isinstance(settings.gpus_per_trial, str) else settings.gpus_per_trial
    return 1.0 if settings.local else min(1.0, settings.cpus_per_trial / (os.cpu_count() or 1))


def free_bytes(root: AnyPath) -> int | None:
    """Return how much room there is where the results go, or None: in an object store."""
    if not isinstance(root, Path):
        return None
    there = next((folder for folder in (root, *root.parents) if folder.is_dir()), None)
    try:
        return shutil.disk_usage(there).free if there else None
    except OSError:
        return None
