"""The pretraining of a trial: taken from the store, or computed there, from where an earlier attempt left it."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from cass_tune import stages
from cass_tune.attempt import Attempt
from cass_tune.checkpoints import Checkpoints
from cass_tune.config import ARMS
from cass_tune.data.pixels import Pixels
from cass_tune.data.splits import Parts
from cass_tune.errors import Collapsed
from cass_tune.identity import stage_digest
from cass_tune.leases import Lease
from cass_tune.results import Record, StageFolder
from cass_tune.storage import patiently
from cass_tune.training.models import build_arm
from cass_tune.training.pretrain import Pretraining
from cass_tune.training.state import State


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A finished pretraining.

    Args:
        stage: where it is stored.
        rows: of its epochs.
        devices: every kind of device that has worked on it.
        reused: whether another trial computed it.
        arms: the networks, if this attempt has just trained them.
        weights: otherwise their parameters and buffers, by arm.
    """

    stage: StageFolder
    rows: Sequence[Record]
    devices: Sequence[str]
    reused: bool
    arms: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    weights: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def record(self) -> Record:
        """What result.json says of it."""
        return {"digest": self.stage.digest, "epoch": len(self.rows), "reused": self.reused}

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
            return self.arms[arm]
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
        StorageError: the end of the pretraining, or a checkpoint for too long, could not be stored.
    """
    stage = attempt.results.stage(stage_digest(attempt.trial, attempt.inputs))
    epochs = attempt.trial.pretrain.epochs
    weights = stages.load_arms(stage, epochs)
    if weights is None:
        on_lost = lambda: attempt.stop.request("the pretraining was taken over")  # noqa: E731
        between = attempt.check_stop
        take_over = lambda: Lease.take_over(stage.path, attempt.name, on_lost=on_lost, between=between)  # noqa: E731
        with patiently(take_over, between) as lease:
            weights = stages.load_arms(stage, epochs)  # by the process that held it until now
            if weights is None:
                steps = _PretrainSteps(attempt, parts, pixels, stage, lease)
                yield from steps.run()
                return steps.result()
    rows = stages.stored_rows(stage, epochs)
    yield from rows
    found = _stored(attempt, stage, rows, weights)
    if found.has_collapsed and attempt.options.on_collapse == "stop":
        raise Collapsed("the stored pretraining that this trial would start from has collapsed")
    return found


def _stored(
    attempt: Attempt, stage: StageFolder, rows: Sequence[Record], weights: Mapping[str, Mapping[str, Tensor]]
) -> Pretrained:
    record = stage.end_record(len(rows))
    attempt.alerts.kernels.update(record["environment"].get("nondeterministic", ()))
    return Pretrained(
        stage=stage,
        rows=rows,
        devices=record["environment"]["devices"],
        reused=record["trial"] != attempt.folder.digest,
        weights=weights,
    )


class _PretrainSteps:
    """Trains both arms in the stage's folder and stores the end.

    Args:
        attempt: the attempt that computes it.
        parts: which images are for what.
        pixels: the images.
        stage: where it goes.
        lease: of that folder.
    """

    def __init__(self, attempt: Attempt, parts: Parts, pixels: Pixels, stage: StageFolder, lease: Lease) -> None:
        self._attempt = attempt
        self._stage = stage
        self._lease = lease
        self._checkpoints = Checkpoints(stage.checkpoints)
        self._devices: list[str] = []
        self._store(lambda: stage.write_config(attempt.config_record()))
        found = stages.furthest(stage, self._checkpoints, attempt.trial.pretrain.epochs)
        arms = {arm: attempt.blank_arm(arm) if found else build_arm(attempt.trial, arm) for arm in ARMS}
        self._training = Pretraining(
            attempt.trial,
            nn.ModuleDict({arm: model.to(attempt.device) for arm, model in arms.items()}),
            attempt.batches(pixels, "pretrain"),
            parts.pretrain,
            stop_on_collapse=attempt.options.on_collapse == "stop",
            after_step=attempt.between_steps,
        )
        if found:
            self._training.load(found)
            self._devices = attempt.take_over(found.values)
        attempt.begin(self._training, resumed=found is not None)
        environment = attempt.environment_record(self._devices)
        self._store(lambda: stage.write_environment(environment))

    def run(self) -> Iterator[Record]:
        """Yield the rows of all epochs, those that are finished already marked as reused; store the end."""
        yield from [{**row, "reused": True} for row in self._training.rows]
        with (
            self._stage.row_file(self._attempt.name) as lines,
            self._attempt.saving(self._checkpoints, self._state, self._lease) as checkpointer,
        ):
            for row in self._stage.lost_rows(self._training.rows):
                lines.append(json.dumps(row, allow_nan=False))
            for row in self._training.run():
                lines.append(json.dumps(row, allow_nan=False))
                if self._training.epoch < self._attempt.trial.pretrain.epochs:
                    checkpointer.after_epoch()
                yield row
            lines.flush()
            self._publish()
        self._store(self._checkpoints.clear)
        self._attempt.end()

    def result(self) -> Pretrained:
        """Return what `run` has finished."""
        return Pretrained(
            stage=self._stage,
            rows=self._training.rows,
            devices=self._attempt.machine(self._devices)["devices"],
            reused=False,
            arms=self._training.arms,
        )

    def _store(self, write: Callable[[], None]) -> None:
        """Write a record of the stage, see `Attempt.store`."""

        def checked() -> None:
            self._lease.check()
            write()

        self._attempt.store(checked)

    def _state(self) -> State:
        state, epochs = self._training.state(), self._attempt.trial.pretrain.epochs
        values = {**state.values, **self._attempt.machine(self._devices), "epochs": epochs}
        return State(tensors=state.tensors, values=values)

    def _publish(self) -> None:
        stage, training = self._stage, self._training
        environment = self._attempt.environment_record(self._devices)
        record = {"environment": environment, "trial": self._attempt.folder.digest}

        def write() -> None:
            stages.publish(stage, training, self._attempt.trial, record, self._lease.check)
            stage.write_environment(environment)

        self._attempt.store(write)
