"""What Ray and this project's records cost beside training: per epoch, per trial and per study.

    python -m tests.benchmarks.overhead

How long a trial takes from its start by Ray Tune to the beginning of its first epoch: in a new process, and in one that
has run another trial. Then a study of 27 trials from the moment when Ray runs, to its last row, to the last trial's end
and to Ray Tune's: of real trials as small as they can be, which import torch and train, and of trivial ones, which
record and report three rows and compute nothing (`tests.benchmarks.trivial`; 10 seconds are wanted). Last epochs of
pretraining of about five seconds on the CPU, in turns (`tests.benchmarks.turns`): of the bare loop, and of the same
trial by the study's command line and Ray, with everything that is recorded of it. What happens between epochs counts.
The overhead is how much longer a turn by Ray takes than the bare loop's before and after it: the mean of all turns with
its 95 % interval (at most 2 % is wanted). Beside it, the processor time of everything but the trial's own process,
which a trial that uses all cores would have to wait for.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from analysis.statistics import summarise
from cass_tune import runner
from cass_tune.events import TrialEvents
from cass_tune.runner import tuner
from tests import small
from tests.benchmarks.trivial import trivial
from tests.benchmarks.turns import BOTH, FOLDER, METHOD, WHO, Turns, bare, bare_rows

EPOCH_S = 5.0
WARM_UP = 2
"""Turns of each that are not counted."""
MOST = 0.02
TRIALS = ("ray::ImplicitFunc", "multiprocessing.spawn")
"""In the command lines of the processes that train: Ray's name for a trial's, and the bare loop's."""
CLOCK_HZ = os.sysconf("SC_CLK_TCK")
SIZE_PX = 128
BATCH = 8
SEEDS = 9
"""Of each study of 27 trials: two cells and a control each."""
MOST_S = 10.0
SMALLEST = {"train": 5, "test": 2}
"""Images of each of two classes in that study, `SMALLEST_PX` wide."""
SMALLEST_PX = 32


@dataclass
class Clock:
    """When a study's driver hears of its trials, by `time.monotonic`."""

    started: dict[str, float] = field(default_factory=dict)
    rows: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)
    others_s: list[float] = field(default_factory=list)
    """Processor seconds of this process and Ray's until each row, the trials' own left out."""
    ended: list[float] = field(default_factory=list)
    ray_tune: list[tuple[float, float]] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Take note in the block."""
        run_trials = runner.run_trials
        started, row, ended = TrialEvents.started, TrialEvents.row, TrialEvents.ended

        def started_and_noted(events: TrialEvents, digest: str) -> None:
            self.started.setdefault(digest, time.monotonic())
            started(events, digest)

        def row_and_noted(events: TrialEvents, digest: str, values: Any) -> None:
            self.rows.append((time.monotonic(), digest, dict(values)))
            self.others_s.append(processor_seconds())
            row(events, digest, values)

        def ended_and_noted(events: TrialEvents, digest: str) -> None:
            self.ended.append(time.monotonic())
            ended(events, digest)

        def timed(*given: Any, **named: Any) -> None:
            began = time.monotonic()
            run_trials(*given, **named)
            self.ray_tune.append((began, time.monotonic()))

        noted = {"started": started_and_noted, "row": row_and_noted, "ended": ended_and_noted}
        with mock.patch.multiple(TrialEvents, **noted), mock.patch.object(runner, "run_trials", timed):
            yield

    def text(self) -> str:
        """Return when the study's trials began and ended, in seconds after Ray ran."""
        began, over = self.ray_tune[0]
        seconds = (min(self.started.values()), self.rows[-1][0], max(self.ended), over)
        start, last_row, last_end, end = (f"{at - began:.1f} s" for at in seconds)
        return f"the first starts after {start}, last row after {last_row}, last end after {last_end}, Ray Tune's {end}"

    def start_ups(self) -> list[float]:
        """Return for each trial the seconds from its start to the beginning of its first epoch, in order."""
        first: dict[str, float] = {}
        for at, digest, row in self.rows:
            first.setdefault(digest, at - row["seconds"] - self.started[digest])
        return list(first.values())


def processor_seconds() -> float:
    """Return the processor time of this process and all below it that are no trial."""
    children: dict[int, list[int]] = {}
    seconds: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(path.parent.name))
            command = path.with_name("cmdline").read_text()
            is_trial = any(name in command for name in TRIALS)
            seconds[int(path.parent.name)] = 0.0 if is_trial else sum(map(int, fields[11:13])) / CLOCK_HZ
    found, waiting = 0.0, [os.getpid()]
    while waiting:
        process = waiting.pop()
        found += seconds.get(process, 0.0)
        waiting += children.get(process, [])
    return found


def run(folder: Path, *words: str) -> Clock:
    """Run a study by Ray on this machine; what it says is shown when it fails."""
    clock, said = Clock(), io.StringIO()
    with clock.running(), contextlib.redirect_stdout(said):
        code = small.run(*words, results=folder)
    if code:
        raise SystemExit(f"{said.getvalue()}\nthe study ended with {code}")
    return clock


def epoch_fields(fraction: float, epochs: int) -> dict[str, float]:
    """Return the fields of a trial whose epochs take five seconds."""
    data = {"data.image_size_px": SIZE_PX, "data.pretrain_fraction": fraction}
    return {**data, "pretrain.batch_size": BATCH, "pretrain.epochs": epochs, "pretrain.learning_rate": 0.001}


def words(options: Mapping[str, Any]) -> list[str]:
    """Return options as they are written in a command line."""
    return [str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]


def in_turns(turns: int) -> tuple[list[float], list[float], float]:
    """Train by Ray and bare, in turns.

    Returns:
        Seconds of each turn by Ray; of each bare one; and the processor time of what is not the trial, as a share of
        all that there is.
    """
    tried = 0.1
    seconds = statistics.median(row["seconds"] for row in bare_rows(epoch_fields(tried, 4))[1:])
    fields = epoch_fields(min(1.0, tried * EPOCH_S / seconds), turns + WARM_UP + 1)
    with tempfile.TemporaryDirectory() as scratch:
        meeting = Path(scratch, "turns")
        meeting.mkdir()
        os.environ |= {FOLDER: str(meeting), WHO: "ray"}
        other = multiprocessing.get_context("spawn").Process(target=bare, args=(meeting, fields), daemon=True)
        other.start()
        options = {"pretrain.method": METHOD, "finetune.epochs": 1, "cpus-per-trial": os.cpu_count()}
        clock = run(Path(scratch, "results"), *words({**fields, **options}))
        other.join()
        by_ray, alone = (Turns(meeting, who, turns + WARM_UP).seconds()[WARM_UP:] for who in BOTH)
    noted = [place for place, (_, _, row) in enumerate(clock.rows) if row["phase"] == "pretrain"]
    first, last = noted[WARM_UP], noted[-2]
    others_s = clock.others_s[last] - clock.others_s[first]
    return by_ray, alone, others_s / (clock.rows[last][0] - clock.rows[first][0]) / (os.cpu_count() or 1)


def overhead(turns: int) -> None:
    """Print how much longer epochs take by Ray."""
    by_ray, alone, share = in_turns(turns)
    beside = [statistics.mean(pair) for pair in itertools.pairwise(alone)]
    longer = summarise(100 * (own / bare - 1) for own, bare in zip(by_ray[1:], beside, strict=True))
    spread = ", ".join(
        f"{name} {min(each):.2f} to {max(each):.2f} s (median {statistics.median(each):.2f})"
        for name, each in (("bare", alone), ("by Ray", by_ray))
    )
    print(f"{turns} epochs of each, in turns: {spread}")
    print(f"overhead: {longer.text(signed=True)} % of epochs of {EPOCH_S:g} s (at most {MOST:.0%} is wanted)")
    print(f"beside it, {share:.2%} of the processors' time for everything but the trial and the bare loop")


def write_images(root: Path) -> None:
    """Write the images of the smallest study: noise."""
    rng = np.random.default_rng(0)
    for part, count in SMALLEST.items():
        for label, number in itertools.product(("a", "b"), range(count)):
            path = root / part / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (SMALLEST_PX, SMALLEST_PX), dtype=np.uint8)).save(path)


def studies() -> None:
    """Print what a study of the smallest trials takes, and one of trivial trials."""
    clock = study_of_27()
    first, *others = clock.start_ups()
    reused = [value for value in others if value < first]
    print(f"start-up of a trial: {first:.2f} s in a new process, {statistics.median(reused):.2f} s in one that has run")
    print(f"27 real trials, the smallest: {clock.text()}")
    with mock.patch.object(tuner, "trainable", trivial):
        print(f"27 trivial trials: {study_of_27().text()} (at most {MOST_S:g} s are wanted)")


def study_of_27() -> Clock:
    """Run two cells and a control with nine seeds."""
    words = ["--preset", "demo", "--pretrain.epochs", "1", "--finetune.epochs", "1", "--probes", "none"]
    words += ["--data.image-size-px", str(SMALLEST_PX), "--data.label-fraction", "1", "--data.pretrain-fraction", "1"]
    words += ["--seeds", *map(str, range(SEEDS))]
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder, "images"))
        clock = run(Path(folder, "results"), "--data.name", "folder", "--data.root", f"{folder}/images", *words)
    if len(clock.ended) != 3 * SEEDS:
        raise SystemExit(f"{len(clock.ended)} trials ended")
    return clock


def main(arguments: Sequence[str] | None = None) -> None:
    """Print all measurements."""
    parser = argparse.ArgumentParser(description="Measure the overhead of Ray and of the records.")
    parser.add_argument("--turns", type=int, default=24, help="epochs of each, for the overhead (default: 24)")
    given = parser.parse_args(arguments)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    studies()
    if given.turns:
        overhead(given.turns)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
