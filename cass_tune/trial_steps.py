"""The steps of a trial: pretrain both arms or take them from the store, finetune each, test each.

Between any two training steps the state can be saved, and a trial that starts finds the last one and goes on from it.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from cass_tune import stages
from cass_tune.checkpoints import Checkpointer, Checkpoints
from cass_tune.config import ARMS, Trial, to_json, with_field
from cass_tune.data.listing import Listing
from cass_tune.data.loader import Batches
from cass_tune.data.pixels import Pixels, load_pixels
from cass_tune.data.splits import Parts, check_batch, split
from cass_tune.environment import commit, describe
from cass_tune.errors import Collapsed, Interrupted
from cass_tune.identity import RESULTS_VERSION, Inputs, stage_digest
from cass_tune.leases import Lease
from cass_tune.notices import Stop
from cass_tune.results import Results, StageFolder, TrialFolder
from cass_tune.storage import Lines, StorageError, whole_file
from cass_tune.training.determinism import prepare_torch
from cass_tune.training.finetune import Evaluation, Finetuning
from cass_tune.training.models import build_arm, save_arm
from cass_tune.training.pretrain import Pretraining
from cass_tune.training.state import State, below

if TYPE_CHECKING:
    from cass_tune.trial import RunOptions

logger = logging.getLogger(__name__)
Row = dict[str, Any]
EVALUATED = ("validation", "test")


class TrialSteps:
    """One attempt at a trial.

    Args:
        trial: what to run.
        inputs: what it reads.
        listing: the data.
        results: root of all records.
        folder: of the trial.
        options: how to run it.
        attempt: name of this attempt.
        lease: of the trial's folder.
        stop: looked at between two steps.
    """

    def __init__(
        self,
        trial: Trial,
        inputs: Inputs,
        listing: Listing,
        results: Results,
        folder: TrialFolder,
        options: RunOptions,
        attempt: str,
        lease: Lease,
        stop: Stop,
    ) -> None:
        self.trial = trial
        self.inputs = inputs
        self.listing = listing
        self.results = results
        self.folder = folder
        self.options = options
        self.attempt = attempt
        self.lease = lease
        self.stop = stop
        self.device = torch.device(options.device)
        self.threads = options.threads
        self.devices: list[str] = []
        self.seconds: dict[str, float] = {"pretrain": 0.0, **dict.fromkeys(ARMS, 0.0)}
        self.collapsed = False
        self.done: dict[str, Row] = {}
        self.outputs: dict[str, torch.Tensor] = {}
        self._part: Pretraining | Finetuning | None = None
        self._checkpointer: Checkpointer | None = None
        self._saved_position: Row | None = None
        self._rows: Lines | None = None

    @property
    def position(self) -> Row:
        """Where the trial is: phase, finished epochs and finished batches."""
        return self._part.position if self._part else {"phase": "start", "epoch": 0, "batch": 0}

    def run(self) -> Iterator[Row]:
        """Yield the rows of all phases; write everything else.

        Raises:
            Interrupted: it was asked to stop.
            Held: another process computes the pretraining.
            HoldLost: another process has taken the trial or the pretraining over.
        """
        self._check_stop()
        checkpoints = Checkpoints(self.folder.checkpoints)
        found = checkpoints.newest(self._has_weights)
        self._take_up(found)
        prepare_torch(self.device, self.threads)
        self._describe()
        parts = split(self.listing, self.trial.data, self.trial.seed)
        check_batch(self.trial, len(parts.pretrain))
        for text in parts.warnings + self.listing.warnings:
            logger.warning(text)
        pixels = load_pixels(self.listing, self.trial.data.image_size_px)
        try:
            arms = nn.ModuleDict()
            stage = yield from self._pretrained(arms, parts, pixels)
            with self._checkpoints(checkpoints, self._state, self.lease):
                for arm in ARMS:
                    yield from self._finetuned(arm, arms, parts, pixels, stage, found)
            self._write_predictions(parts)
            self.lease.check()
            self._describe()
            self.folder.finish(self._result(stage, parts))
        finally:
            if self._rows:
                self._rows.close()

    def _has_weights(self, values: Mapping[str, Any]) -> bool:
        """Whether a checkpoint's finished arms are kept as the options ask for."""
        return self.options.keep_weights == "none" or all(self.folder.weights(arm).exists() for arm in values["done"])

    def _take_up(self, found: State | None) -> None:
        """Take threads, devices and finished arms from the last checkpoint."""
        if found is None:
            return
        values = found.values
        self.done = dict(values["done"])
        self.outputs = found.part("done")
        self._keep_threads(values)

    def _keep_threads(self, values: Mapping[str, Any]) -> None:
        """Go on with the number of threads that a checkpoint was made with, and remember its devices."""
        self.devices = list(dict.fromkeys([*values["devices"], *self.devices]))
        if values["threads"] != self.threads:
            logger.warning(
                "the checkpoint was made with %d threads: they are kept, not the %d asked for, "
                "because the number changes last digits",
                values["threads"],
                self.threads,
            )
            self.threads = values["threads"]
            torch.set_num_threads(self.threads)

    def _describe(self) -> None:
        """Write what this attempt runs on."""
        self.environment = describe(self.options.device, self.threads, self.options.commit or commit())
        self.devices = list(dict.fromkeys([*self.devices, *self.environment["devices"]]))
        self.folder.write_environment({**self.environment, "devices": self.devices})

    def _batches(self, pixels: Pixels, stream: str) -> Batches:
        return Batches(
            pixels,
            seed=self.trial.seed,
            stream=stream,
            workers=self.options.workers,
            pin_memory=self.device.type == "cuda",
        )

    @contextmanager
    def _checkpoints(self, checkpoints: Checkpoints, state: Any, lease: Lease) -> Iterator[None]:
        """Save the state of a part now and then while the block runs."""
        every_s = 60 * self.options.checkpoint_every_minutes
        self._checkpointer = Checkpointer(checkpoints, state, every_s=every_s, check=lease.check)
        try:
            yield
        finally:
            self._checkpointer.close()
            self._checkpointer = None

    def _check_stop(self) -> None:
        if self.stop.reason:
            self._leave(self.stop.reason)

    def _between_steps(self) -> None:
        assert self._checkpointer is not None
        self._check_stop()
        self._checkpointer.after_step()

    def _leave(self, reason: str) -> None:
        """Save the state and end this attempt."""
        self.lease.check()
        if self._checkpointer and self.position != self._saved_position:
            try:
                self._checkpointer.save()
            except StorageError as error:
                raise Interrupted(f"{reason}; the state could not be saved: {error}") from error
        raise Interrupted(reason)

    def _resumed(self) -> None:
        assert self._part is not None
        self._saved_position = self.position
        logger.info("goes on from %s", self._saved_position)
        self.folder.resumed(self.attempt, self._saved_position)

    def _append(self, row: Row) -> None:
        if self._rows is None:
            self._rows = self.folder.row_file(self.attempt)
        self._rows.append(json.dumps(row, allow_nan=False))

    # Pretraining

    def _pretrained(self, arms: nn.ModuleDict, parts: Parts, pixels: Pixels) -> Iterator[Row]:
        """Return the stage that the arms come from, or None for the control; arms trained here are in ``arms``."""
        if self.trial.pretrain.method == "none":
            return None
        stage = self.results.stage(stage_digest(self.trial, self.inputs))
        epochs = self.trial.pretrain.epochs
        if not stages.is_whole(stage, epochs):
            on_lost = lambda: self.stop.request("the pretraining was taken over")  # noqa: E731
            with Lease.acquire(stage.path, self.attempt, on_lost=on_lost) as lease:
                if not stages.is_whole(stage, epochs):
                    yield from self._pretrain(stage, arms, parts, pixels, lease)
        record = stage.end_record(epochs)
        rows = stages.stored_rows(stage, epochs) if not arms else []
        for row in rows:
            self._count_pretraining(row)
            yield row
        if rows and self.collapsed and self.options.on_collapse == "stop":
            raise Collapsed("the stored pretraining that this trial would start from has collapsed")
        stored_devices = record.get("environment", {}).get("devices", [])
        self.devices = list(dict.fromkeys([*stored_devices, *self.devices]))
        is_own = not record or record.get("trial") == self.folder.digest
        return {"digest": stage.digest, "epoch": epochs, "reused": not is_own}

    def _count_pretraining(self, row: Row) -> None:
        self.seconds["pretrain"] += row["seconds"]
        self.collapsed = row["collapsed"]

    def _pretrain(
        self, stage: StageFolder, arms: nn.ModuleDict, parts: Parts, pixels: Pixels, lease: Lease
    ) -> Iterator[Row]:
        stage.write_config(
            {"trial": to_json(self.trial), "inputs": vars(self.inputs), "results_version": RESULTS_VERSION}
        )
        stage.write_environment(self.environment)
        found = stages.furthest(stage, self.trial.pretrain.epochs)
        for arm in ARMS:
            arms[arm] = (self._blank_arm(arm) if found else build_arm(self.trial, arm)).to(self.device)
        self._part = pretraining = Pretraining(
            self.trial,
            arms,
            self._batches(pixels, "pretrain"),
            parts.pretrain,
            stop_on_collapse=self.options.on_collapse == "stop",
            after_step=self._between_steps,
        )
        devices = list(self.environment["devices"])
        if found:
            pretraining.load(found)
            self._keep_threads(found.values)
            self._describe()
            devices = list(dict.fromkeys([*found.values["devices"], *devices]))
            self._resumed()
        for row in pretraining.rows:
            self._count_pretraining(row)
            yield {**row, "reused": True}

        def state() -> State:
            here = pretraining.state()
            return State(tensors=here.tensors, values={**here.values, "devices": devices, "threads": self.threads})

        rows = stage.row_file(self.attempt)
        checkpoints = Checkpoints(stage.checkpoints)
        try:
            with self._checkpoints(checkpoints, state, lease) as _:
                for row in pretraining.run():
                    rows.append(json.dumps(row, allow_nan=False))
                    self._count_pretraining(row)
                    if pretraining.epoch < self.trial.pretrain.epochs:
                        assert self._checkpointer is not None
                        self._checkpointer.after_epoch()
                    yield row
                self._publish(stage, pretraining, devices, lease)
        finally:
            rows.close()
        checkpoints.clear()
        self._saved_position = None

    def _publish(self, stage: StageFolder, pretraining: Pretraining, devices: list[str], lease: Lease) -> None:
        lease.check()
        record = {"environment": {**self.environment, "devices": devices}, "trial": self.folder.digest}
        stage.remove_end(pretraining.epoch)  # a damaged one
        stages.publish(stage, pretraining, self.trial, record)

    def _blank_arm(self, arm: str) -> nn.Module:
        """Return an arm whose parameters will be replaced: nothing is fetched."""
        shapes = self.trial
        for name, value in (("weights", "random"), ("cnn_weights", None), ("vit_weights", None)):
            shapes = with_field(shapes, f"pretrain.{name}", value)
        return build_arm(shapes, arm)

    # Finetuning

    def _start_of(self, arm: str, arms: nn.ModuleDict, stage: Row | None) -> nn.Module:
        """Return an arm as finetuning finds it: before any training, just pretrained, or from the store."""
        if stage is None:
            return build_arm(self.trial, arm).to(self.device)
        if arm in arms:
            return arms[arm]
        model = self._blank_arm(arm)
        model.load_state_dict(stages.load_arm(self.results.stage(stage["digest"]), stage["epoch"], arm))
        return model.to(self.device)

    def _finetuned(
        self,
        arm: str,
        arms: nn.ModuleDict,
        parts: Parts,
        pixels: Pixels,
        stage: Row | None,
        found: State | None,
    ) -> Iterator[Row]:
        """Finetune, evaluate and keep one arm, unless that is done; yield its rows."""
        if arm in self.done:
            for row in self.done[arm]["rows"]:
                self.seconds[arm] += row["seconds"]
                yield {**row, "reused": True}
            return
        in_progress = found is not None and found.values["arm"] == arm
        model = self._blank_arm(arm).to(self.device) if in_progress else self._start_of(arm, arms, stage)
        self._part = finetuning = Finetuning(
            self.trial, arm, model, self.listing, parts, self._batches(pixels, f"finetune/{arm}"), self._between_steps
        )
        if in_progress and found is not None:
            finetuning.load(State(tensors=found.part("part"), values=found.values["part"]))
            self._resumed()
        for row in finetuning.rows:
            self.seconds[arm] += row["seconds"]
            yield {**row, "reused": True}
        assert self._checkpointer is not None
        for row in finetuning.run():
            self.seconds[arm] += row["seconds"]
            self._append(row)
            self._checkpointer.after_epoch()
            yield row
        self._conclude(finetuning, parts)

    def _conclude(self, finetuning: Finetuning, parts: Parts) -> None:
        """Evaluate and keep a finetuned arm; from here on it is done."""
        arm = finetuning.arm
        found = {name: finetuning.evaluate(getattr(parts, name)) for name in EVALUATED}
        if self.options.keep_weights == "all":
            self.lease.check()
            name, size = getattr(self.trial.pretrain, arm), self.trial.data.image_size_px
            path = self.folder.weights(arm)
            save_arm(finetuning.model, path, name=name, image_size_px=size, classes=self.listing.classes)
        self.done[arm] = {
            "rows": finetuning.rows,
            "class_weights": dict(finetuning.class_weights),
            "record": self._record(arm, finetuning, found),
        }
        self.outputs.update({f"{arm}/{name}": evaluation.outputs for name, evaluation in found.items()})
        self._part = None
        self._saved_position = None

    def _state(self) -> State:
        """Return the state of the finetuning: the finished arms, and the one in progress."""
        part = self._part.state() if isinstance(self._part, Finetuning) else State()
        values = {
            "done": self.done,
            "arm": self._part.arm if isinstance(self._part, Finetuning) else None,
            "part": part.values,
            "devices": self.devices,
            "threads": self.threads,
        }
        return State(tensors=below(done=self.outputs, part=part.tensors), values=values)

    def _record(self, arm: str, finetuning: Finetuning, evaluations: Mapping[str, Evaluation]) -> Row:
        return {
            "model": getattr(self.trial.pretrain, arm),
            "parameters": sum(p.numel() for p in finetuning.model.parameters()),
            "best_epoch": finetuning.best.epoch,
            **{name: evaluation.metrics for name, evaluation in evaluations.items()},
        }

    # The result

    def _result(self, stage: Any, parts: Parts) -> Row:
        return {
            "digest": self.folder.digest,
            "results_version": RESULTS_VERSION,
            "attempt": self.attempt,
            "seed": self.trial.seed,
            "classes": list(self.listing.classes),
            "class_weights": self.done[ARMS[0]]["class_weights"],
            "stage": stage,
            "collapsed": self.collapsed,
            "images": {
                "pretrain": len(parts.pretrain) if stage else 0,
                "labelled": len(parts.labelled),
                "validation": len(parts.validation),
                "test": len(parts.test),
            },
            "bad_images": self.listing.bad_images,
            "seconds": self.seconds,
            "devices": self.devices,
            "arms": {arm: self.done[arm]["record"] for arm in ARMS},
        }

    def _write_predictions(self, parts: Parts) -> None:
        """One row per arm and image of validation and test: any metric later, without a GPU."""
        columns: dict[str, list[Any]] = {name: [] for name in ("arm", "split", "image", "group", "label", "outputs")}
        for arm, name in itertools.product(ARMS, EVALUATED):
            rows = self.outputs[f"{arm}/{name}"].tolist()
            for position, outputs in zip(getattr(parts, name), rows, strict=True):
                item = self.listing.items[position]
                values = (arm, name, item.path, item.group, item.label, outputs)
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
        outputs = pa.array(columns.pop("outputs"), pa.list_(pa.float32()))
        table = pa.table(columns).append_column("outputs", outputs)
        self.lease.check()
        with whole_file(self.folder.predictions) as temporary:
            pq.write_table(table, temporary)
