"""One attempt at a trial: what it works on, what it runs on, when its state is saved, and when it must leave."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from cass_tune.checkpoints import Checkpointer, Checkpoints
from cass_tune.config import Trial, to_json
from cass_tune.data.listing import Listing
from cass_tune.data.loader import Batches, Views, views_of
from cass_tune.data.pixels import Pixels
from cass_tune.devices import Gpu, check_precisions
from cass_tune.environment import commit, describe
from cass_tune.errors import HoldLost, Interrupted
from cass_tune.identity import RESULTS_VERSION, Inputs
from cass_tune.leases import Lease
from cass_tune.notices import Stop
from cass_tune.patience import patience, patiently
from cass_tune.results import Record, Results, TrialFolder
from cass_tune.run_options import RunOptions
from cass_tune.training.determinism import Alerts, prepare_torch
from cass_tune.training.models import build_blank_arm
from cass_tune.training.state import State

logger = logging.getLogger(__name__)

LEAVE_S = 15.0
"""How long a trial that leaves tries to save its state in an object store that is away."""


class Training(Protocol):
    """A pretraining or finetuning in progress."""

    @property
    def position(self) -> Record:
        """Phase, finished epochs, and finished batches of the next one."""
        ...


@dataclass(kw_only=True)
class Attempt:
    """What every step of one attempt needs.

    Args:
        name: of the attempt.
        trial: what to run.
        inputs: what it reads.
        listing: the data.
        results: root of all records.
        folder: of the trial.
        options: how to run it.
        lease: of the trial's folder.
        stop: looked at between two steps.
        alerts: kernels that torch said are not deterministic.
    """

    name: str
    trial: Trial
    inputs: Inputs
    listing: Listing
    results: Results
    folder: TrialFolder
    options: RunOptions
    lease: Lease
    stop: Stop
    alerts: Alerts
    threads: int = 1
    """CPU threads of one operation: those asked for, or those of the checkpoint that it goes on from."""
    devices: list[str] = field(default_factory=list)
    """Every kind of device that has worked on what is in the trial's folder."""
    _batches: Batches | None = None
    _training: Training | None = None
    _checkpointer: Checkpointer | None = None
    _saved: Record | None = None

    def __post_init__(self) -> None:
        self.leases = [self.lease]
        self.device = torch.device(self.options.device)
        self.threads = self.options.threads
        self._describe()

    # What it runs on

    def _describe(self) -> None:
        self.environment = describe(self.options.device, self.threads, self.options.commit or commit())

    def machine(self, devices: Iterable[str]) -> Record:
        """Return what a state must carry of the machines that made it; `take_over` takes it back."""
        together = list(dict.fromkeys([*devices, *self.environment["devices"]]))
        return {"devices": together, "threads": self.threads, "nondeterministic": sorted(self.alerts.kernels)}

    def take_over(self, machine: Mapping[str, Any]) -> list[str]:
        """Go on with what an earlier attempt ran on, and return its devices.

        Args:
            machine: what `machine` returned.
        """
        self.alerts.kernels.update(machine.get("nondeterministic", ()))
        if machine["threads"] != self.threads:
            logger.warning(
                "the checkpoint was made with %d threads: they are kept, not the %d asked for, "
                "because the number changes last digits",
                machine["threads"],
                self.threads,
            )
            self.threads = machine["threads"]
            torch.set_num_threads(self.threads)
            self._describe()
        return list(machine["devices"])

    def prepare(self) -> None:
        """Set torch up for this trial.

        Raises:
            UsageError: this device does not have the trial's precision.
        """
        check_precisions([self.trial], self._gpus())
        prepare_torch(self.device, self.threads)

    def _gpus(self) -> list[Gpu]:
        if self.device.type != "cuda":
            return []
        return [Gpu(torch.cuda.get_device_name(self.device), torch.cuda.get_device_capability(self.device))]

    def environment_record(self, devices: Iterable[str]) -> Record:
        """Return what environment.json says."""
        recomputes = {"activation_checkpointing": self.options.activation_checkpointing}
        return {**self.environment, **self.machine(devices), **recomputes}

    def config_record(self) -> Record:
        """Return what config.json says."""
        return {"trial": to_json(self.trial), "inputs": vars(self.inputs), "results_version": RESULTS_VERSION}

    def batches(self, pixels: Pixels, stream: str, views: Views | None = None) -> Batches:
        """Return a loader with a stream of randomness, and close the one before.

        Args:
            pixels: the images.
            stream: names the draws.
            views: makes the views of a training image; one by the trial's augmentation by default.
        """
        self.close()
        self._batches = Batches(
            pixels,
            seed=self.trial.seed,
            stream=stream,
            workers=self.options.workers,
            pin_memory=self.device.type == "cuda",
            views=views or views_of(self.trial.data),
        )
        return self._batches

    def close(self) -> None:
        """End the processes that load images."""
        if self._batches:
            self._batches.close()

    def blank_arm(self, arm: str) -> nn.Module:
        """Return an arm whose parameters will be replaced: nothing is fetched."""
        return build_blank_arm(self.trial, arm)

    # Saving and leaving

    @property
    def position(self) -> Record:
        """Where the trial is: phase, finished epochs and finished batches."""
        return self._training.position if self._training else {"phase": "start", "epoch": 0, "batch": 0}

    @contextmanager
    def saving(self, checkpoints: Checkpoints, state: Callable[[], State], lease: Lease) -> Iterator[Checkpointer]:
        """Save a state now and then while the block runs, and when it must leave."""
        every_s = 60 * self.options.checkpoint_every_minutes
        self._checkpointer = Checkpointer(checkpoints, state, every_s=every_s, check=lease.check)
        self.leases.append(lease)
        try:
            yield self._checkpointer
        finally:
            self.leases.remove(lease)
            self._checkpointer.close()
            self._checkpointer = None

    def store(self, write: Callable[[], None], seconds: float | None = None) -> None:
        """Write a record; while the disk is full, try again until asked to stop.

        Once a trial is finished, its records stay as they are: the first complete result wins.

        Args:
            write: can be repeated.
            seconds: how long it is tried; that of `patiently` by default.

        Raises:
            HoldLost: another process has taken the trial over.
            Interrupted: it was asked to stop meanwhile.
            StorageError: it could not be written.
        """

        def checked() -> None:
            self.lease.check()
            if self.folder.is_finished():
                raise HoldLost(str(self.folder.path), "the process that has finished this trial")
            write()

        patiently(checked, self.check_stop, seconds)

    def begin(self, training: Training, *, resumed: bool) -> None:
        """Take note of the training that goes on from now, at its start or from a state."""
        self._training = training
        if resumed:
            self._saved = self.position
            logger.info("goes on from %s", self._saved)
            where = self._saved
            self.store(lambda: self.folder.resumed(self.name, where))

    def end(self) -> None:
        """Take note that the training in progress is finished."""
        self._training = self._saved = None

    def between_steps(self) -> None:
        """Leave when asked to; save the state when that is due.

        Raises:
            Interrupted: it was asked to stop, and has saved its state.
        """
        assert self._checkpointer is not None
        self.check_stop()
        self._checkpointer.after_step()

    def check_stop(self, *_: object) -> None:
        """Leave when asked to, or when a lease is lost; a progress callback as well.

        Raises:
            Interrupted: it was asked to stop; the state is saved unless the text says otherwise.
            HoldLost: another process has taken over what this attempt holds.
        """
        reason = self.stop.reason
        if reason is None:
            return
        try:
            with patience(LEAVE_S):
                if self._checkpointer and self.position != self._saved:
                    self._checkpointer.save()
                for lease in self.leases:
                    lease.check()
        except OSError as error:
            raise Interrupted(f"{reason}; the state could not be saved: {error}") from error
        raise Interrupted(reason)
