"""One trial from start to finish: pretrain both arms, finetune each, test each. A plain generator of rows, no Ray."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import nn

from cass_tune.config import ARMS, Trial, to_json, with_field
from cass_tune.data.catalog import list_images
from cass_tune.data.listing import Listing
from cass_tune.data.loader import Batches
from cass_tune.data.pixels import Pixels, load_pixels
from cass_tune.data.splits import Parts, check_batch, split
from cass_tune.environment import commit, describe
from cass_tune.errors import Collapsed, UsageError
from cass_tune.identity import RESULTS_VERSION, Inputs, stage_digest, trial_digest
from cass_tune.results import Results, StageFolder, TrialFolder, new_attempt, whole_file, write_json
from cass_tune.training.determinism import prepare_torch
from cass_tune.training.finetune import Evaluation, Finetuning
from cass_tune.training.models import build_arm, save_arm
from cass_tune.training.pretrain import Pretraining
from cass_tune.weights import weights_identity

logger = logging.getLogger(__name__)
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a trial runs, as opposed to what it is: none of it changes what the trial means.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of one operation; recorded, because it changes last digits.
        workers: loader processes; 0 loads in the trial's own process.
        on_collapse: warn, or stop the trial, when the pretraining's outputs become constant.
        keep_weights: whether the finetuned arms are kept.
        redo: run a finished trial again and keep its earlier result beside the new one.
        commit: of the code, as the driver knows it; recorded.
    """

    device: str = "cpu"
    threads: int = 1
    workers: int = 0
    on_collapse: Literal["warn", "stop"] = "warn"
    keep_weights: Literal["all", "none"] = "all"
    redo: bool = False
    commit: str | None = None


def read_inputs(trial: Trial, listing: Listing) -> Inputs:
    """Return what the trial reads from outside its configuration, as it is on this machine."""
    return Inputs(data=listing.fingerprint, **weights_identity(trial.pretrain))


def run_trial(trial: Trial, results: Results, options: RunOptions, expected: Inputs | None = None) -> Iterator[Row]:
    """Run a trial and yield one row per epoch (`cass_tune.training.rows`); everything else goes to the results root.

    A finished trial yields its stored rows, marked as reused, and changes nothing.

    Args:
        trial: what to run.
        results: root of all records.
        options: how to run it.
        expected: the inputs that the driver saw; a machine that sees others fails.

    Raises:
        UsageError: this machine sees other images or weights, or the configuration does not fit the data.
        Collapsed: under ``on_collapse="stop"``.
    """
    inputs = expected or read_inputs(trial, list_images(trial.data))
    folder = results.trial(trial_digest(trial, inputs))
    if folder.result() is not None and not options.redo:
        yield from _stored_rows(trial, inputs, results, folder)
        return
    if options.redo:
        folder.set_aside()
    folder.begin()
    folder.write_config({"trial": to_json(trial), "inputs": vars(inputs), "results_version": RESULTS_VERSION})
    with _logging_to(folder.log):
        try:
            listing = list_images(trial.data)
            _check_inputs(read_inputs(trial, listing), inputs)
            yield from _TrialRun(trial, inputs, listing, results, folder, options).run()
        except Exception as error:
            logger.exception("trial %s failed", folder.id)
            folder.fail(type(error).__name__, str(error), traceback.format_exc())
            raise


def _check_inputs(seen: Inputs, expected: Inputs) -> None:
    for name, value in vars(expected).items():
        if getattr(seen, name) != value:
            raise UsageError(
                f"This machine sees other {'images' if name == 'data' else f'weights of the {name}'} than the driver: "
                f"{getattr(seen, name)}, expected {value}. Make the same files visible on every machine."
            )


def _stored_rows(trial: Trial, inputs: Inputs, results: Results, folder: TrialFolder) -> Iterator[Row]:
    rows = folder.rows()
    if trial.pretrain.method != "none":
        stage = results.stage(stage_digest(trial, inputs))
        rows = _stage_rows(stage, trial.pretrain.epochs) + rows
    yield from ({**row, "reused": True} for row in rows)


def _stage_rows(stage: StageFolder, epochs: int) -> list[Row]:
    return [{**row, "reused": True} for row in stage.end_record(epochs).get("rows", [])]


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send the package's log and Python's warnings to the trial's log file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger("cass_tune"), logging.getLogger("py.warnings")]
    logging.captureWarnings(True)
    level = loggers[0].level
    loggers[0].setLevel(logging.INFO)
    for target in loggers:
        target.addHandler(handler)
        target.propagate = False
    try:
        yield
    finally:
        for target in loggers:
            target.removeHandler(handler)
            target.propagate = True
        loggers[0].setLevel(level)
        logging.captureWarnings(False)
        handler.close()


class _TrialRun:
    """The steps of one trial, and what they hand to each other."""

    def __init__(
        self, trial: Trial, inputs: Inputs, listing: Listing, results: Results, folder: TrialFolder, options: RunOptions
    ) -> None:
        self.trial = trial
        self.inputs = inputs
        self.listing = listing
        self.results = results
        self.folder = folder
        self.options = options
        self.device = torch.device(options.device)
        self.attempt = new_attempt()
        self.environment = describe(options.device, options.threads, options.commit or commit())
        self.devices: list[str] = self.environment["devices"]
        self.seconds: dict[str, float] = {"pretrain": 0.0, **dict.fromkeys(ARMS, 0.0)}
        self.collapsed = False

    def run(self) -> Iterator[Row]:
        """Yield the rows of all phases; write everything else."""
        prepare_torch(self.device, self.options.threads)
        self.folder.write_environment(self.environment)
        parts = split(self.listing, self.trial.data, self.trial.seed)
        check_batch(self.trial, len(parts.pretrain))
        for text in parts.warnings + self.listing.warnings:
            logger.warning(text)
        pixels = load_pixels(self.listing, self.trial.data.image_size_px)
        arms = nn.ModuleDict()
        stage = yield from self._pretrained(arms, parts, pixels)
        records: dict[str, Any] = {}
        evaluations: dict[tuple[str, str], Evaluation] = {}
        weights: Mapping[str, float] = {}
        for arm in ARMS:
            finetuning = Finetuning(
                self.trial, arm, arms[arm], self.listing, parts, self._batches(pixels, f"finetune/{arm}")
            )
            for row in finetuning.run():
                self.seconds[arm] += row["seconds"]
                self.folder.append_row(self.attempt, row)
                yield row
            for name, positions in (("validation", parts.validation), ("test", parts.test)):
                evaluations[arm, name] = finetuning.evaluate(positions)
            records[arm] = self._record(arm, finetuning, evaluations)
            weights = finetuning.class_weights
            self._keep(arm, finetuning.model)
        self._write_predictions(evaluations)
        self.folder.finish(self._result(stage, parts, weights, records))

    def _batches(self, pixels: Pixels, stream: str) -> Batches:
        return Batches(
            pixels,
            seed=self.trial.seed,
            stream=stream,
            workers=self.options.workers,
            pin_memory=self.device.type == "cuda",
        )

    def _pretrained(self, arms: nn.ModuleDict, parts: Parts, pixels: Pixels) -> Iterator[Row]:
        """Fill ``arms``; return the stage that they came from, or None for the control."""
        if self.trial.pretrain.method == "none":
            for arm in ARMS:
                arms[arm] = build_arm(self.trial, arm).to(self.device)
            return None
        stage = self.results.stage(stage_digest(self.trial, self.inputs))
        end = stage.end(self.trial.pretrain.epochs)
        reused = end.exists()
        for row in self._reuse(stage, arms) if reused else self._pretrain(stage, arms, parts, pixels):
            self.seconds["pretrain"] += row["seconds"]
            self.collapsed = row["collapsed"]
            yield row
        return {"digest": stage.digest, "epoch": self.trial.pretrain.epochs, "reused": reused}

    def _reuse(self, stage: StageFolder, arms: nn.ModuleDict) -> Iterator[Row]:
        end = stage.end(self.trial.pretrain.epochs)
        logger.info("pretraining taken from %s", end)
        shapes = self.trial
        for name, value in (("weights", "random"), ("cnn_weights", None), ("vit_weights", None)):
            shapes = with_field(shapes, f"pretrain.{name}", value)
        for arm in ARMS:
            arms[arm] = build_arm(shapes, arm)
            arms[arm].load_state_dict(load_file(end / f"{arm}.safetensors"))
            arms[arm].to(self.device)
        devices = stage.end_record(self.trial.pretrain.epochs)["environment"]["devices"]
        self.devices = list(dict.fromkeys([*devices, *self.devices]))
        rows = _stage_rows(stage, self.trial.pretrain.epochs)
        yield from rows
        if rows[-1]["collapsed"] and self.options.on_collapse == "stop":
            raise Collapsed("the stored pretraining that this trial would start from has collapsed")

    def _pretrain(self, stage: StageFolder, arms: nn.ModuleDict, parts: Parts, pixels: Pixels) -> Iterator[Row]:
        stage.write_config(
            {"trial": to_json(self.trial), "inputs": vars(self.inputs), "results_version": RESULTS_VERSION}
        )
        stage.write_environment(self.environment)
        for arm in ARMS:
            arms[arm] = build_arm(self.trial, arm).to(self.device)
        pretraining = Pretraining(
            self.trial,
            arms,
            self._batches(pixels, "pretrain"),
            parts.pretrain,
            stop_on_collapse=self.options.on_collapse == "stop",
        )
        rows = []
        for row in pretraining.run():
            stage.append_row(self.attempt, row)
            rows.append(row)
            yield row
        with stage.publish(self.trial.pretrain.epochs) as place:
            write_json(place / "run.json", {"rows": rows, "environment": self.environment})
            for arm in ARMS:
                self._save(arm, arms[arm], place / f"{arm}.safetensors")

    def _save(self, arm: str, model: nn.Module, path: Path, classes: tuple[str, ...] = ()) -> None:
        name = getattr(self.trial.pretrain, arm)
        save_arm(model, path, name=name, image_size_px=self.trial.data.image_size_px, classes=classes)

    def _keep(self, arm: str, model: nn.Module) -> None:
        if self.options.keep_weights == "all":
            self._save(arm, model, self.folder.weights(arm), self.listing.classes)

    def _record(self, arm: str, finetuning: Finetuning, evaluations: Mapping[tuple[str, str], Evaluation]) -> Row:
        return {
            "model": getattr(self.trial.pretrain, arm),
            "parameters": sum(p.numel() for p in finetuning.model.parameters()),
            "best_epoch": finetuning.best.epoch,
            "validation": evaluations[arm, "validation"].metrics,
            "test": evaluations[arm, "test"].metrics,
        }

    def _result(self, stage: Any, parts: Parts, weights: Mapping[str, float], records: Row) -> Row:
        return {
            "digest": self.folder.digest,
            "results_version": RESULTS_VERSION,
            "attempt": self.attempt,
            "seed": self.trial.seed,
            "classes": list(self.listing.classes),
            "class_weights": dict(weights),
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
            "arms": records,
        }

    def _write_predictions(self, evaluations: Mapping[tuple[str, str], Evaluation]) -> None:
        """One row per arm and image of validation and test: any metric later, without a GPU."""
        columns: dict[str, list[Any]] = {name: [] for name in ("arm", "split", "image", "group", "label", "outputs")}
        for (arm, name), evaluation in evaluations.items():
            for position, outputs in zip(evaluation.positions, evaluation.outputs.tolist(), strict=True):
                item = self.listing.items[position]
                values = (arm, name, item.path, item.group, item.label, outputs)
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
        outputs = pa.array(columns.pop("outputs"), pa.list_(pa.float32()))
        table = pa.table(columns).append_column("outputs", outputs)
        with whole_file(self.folder.predictions) as temporary:
            pq.write_table(table, temporary)
