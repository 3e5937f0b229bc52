"""What Ray and this project's records cost beside training: per epoch, per trial and per study.

    python -m tests.benchmarks.overhead

First epochs of pretraining of about five seconds on the CPU, in turns: the bare loop in this process, and the same
trial by the study's command line and Ray, with everything that is recorded of it. Both are timed from the end of one
epoch to the end of the next, so that what happens between epochs counts; the overhead is the difference of the medians
of a round (at most 2 % is wanted). Where the machine's speed changes by more than that from one epoch to the next, the
two parts of it that can be measured in one epoch tell more: the time between the end of an epoch's training and the
beginning of the next, and the processor time of everything but the trial's own process, which a trial that uses all
cores has to wait for. Then how long a trial takes from its start by Ray Tune to the beginning of its first
epoch: in a new process, and in one that has run another trial. Last a study of 27 trivial trials, from the moment when
Ray runs: to its last result, to the last trial's end and to Ray Tune's (10 seconds are wanted).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import nn

from cass_tune import runner
from cass_tune.config import ARMS, Data, Pretrain, Trial
from cass_tune.data.loader import Batches
from cass_tune.data.phantom import phantom_listing
from cass_tune.data.pixels import load_pixels
from cass_tune.data.splits import split
from cass_tune.events import TrialEvents
from cass_tune.methods import method_class
from cass_tune.training.determinism import prepare_torch
from cass_tune.training.models import build_arm
from cass_tune.training.pretrain import Pretraining
from tests import small

EPOCH_S = 5.0
EPOCHS = 4
"""Of a round; the first, with its warm-up, is not counted."""
MOST = 0.02
TRIAL = "ray::ImplicitFunc"
"""Ray's name for the process of a trial."""
CLOCK_HZ = os.sysconf("SC_CLK_TCK")
SIZE_PX = 128
BATCH = 8
SEEDS = 9
"""Of the study of trivial trials: two cells and a control each."""
MOST_S = 10.0
TRIVIAL = {"train": 12, "test": 4}
"""Images of each of two classes in that study, `TRIVIAL_PX` wide: what its trials compute takes next to no time."""
TRIVIAL_PX = 32


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
            is_trial = path.with_name("cmdline").read_text().startswith(TRIAL)
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


def epoch_words(fraction: float) -> list[str]:
    """Return the options of a trial whose epochs take five seconds, one at a time."""
    options = {
        "--data.image-size-px": SIZE_PX,
        "--data.pretrain-fraction": fraction,
        "--pretrain.batch-size": BATCH,
        "--pretrain.epochs": EPOCHS,
        "--pretrain.learning-rate": 0.001,
        "--finetune.epochs": 1,
        "--cpus-per-trial": os.cpu_count(),
    }
    return [str(word) for pair in options.items() for word in pair]


def bare_epochs(fraction: float, epochs: int) -> tuple[list[float], list[float]]:
    """Return the seconds between the ends of epochs of the bare loop, and those of them outside training."""
    data = Data(image_size_px=SIZE_PX, pretrain_fraction=fraction, label_fraction=0.05)
    pretrain = Pretrain(cnn="test_resnet", vit="test_vit", weights="random", batch_size=BATCH, epochs=epochs)
    trial = Trial(data=data, pretrain=pretrain)
    prepare_torch(torch.device("cpu"), 1)
    pixels = load_pixels(phantom_listing(), SIZE_PX)
    batches = Batches(pixels, seed=0, stream="pretrain", views=method_class("cass").views(trial))
    positions = split(pixels.listing, data, 0).pretrain
    arms = nn.ModuleDict({arm: build_arm(trial, arm) for arm in ARMS})
    return _between((time.monotonic(), row["seconds"]) for row in Pretraining(trial, arms, batches, positions).run())


def _between(noted: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return the seconds from each epoch's end to the next one's, and those of them in which it did not train."""
    ends, trained = zip(*noted, strict=True)
    epochs = [end - start for start, end in itertools.pairwise(ends)]
    return epochs, [epoch - seconds for epoch, seconds in zip(epochs, trained[1:], strict=True)]


def ray_epochs(fraction: float) -> tuple[list[float], list[float], float]:
    """Return what epochs by Ray take.

    Returns:
        The seconds between the ends of the same epochs; those of them outside training; and the processor time of what
        is not the trial, as a share of all that there is.
    """
    with tempfile.TemporaryDirectory() as folder:
        clock = run(Path(folder), *epoch_words(fraction))
    noted = [(at, row["seconds"]) for at, _, row in clock.rows if row["phase"] == "pretrain"]
    others_s, passed_s = (last - first for first, *_, last in (clock.others_s[:EPOCHS], [at for at, _ in noted]))
    return *_between(noted), others_s / passed_s / (os.cpu_count() or 1)


def overhead(rounds: int) -> None:
    """Print how much longer epochs take by Ray."""
    tried = 0.1
    fraction = min(1.0, tried * EPOCH_S / statistics.median(bare_epochs(tried, 3)[0]))
    shares, gaps, stolen = list[float](), list[float](), list[float]()
    for number in range(rounds):
        found = {}
        for name in ("bare", "ray") if number % 2 else ("ray", "bare"):
            if name == "bare":
                found[name], bare_between = bare_epochs(fraction, EPOCHS)
            else:
                found[name], ray_between, others = ray_epochs(fraction)
                stolen.append(others)
        gaps.append(statistics.median(ray_between) - statistics.median(bare_between))
        bare, by_ray = statistics.median(found["bare"]), statistics.median(found["ray"])
        shares.append(by_ray / bare - 1)
        spread = " to ".join(f"{value:.2f}" for value in (min(found["bare"]), max(found["bare"])))
        print(f"round {number + 1}: bare {bare:.2f} s (from {spread}), by Ray {by_ray:.2f} s: {shares[-1]:+.2%}")
    print(f"overhead: median {statistics.median(shares):+.2%} of {EPOCH_S:g} s epochs (at most {MOST:.0%} is wanted)")
    gap, share = statistics.median(gaps), statistics.median(stolen)
    print(
        f"of it, in each epoch: {1000 * gap:.0f} ms more than the bare loop between the end of training and the "
        f"next epoch ({gap / EPOCH_S:.2%}), and {share:.2%} of the processors' time for everything but the trial"
    )


def write_images(root: Path) -> None:
    """Write the images of the study of trivial trials: noise."""
    rng = np.random.default_rng(0)
    for part, count in TRIVIAL.items():
        for label, number in itertools.product(("a", "b"), range(count)):
            path = root / part / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (TRIVIAL_PX, TRIVIAL_PX), dtype=np.uint8)).save(path)


def trivial() -> None:
    """Print what a study of trivial trials takes."""
    words = ["--preset", "demo", "--pretrain.epochs", "1", "--finetune.epochs", "1", "--probes", "none"]
    words += ["--data.image-size-px", str(TRIVIAL_PX), "--data.label-fraction", "1", "--data.pretrain-fraction", "1"]
    words += ["--seeds", *map(str, range(SEEDS))]
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder, "images"))
        clock = run(Path(folder, "results"), "--data.name", "folder", "--data.root", f"{folder}/images", *words)
    (began, over), last_row, last_end = clock.ray_tune[0], clock.rows[-1][0], max(clock.ended)
    first, *others = clock.start_ups()
    reused = [value for value in others if value < first]
    print(f"start-up of a trial: {first:.2f} s in a new process, {statistics.median(reused):.2f} s in one that has run")
    print(
        f"{len(clock.ended)} trivial trials: the first starts after {min(clock.started.values()) - began:.1f} s, last "
        f"row after {last_row - began:.1f} s, last end after {last_end - began:.1f} s, Ray Tune's after "
        f"{over - began:.1f} s (at most {MOST_S:g} s are wanted)"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print all measurements."""
    parser = argparse.ArgumentParser(description="Measure the overhead of Ray and of the records.")
    parser.add_argument("--rounds", type=int, default=3, help="of the overhead, 2 x 4 epochs each (default: 3)")
    given = parser.parse_args(arguments)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    trivial()
    if given.rounds:
        overhead(given.rounds)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
