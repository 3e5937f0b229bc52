"""Results roots made of plain records, through the same API by which the runner writes them."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cass_tune.config import ARMS, Data, Finetune, Pretrain, Trial, control, get_field, to_json, with_field
from cass_tune.identity import PROBES_VERSION, Inputs, trial_digest
from cass_tune.results import Record, Results, StudyFolder, TrialFolder
from cass_tune.storage import whole_file, write_json

PHANTOM = {
    "train": {"glioma": 60, "meningioma": 60, "notumor": 60, "pituitary": 60},
    "val": {"glioma": 15, "meningioma": 15, "notumor": 15, "pituitary": 15},
    "test": {"glioma": 20, "meningioma": 20, "notumor": 20, "pituitary": 20},
}
BRAIN_MRI = {"train": {"all": 4570}, "val": {"all": 1142}, "test": {"all": 1311}}
BRAIN_MRI_SUBSET = {"train": {"all": 1280}, "val": {"all": 320}, "test": {"all": 400}}
TIMM = {"cnn": "timm:resnet50.a1_in1k", "vit": "timm:vit_base_patch16_384.augreg_in21k_ft_in1k"}
RANDOM = {"cnn": "random", "vit": "random"}

SMALL = Trial(
    data=Data(image_size_px=48, label_fraction=0.1),
    pretrain=Pretrain(cnn="test_resnet.r160_in1k", vit="test_vit.r160_in1k", weights="random", epochs=2),
    finetune=Finetune(epochs=3),
)
"""A trial of the demo."""
LARGE = Trial(data=Data(name="brain_mri"))
"""A trial of the paper."""


def cells(base: Trial, path: str, values: Iterable[Any], seeds: Iterable[int], controls: bool = True) -> list[Trial]:
    """Return a grid over one axis, its controls first (each once)."""
    grid = [with_field(with_field(base, path, value), "seed", seed) for value in values for seed in seeds]
    first = [control(with_field(base, "seed", seed)) for seed in seeds]
    if not path.startswith("pretrain."):
        first = [control(trial) for trial in grid]
    return [*(first if controls else []), *grid]


class Root:
    """A results root with one study that is asked for and answered by hand.

    Args:
        folder: the results root.
        counts: images of the data by part and class.
        weights: starting weights by arm.
        demo: whether the plans say that they are a demo.
    """

    def __init__(
        self, folder: Path | str, counts: Record = PHANTOM, weights: dict[str, str] = RANDOM, demo: bool = False
    ) -> None:
        self.results = Results(folder)
        self.counts = counts
        self.weights = weights
        self.demo = demo
        self.segments: dict[Trial, list[Record]] = {}
        """Where the plan says that a pretraining is stored."""
        self.study: StudyFolder = self.results.study("batch_ablation", "phantom-demo" if demo else "brain_mri-paper")

    @property
    def inputs(self) -> Inputs:
        """What every trial reads."""
        return Inputs(data=self._fingerprint(), **self.weights)

    def digest(self, trial: Trial) -> str:
        return trial_digest(trial, self.inputs)

    def _fingerprint(self) -> str:
        return f"{sum(sum(part.values()) for part in self.counts.values()):064x}"

    def plan(self, trials: Iterable[Trial], axes: Iterable[str] = ("pretrain.batch_size",), **changes: Any) -> None:
        """Ask for trials."""
        trials = list(trials)
        self.study.write_plan(
            {
                "study": "batch_ablation",
                "title": "Batch size of the pretraining",
                "preset": "demo" if self.demo else "paper",
                "demo": self.demo,
                "recipe": "as_described",
                "axes": list(axes),
                "data": {
                    "name": trials[0].data.name,
                    "fingerprint": self._fingerprint(),
                    "classes": sorted(self.counts["train"]),
                    "counts": self.counts,
                },
                "results_version": 1,
                "trials": [self._wanted(trial, list(axes)) for trial in trials],
                **changes,
            }
        )

    def _wanted(self, trial: Trial, axes: list[str]) -> Record:
        settings = [f"{axis.partition('.')[2]}={get_field(trial, axis)}" for axis in axes]
        if trial.pretrain.method == "none":
            settings = ["control"]
        name = " ".join([*settings, f"seed={trial.seed}"])
        identity = {"digest": self.digest(trial), "segments": self.segments.get(trial, []), "weights": self.weights}
        return {**identity, "name": name, "config": to_json(trial)}

    def finish(self, trial: Trial, cnn: float | None, vit: float | None = None, **changes: Any) -> None:
        """Record a trial as finished, with these macro-F1 of its arms."""
        scores = {"cnn": cnn, "vit": cnn if vit is None else vit}
        record = {
            "digest": self.digest(trial),
            "seed": trial.seed,
            "classes": sorted(self.counts["train"]),
            "stage": None,
            "collapsed": False,
            "images": {"pretrain": 240, "labelled": 24, "validation": 60, "test": 80},
            "bad_images": {},
            "class_weights": {},
            "seconds": {"pretrain": 90.0 + trial.seed, "cnn": 6.0, "vit": 7.0},
            "devices": ["cpu (AMD EPYC, 1 thread)"],
            "results_version": 1,
            "arms": {arm: _arm(getattr(trial.pretrain, arm), scores[arm], self.counts["test"]) for arm in ARMS},
        }
        self._folder(trial).finish({**record, **changes})

    def probe(self, trial: Trial, **scores: float) -> None:
        """Record the probes of a trial's arms: the CNN's macro-F1 by probe, the ViT's half of it."""
        arms = {arm: {p: _probe(score / (1 + (arm == "vit"))) for p, score in scores.items()} for arm in ARMS}
        self._folder(trial).write_probes({"version": PROBES_VERSION, "arms": arms})

    def fail(self, trial: Trial, kind: str = "RuntimeError", message: str = "first line\nout of memory") -> None:
        """Record a trial as failed."""
        self._folder(trial).fail(kind, message, "Traceback ...")

    def compute(
        self,
        work: Trial | str,
        phase: str,
        seconds: Iterable[float],
        *,
        start: int = 0,
        attempt: str = "a1",
        images_per_second: Iterable[float] | None = None,
    ) -> None:
        """Record the epochs after ``start`` of a trial, or of the stage with this identity, as computed."""
        rates = [{"images_per_second": rate} for rate in images_per_second or ()]
        folder = self._folder(work) if isinstance(work, Trial) else self.results.stage(work)
        with folder.row_file(attempt) as lines:
            for epoch, (value, rate) in enumerate(itertools.zip_longest(seconds, rates, fillvalue={}), start + 1):
                lines.append(json.dumps({"phase": phase, "epoch": epoch, "epochs": 9, "seconds": value, **rate}))

    def learn(self, work: Trial | str, phase: str, columns: dict[str, list], attempt: str = "a1") -> None:
        """Record epochs of a trial or a stage: the values of each column, epoch by epoch."""
        folder = self._folder(work) if isinstance(work, Trial) else self.results.stage(work)
        with folder.row_file(attempt) as lines:
            for epoch, values in enumerate(zip(*columns.values(), strict=True), 1):
                own = dict(zip(columns, values, strict=True))
                lines.append(json.dumps({"phase": phase, "epoch": epoch, "epochs": 9, "seconds": 1.0, **own}))

    def attempt(self, trial: Trial, name: str, start: str, end: str | None, how: str = "finished", **more: Any) -> None:
        """Record an attempt at a trial; times are those of a day, for example ``12:00:30``."""
        ended = end and {"how": how, "time": f"2026-01-01T{end}+00:00"}
        record = {"attempt": name, "run": "r", "host": "one", "pid": 1, "resumed": None, "ended": ended, **more}
        record["started"] = f"2026-01-01T{start}+00:00"
        write_json(self._folder(trial).path / "attempts" / f"{name}.json", record)

    def predict(self, trial: Trial, rows: list[tuple[str, str, str, list[float]]], split: str = "test") -> None:
        """Record predictions of images: arm, image, label and outputs; images of one name before ``#`` are a group."""
        arms, images, labels, outputs = zip(*rows, strict=True)
        groups = [image.partition("#")[0] for image in images]
        columns = {"arm": arms, "split": [split] * len(arms), "image": images, "group": groups, "label": labels}
        table = pa.table({name: list(values) for name, values in columns.items()})
        table = table.append_column("outputs", pa.array(outputs, pa.list_(pa.float32())))
        with whole_file(self._folder(trial).predictions) as temporary:
            pq.write_table(table, temporary)

    def _folder(self, trial: Trial) -> TrialFolder:
        folder = self.results.trial(self.digest(trial))
        folder.write_config({"trial": to_json(trial), "inputs": vars(self.inputs), "results_version": 1})
        return folder


def _arm(model: str, macro_f1: float | None, counts: dict[str, int]) -> Record:
    images = [counts[name] for name in sorted(counts)]
    metrics = {
        "macro_f1": macro_f1,
        "micro_f1_at_half": None if macro_f1 is None else macro_f1 - 0.05,
        **dict.fromkeys(("micro_recall_at_half", "balanced_accuracy", "accuracy"), 0.5),
        "auroc": None,
        "loss": 0.3,
        "n": sum(images),
        "confusion_matrix": [[n * (row == column) for column in range(len(images))] for row, n in enumerate(images)],
    }
    return {"model": model, "best_epoch": 2, "parameters": 1000, "validation": metrics, "test": metrics}


def _probe(macro_f1: float) -> Record:
    metrics = {"macro_f1": macro_f1, "balanced_accuracy": 0.5, "accuracy": 0.5, "auroc": 0.6}
    validation = {**metrics, "macro_f1": macro_f1 + 0.1}
    return {"c": 0.1, "converged": True, "k": 20, "validation": validation, "test": metrics}


def replace(trial: Trial, **fields: Any) -> Trial:
    """Return a copy of a trial with other values, for example ``pretrain_epochs=50``."""
    for name, value in fields.items():
        section, _, field = name.partition("_")
        trial = with_field(trial, f"{section}.{field}" if field else section, value)
    return dataclasses.replace(trial)
