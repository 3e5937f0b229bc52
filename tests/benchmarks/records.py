"""How long it takes to load and tabulate a very large study, and how much memory: 10,000 trials of 250 epochs each.

    python -m tests.benchmarks.records [--trials 10000] [--layout own|shared] [--keep DIR]

The records are written through the layout of real ones into a temporary folder that is deleted afterwards. ``own``: all
250 rows are the trial's (two arms of 125 epochs of finetuning), the most to read; ``shared``: 2 x 50 of finetuning, and
150 of a pretraining that five label fractions share. Then a new process loads the results and the epochs and makes the
F1 and timing tables. Exits with 1 above 20 s or 2 GB of memory at the peak.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

from cass_tune.config import Trial, control, to_json, with_field
from cass_tune.identity import segments
from cass_tune.results import Record, Results, StageFolder, StudyFolder
from cass_tune.training.rows import epoch_row
from tests.analysis.synthetic import SMALL, Root

MOST_SECONDS, MOST_GB = 20.0, 2.0
AXES = {
    "data.label_fraction": (0.01, 0.05, 0.1, 0.5, 1.0),
    "pretrain.batch_size": (4, 8, 16, 32),
    "pretrain.learning_rate": tuple(number / 1e4 for number in range(1, 11)),
    "finetune.learning_rate": tuple(number / 1e4 for number in range(1, 11)),
}
SEEDS = range(5)
EPOCHS = {"own": (125, 0), "shared": (50, 150)}
"""Epochs of each arm's finetuning, and of the pretraining that the records tell of, by layout."""


def trials() -> Iterator[Trial]:
    """Yield the grid and its controls, seed by seed: 10,025 trials."""
    for seed in SEEDS:
        for values in itertools.product(*AXES.values()):
            trial = replace(SMALL, seed=seed)
            for path, value in zip(AXES, values, strict=True):
                trial = with_field(trial, path, value)
            yield trial
        for fraction in AXES["data.label_fraction"]:
            yield control(with_field(replace(SMALL, seed=seed), "data.label_fraction", fraction))


class Writer:
    """Writes the records of a study.

    Args:
        folder: the results root.
        layout: a key of `EPOCHS`.
    """

    def __init__(self, folder: Path, layout: str) -> None:
        self.root = Root(folder)
        self.finetuning, self.pretraining = EPOCHS[layout]
        self.stages: set[str] = set()
        self._random = random.Random(0)

    def write(self, count: int) -> None:
        """Write so many finished trials, and the plan that asks for them."""
        wanted = [self._described(trial) for trial in itertools.islice(trials(), count)]
        for trial in wanted:
            self._trial(trial)
        self.root.plan(wanted, list(AXES))

    def _described(self, trial: Trial) -> Trial:
        epochs = with_field(trial, "finetune.epochs", self.finetuning)
        return with_field(epochs, "pretrain.epochs", self.pretraining) if self.pretraining else epochs

    def _trial(self, trial: Trial) -> None:
        record = {"trial": to_json(trial), "inputs": vars(self.root.inputs), "results_version": 1}
        folder = self.root.results.trial(self.root.digest(trial))
        folder.write_config(record)
        with folder.row_file("20260101T000000.000000-000000") as lines:
            for arm in ("cnn", "vit"):
                for row in self._rows(f"finetune_{arm}", self.finetuning):
                    lines.append(json.dumps(row))
        chain = segments(trial, self.root.inputs) if self.pretraining else ()
        parts = [vars(segment) for segment in chain]
        self.root.segments[trial] = parts
        self.root.finish(
            trial, self._random.random(), self._random.random(), stage={"segments": parts} if parts else None
        )
        for segment in chain:
            if segment.stage not in self.stages:
                self.stages.add(segment.stage)
                self._end(self.root.results.stage(segment.stage), segment.end)

    def _end(self, stage: StageFolder, epoch: int) -> None:
        stage.write_end(epoch, {"rows": list(self._rows("pretrain", epoch))})

    def _rows(self, phase: str, epochs: int) -> Iterator[Record]:
        names = ("loss", "learning_rate", "images_per_second", "seconds", "peak_memory_gib")
        more = {
            "pretrain": ("cnn_feature_std", "vit_feature_std", "cnn_effective_rank", "vit_effective_rank", "agreement"),
        }.get(phase, ("validation_loss", "macro_f1", "micro_f1_at_half", "balanced_accuracy", "accuracy", "auroc"))
        for epoch in range(1, epochs + 1):
            numbers = {name: self._random.random() for name in (*names, *more)}
            yield epoch_row(phase=phase, epoch=epoch, epochs=epochs, reused=False, **numbers)


def measure(study: Path) -> None:
    """Load and tabulate a study, and print seconds and memory as JSON."""
    start = time.perf_counter()
    from analysis.cells import f1_table
    from analysis.epochs import load_epochs
    from analysis.groups import split
    from analysis.results import load, read_plans, study_axes
    from analysis.timing import timing_table

    steps = {"imports": time.perf_counter()}
    axes = study_axes(read_plans(StudyFolder(study)))
    frame = load(study)
    steps["load"] = time.perf_counter()
    epochs = load_epochs(study)
    steps["load_epochs"] = time.perf_counter()
    groups = split(frame, axes)
    f1 = [f1_table(group.frame, axes) for group in groups]
    steps["f1_table"] = time.perf_counter()
    timing = [timing_table(group.frame, axes) for group in groups]
    steps["timing_table"] = time.perf_counter()
    rows = {"rows": len(frame), "epochs": len(epochs), "f1": sum(map(len, f1)), "timing": sum(map(len, timing))}
    times = [start, *steps.values()]
    seconds = {name: end - begin for name, begin, end in zip(steps, times, times[1:], strict=False)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    found = {"seconds": seconds, "total_s": times[-1] - start, "cpu_s": time.process_time(), "peak_gb": peak}
    print(json.dumps({**found, **rows}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--layout", choices=EPOCHS, default="own")
    parser.add_argument("--keep", type=Path, help="write the records here, once, and keep them")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        if not list(Results(folder).studies()):
            with mock.patch("os.fsync"):  # what is written here need not outlive a power cut
                Writer(folder, given.layout).write(given.trials)
        (study,) = Results(folder).studies()
        command = [sys.executable, "-m", "tests.benchmarks.records", "--measure", str(study.path)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(json.dumps(found, indent=1))
    is_good = found["total_s"] < MOST_SECONDS and found["peak_gb"] < MOST_GB
    load = f"{os.cpu_count()} cores, {os.getloadavg()[0]:.1f} processes on them"
    times = f"{found['total_s']:.1f} s ({found['cpu_s']:.1f} s of the cores; {load})"
    print(f"{given.trials} trials, {given.layout}: {times}, {found['peak_gb']:.2f} GB at the peak")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
