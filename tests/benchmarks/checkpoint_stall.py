"""How long training waits for its checkpoints.

    python -m tests.benchmarks.checkpoint_stall

First the paper's networks, ResNet-50 and ViT-B/16 with Adam's state (1.3 GB): steps without a checkpoint, then steps of
which one is followed by a checkpoint, in turns. The stall is the wait for the copy of the state, and the time by which
steps are slower while the file is written. It is set against an interval of 5 minutes (CheckFreq, FAST 2021, allows
3.5 %). Then the demonstration's trial with the default options: the share of its run that it waited.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cass_tune import attempt
from cass_tune.checkpoints import Checkpointer, Checkpoints
from cass_tune.config import ARMS, Pretrain, Trial, with_field
from cass_tune.data.loader import Batches
from cass_tune.data.phantom import phantom_listing
from cass_tune.data.pixels import load_pixels
from cass_tune.presets import values_of
from cass_tune.results import Results
from cass_tune.training.determinism import prepare_torch
from cass_tune.training.models import build_arm
from cass_tune.training.pretrain import Pretraining
from cass_tune.trial import RunOptions, run_trial

INTERVAL_S = 300.0
SIZE_PX = 64
BATCH = 4


class Stopped(Exception):
    """Enough steps were taken."""


class Steps:
    """Steps of the paper's networks, timed one by one.

    Args:
        folder: where the checkpoint goes.
        warm_up: steps that are not counted, at the start and after each checkpoint's end.
        plain: steps without a checkpoint, in every round.
        rounds: checkpoints.
    """

    def __init__(self, folder: Path, *, warm_up: int, plain: int, rounds: int) -> None:
        self.plain_s: list[float] = []
        self.during_s: list[float] = []
        self.copy_s: list[float] = []
        self.write_s: list[float] = []
        self.extra_s: list[float] = []
        self._warm_up, self._plain, self._rounds = warm_up, plain, rounds
        trial = with_field(Trial(pretrain=Pretrain(weights="random", batch_size=BATCH)), "data.image_size_px", SIZE_PX)
        listing = phantom_listing()
        batches = Batches(load_pixels(listing, SIZE_PX), seed=0, stream="pretrain")
        self._training = Pretraining(
            trial,
            nn.ModuleDict({arm: build_arm(trial, arm) for arm in ARMS}),
            batches,
            listing.of_split("train"),
            after_step=self._after_step,
        )
        self._checkpointer = Checkpointer(Checkpoints(folder), self._training.state, every_s=1e9, check=lambda: None)
        self._count = 0
        self._round: list[float] = []
        self._last = time.perf_counter()

    def run(self) -> None:
        """Take the steps."""
        try:
            for _ in self._training.run():
                pass
        except Stopped:
            self._checkpointer.close()

    @property
    def state_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._training.state().tensors.values())

    def _after_step(self) -> None:
        took = time.perf_counter() - self._last
        self._count += 1
        writing = self._checkpointer._writing
        if writing is not None:
            self._round.append(took)
            if writing.done():
                self._end_round()
        elif self._count > self._warm_up:
            self.plain_s.append(took)
            if len(self.plain_s) % self._plain == 0:
                self._begin_round()
        self._last = time.perf_counter()

    def _begin_round(self) -> None:
        if len(self.copy_s) == self._rounds:
            raise Stopped
        began = time.perf_counter()
        self._checkpointer._begin()
        self.copy_s.append(time.perf_counter() - began)
        self._round = []

    def _end_round(self) -> None:
        typical = statistics.median(self.plain_s)
        self.during_s += self._round
        self.write_s.append(sum(self._round))
        self.extra_s.append(sum(took - typical for took in self._round))
        self._checkpointer._settle()
        self._count = 0


def paper_networks(folder: Path, rounds: int) -> None:
    """Print the stall of the paper's networks."""
    prepare_torch(torch.device("cpu"), 1)
    steps = Steps(folder, warm_up=2, plain=6, rounds=rounds)
    steps.run()
    copy_s, extra_s = statistics.median(steps.copy_s), statistics.median(steps.extra_s)
    print(
        f"state: {steps.state_bytes / 1e9:.2f} GB; {len(steps.copy_s)} checkpoints; "
        f"batch {BATCH} at {SIZE_PX} px, one thread"
    )
    print(f"step without a checkpoint: median {statistics.median(steps.plain_s):.2f} s (n={len(steps.plain_s)})")
    print(f"step while one is written: median {statistics.median(steps.during_s):.2f} s (n={len(steps.during_s)})")
    print(f"copy: median {copy_s:.2f} s, most {max(steps.copy_s):.2f} s; written within {max(steps.write_s):.1f} s")
    share = (copy_s + max(0.0, extra_s)) / INTERVAL_S
    print(f"stall: copy {copy_s:.2f} s + slower steps {extra_s:+.2f} s = {share:.2%} of 5 minutes (limit: 3.5 %)")


def demonstration(folder: Path) -> None:
    """Print the share of a demonstration's trial that it waited for checkpoints."""
    made: list[Checkpointer] = []

    class Recorded(Checkpointer):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            made.append(self)

    sections = values_of("demo", "as_described")
    trial = Trial()
    for section, values in sections.items():
        for name, value in values.items():
            trial = with_field(trial, f"{section}.{name}", value)
    original, attempt.Checkpointer = attempt.Checkpointer, Recorded
    began = time.perf_counter()
    try:
        list(run_trial(trial, Results(folder), RunOptions()))
    finally:
        attempt.Checkpointer = original
    took = time.perf_counter() - began
    stalls = [stall for each in made for stall in each.stalls_s]
    print(
        f"demonstration: waited {sum(stalls):.3f} s in {len(stalls)} waits of {took:.1f} s: "
        f"{sum(stalls) / took:.2%} (limit: 1 %)"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both measurements."""
    parser = argparse.ArgumentParser(description="Measure how long training waits for its checkpoints.")
    parser.add_argument("--rounds", type=int, default=5, help="checkpoints of the paper's networks (default: 5)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        paper_networks(Path(folder) / "paper", given.rounds)
        demonstration(Path(folder) / "demonstration")


if __name__ == "__main__":
    main()
