"""The pretraining of a trial: taken from the store, or computed there, from where an earlier attempt left it."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

from torch import Tensor, nn

from cass_tune import stages
from cass_tune.attempt import Attempt
from cass_tune.checkpoints import Checkpoints
from cass_tune.config import ARMS
from cass_tune.data.loader import Batches
from cass_tune.data.pixels import Pixels
from cass_tune.data.splits import Parts
from cass_tune.errors import Collapsed, StorageError
from cass_tune.identity import Segment, segments
from cass_tune.leases import Lease
from cass_tune.methods import method_class
from cass_tune.patience import patience, patiently
from cass_tune.results import Record, StageFolder
from cass_tune.sharing import rows_of
from cass_tune.training.compiling import set_compiling
from cass_tune.training.feature_probes import extract, knn_macro_f1
from cass_tune.training.models import build_arm
from cass_tune.training.precision import contiguous
from cass_tune.training.pretrain import Monitor, Pretraining
from cass_tune.training.state import State

logger = logging.getLogger(__name__)

PUBLISH_S = 30.0
"""How long the end of an epoch is tried to be stored, while the disk is full, before the trial goes on without it."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

Weights: TypeAlias = Mapping[str, Mapping[str, Tensor]]
"""Parameters and buffers by arm."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A finished pretraining.

    Args:
        segments: where it is stored.
        rows: of its epochs.
        devices: every kind of device that has worked on it.
        reused: whether another trial computed it.
        arms: the networks, if this attempt has just trained them.
        weights: otherwise their parameters and buffers, by arm.
    """

    segments: Sequence[Segment]
    rows: Sequence[Record]
    devices: Sequence[str]
    reused: bool
    arms: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    weights: Weights = field(default_factory=dict)

    @property
    def record(self) -> Record:
        """What result.json says of it."""
        return {
            "digest": self.segments[-1].stage,
            "epoch": len(self.rows),
            "reused": self.reused,
            "segments": [asdict(segment) for segment in self.segments],
        }

    @property
    def seconds(self) -> float:
        """Training time of all its epochs."""
        return sum(row["seconds"] for row in self.rows)

    @property
    def has_collapsed(self) -> bool:
        """Whether the outputs were nearly constant at its end."""
        return self.rows[-1]["collapsed"]

    def arm(self, attempt: Attempt, arm: str) -> nn.Module:
        """Return a pretrained network; it is trained in place, so ask for it once."""
        if arm in self.arms:
            set_compiling(self.arms[arm], enabled=False)
            return contiguous(self.arms[arm])
        model = attempt.blank_arm(arm)
        model.load_state_dict(self.weights[arm])
        return model.to(attempt.device)


def pretrained(attempt: Attempt, parts: Parts, pixels: Pixels) -> Generator[Record, None, Pretrained]:
    """Yield the rows of the pretraining, stored ones marked as reused, and return it.

    Args:
        attempt: of a trial that has a pretraining.
        parts: which images are for what.
        pixels: the images.

    Raises:
        Collapsed: under ``on_collapse="stop"``.
        Held: another process computes this pretraining.
        HoldLost: another process has taken it over.
        Interrupted: the attempt was asked to stop.
        StorageError: a checkpoint, or the end of the pretraining, could not be stored, and not for want of space.
    """
    chain = segments(attempt.trial, attempt.inputs)
    _want(attempt, chain)
    stage, epochs = attempt.results.stage(chain[-1].stage), chain[-1].end
    end = stages.load_arms(stage, epochs)
    if end is None:
        with _held(attempt, stage) as lease:
            end = stages.load_arms(stage, epochs)  # by the process that held it until now
            if end is None:
                steps = _PretrainSteps(attempt, parts, pixels)
                yield from steps.run(chain, stage, lease)
                attempt.end()
                return steps.result(chain)
    rows = rows_of(attempt.results, chain)
    yield from rows
    found = _stored(attempt, chain, rows, end)
    if found.has_collapsed and attempt.options.on_collapse == "stop":
        raise Collapsed("the stored pretraining that this trial would start from has collapsed")
    return found


def stored_pretraining(attempt: Attempt) -> Pretrained | None:
    """Return the pretraining that the trial's finetuning starts from if it is stored, and compute nothing."""
    chain = segments(attempt.trial, attempt.inputs)
    weights = stages.load_arms(attempt.results.stage(chain[-1].stage), chain[-1].end)
    return None if weights is None else _stored(attempt, chain, rows_of(attempt.results, chain), weights)


def start_of(attempt: Attempt, source: Pretrained | None, arm: str) -> nn.Module:
    """Return an arm as finetuning finds it: pretrained, or before any training."""
    return source.arm(attempt, arm) if source else build_arm(attempt.trial, arm).to(attempt.device)


def _want(attempt: Attempt, chain: Sequence[Segment]) -> None:
    """Record that this trial wants these ends, where a study has not done so."""
    for segment in chain:
        stage, digest = attempt.results.stage(segment.stage), attempt.folder.digest
        if digest not in stage.wanted_ends().get(segment.end, ()):
            ends, is_trunk = {segment.end: [digest]}, segment is not chain[-1]
            attempt.store(lambda stage=stage, ends=ends, is_trunk=is_trunk: stage.want(ends, is_trunk=is_trunk))


def _held(attempt: Attempt, stage: StageFolder) -> AbstractContextManager[Lease]:
    on_lost = lambda: attempt.stop.request("the pretraining was taken over")  # noqa: E731
    between = attempt.check_stop
    return patiently(lambda: Lease.take_over(stage.path, attempt.name, on_lost=on_lost, between=between), between)


def _stored(attempt: Attempt, chain: Sequence[Segment], rows: Sequence[Record], end: stages.End) -> Pretrained:
    record = end.record
    attempt.alerts.kernels.update(record["environment"].get("nondeterministic", ()))
    return Pretrained(
        segments=chain,
        rows=rows,
        devices=record["environment"]["devices"],
        reused=record["trial"] != attempt.folder.digest,
        weights=end.parts,
    )


class _PretrainSteps:
    """Trains both arms, each segment in the folder of its stage, and stores every end that a trial wants.

    Args:
        attempt: the attempt that computes it.
        parts: which images are for what.
        pixels: the images.
    """

    def __init__(self, attempt: Attempt, parts: Parts, pixels: Pixels) -> None:
        self._attempt = attempt
        self._parts = parts
        self._pixels = pixels
        self._devices: list[str] = []

    def run(self, chain: Sequence[Segment], stage: StageFolder, lease: Lease) -> Iterator[Record]:
        """Yield the rows of all epochs, those that are finished already marked as reused.

        Args:
            chain: segments up to the one that is to be computed.
            stage: of the last of them.
            lease: of its folder.
        """
        checkpoints = Checkpoints(stage.checkpoints)
        self._store(lease, lambda: stage.write_config(self._attempt.config_record()))
        found = stages.furthest(stage, checkpoints, chain[-1].end)
        if found or len(chain) == 1:
            yield from self._begin(found)
        else:
            yield from self._run_before(chain[:-1])
        if self._training.epoch < chain[-1].end or not stage.has_end(chain[-1].end):
            yield from self._train(_Target(segment=chain[-1], stage=stage, lease=lease, checkpoints=checkpoints))

    def _run_before(self, chain: Sequence[Segment]) -> Iterator[Record]:
        """Bring the training to where the last segment begins, without a lease where that is stored."""
        stage = self._attempt.results.stage(chain[-1].stage)
        found = stages.end_state(stage, chain[-1].end)
        if found:
            yield from self._begin(found)
            return
        with _held(self._attempt, stage) as lease:
            yield from self.run(chain, stage, lease)

    def _begin(self, found: State | None) -> Iterator[Record]:
        """Build the training, at a state or at its start; yield the rows of the epochs before."""
        attempt, method = self._attempt, self._attempt.trial.pretrain.method
        arms = {arm: attempt.blank_arm(arm) if found else build_arm(attempt.trial, arm) for arm in ARMS}
        batches = attempt.batches(self._pixels, "pretrain", method_class(method).views(attempt.trial))
        self._training = Pretraining(
            attempt.trial,
            nn.ModuleDict({arm: model.to(attempt.device) for arm, model in arms.items()}),
            batches,
            self._parts.pretrain,
            stop_on_collapse=attempt.options.on_collapse == "stop",
            after_step=attempt.between_steps,
            monitor=self._monitor(batches),
            checkpointing=attempt.options.activation_checkpointing,
        )
        if found:
            self._training.load(found)
            self._devices = attempt.take_over(found.values)
        attempt.begin(self._training, resumed=found is not None)
        yield from [{**row, "reused": True} for row in self._training.rows]

    def _monitor(self, batches: Batches) -> Monitor | None:
        """Return what measures the kNN probe every now and then.

        Its neighbours are the pretraining images, whatever the trial's label fraction: trials of every fraction share
        this pretraining and its rows.
        """
        every, between = self._attempt.options.probe_every, self._attempt.between_steps
        bank, queries = self._parts.pretrain, self._parts.validation
        classes = len(self._attempt.listing.classes)

        def measure(epoch: int, arms: nn.ModuleDict) -> dict[str, float]:
            if epoch % every:
                return {}
            scores: dict[str, float] = {}
            for arm in ARMS:
                known, asked = (extract(arms[arm], batches.evaluation(part), between) for part in (bank, queries))
                scores[f"{arm}_knn_macro_f1"] = knn_macro_f1(known, asked, classes)
            return scores

        return measure if every else None

    def _train(self, target: _Target) -> Iterator[Record]:
        """Train to the end of a segment, unless it is reached; store it, and all ends on the way that are wanted."""
        training, stage, lease = self._training, target.stage, target.lease
        environment = self._attempt.environment_record(self._devices)
        self._store(lease, lambda: stage.write_environment(environment))
        with (
            stage.row_file(self._attempt.name) as lines,
            self._attempt.saving(target.checkpoints, lambda: self._state(target), lease) as checkpointer,
        ):
            for row in stage.lost_rows(training.rows[target.segment.start :]):
                lines.append(json.dumps(row, allow_nan=False))
            if training.epoch < target.segment.end:
                self._publish_wanted(target)
            for row in training.run(target.segment.end):
                lines.append(json.dumps(row, allow_nan=False))
                if training.epoch < target.segment.end:
                    self._publish_wanted(target)
                    checkpointer.after_epoch()
                yield row
            patiently(lines.flush, self._attempt.check_stop)
            is_stored = self._publish(target)
        if is_stored:
            self._store(lease, target.checkpoints.clear)

    def result(self, chain: Sequence[Segment]) -> Pretrained:
        """Return what `run` has finished."""
        return Pretrained(
            segments=chain,
            rows=self._training.rows,
            devices=self._attempt.machine(self._devices)["devices"],
            reused=False,
            arms=self._training.arms,
        )

    def _store(self, lease: Lease, write: Callable[[], None], seconds: float | None = None) -> None:
        """Write a record of the stage, see `Attempt.store`."""

        def checked() -> None:
            lease.check()
            write()

        self._attempt.store(checked, seconds)

    def _state(self, target: _Target) -> State:
        state = self._training.state()
        values = {**state.values, **self._attempt.machine(self._devices), "epochs": target.segment.end}
        return State(tensors=state.tensors, values=values)

    def _publish_wanted(self, target: _Target) -> None:
        """Store the end of the epoch just finished when a trial wants it; training goes on when that fails."""
        if target.wanted_by(self._training.epoch) and not target.stage.has_end(self._training.epoch):
            self._publish(target)

    def _publish(self, target: _Target) -> bool:
        """Store the end of the epoch just finished; return whether there was space for it."""
        stage, training = target.stage, self._training
        environment = self._attempt.environment_record(self._devices)
        record = {"environment": environment, "trial": self._attempt.folder.digest}

        def write() -> None:
            stages.publish(stage, training, self._attempt.trial, record, target.lease.check)
            stage.write_environment(environment)

        try:
            self._store(target.lease, write, PUBLISH_S)
        except StorageError as error:
            if error.errno not in NO_SPACE:
                raise
            logger.warning("%s %s", error, self._cost(target))
            return False
        return True

    def _cost(self, target: _Target) -> str:
        """Return what it costs that the end of the epoch just finished is not stored."""
        epoch = self._training.epoch
        others = len(target.wanted_by(epoch) - {self._attempt.folder.digest})
        is_last = epoch == self._attempt.trial.pretrain.epochs
        own = " and this one, should it be interrupted," if is_last else ""
        return (
            f"The study goes on without it: {others} other trials that need the pretraining of {epoch} epochs{own} "
            f"will have to compute it again ({others} x {epoch - self._start(target)} epochs). "
            "Make room, or give another --results."
        )

    def _start(self, target: _Target) -> int:
        """Return the epoch from which those go on that compute again what could not be stored, as far as is known."""
        ends: list[int] = []
        with suppress(OSError), patience(0):
            ends = target.stage.ends()
        return max((end for end in ends if end < self._training.epoch), default=target.segment.start)


@dataclass(kw_only=True)
class _Target:
    """A segment that is being computed.

    Args:
        segment: its epochs.
        stage: where it is stored.
        lease: of that folder.
        checkpoints: in that folder.
    """

    segment: Segment
    stage: StageFolder
    lease: Lease
    checkpoints: Checkpoints
    _wanted: Mapping[int, set[str]] = field(default_factory=dict)

    def wanted_by(self, epoch: int) -> set[str]:
        """Return the trials that want the end of an epoch; while the store is away, as it was known last."""
        try:
            with patience(0):
                self._wanted = self.stage.wanted_ends()
        except OSError as error:
            logger.warning("which ends of %s are wanted cannot be read: %s", self.stage.path, error)
        return self._wanted.get(epoch, set())
