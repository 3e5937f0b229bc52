"""Seconds per epoch of every method relative to CASS, in one run: same networks, batch and images.

    python -m tests.benchmarks.methods [--size 64] [--images 128] [--batch 16] [--rounds 5]

Every round trains one epoch by each method in turn, so that what else the machine does falls on all of them. An epoch
trains both networks, whatever the method: CASS the two together, the others each for itself. Beside the whole epoch the
training alone is timed, with images that were augmented before.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import torch
from torch import nn

from cass_tune.config import ARMS, Trial, with_fields
from cass_tune.data.loader import Batch, Batches
from cass_tune.methods import method_class
from cass_tune.presets import as_method
from cass_tune.training.determinism import prepare_torch
from cass_tune.training.models import build_arm
from cass_tune.training.pretrain import Pretraining
from tests import tiny

METHODS = ("cass", "dino", "supervised")


class _Kept:
    """Batches of one epoch that were loaded before.

    Args:
        batches: the loader.
        positions: images of the epoch.
        batch_size: images per batch.
    """

    def __init__(self, batches: Batches, positions: Sequence[int], batch_size: int) -> None:
        self.classes = batches.classes
        self._batches = list(batches.training(positions, batch_size, 1, drop_last=True))

    def training(self, *_: object, start: int = 0, **__: object) -> Iterator[Batch]:
        return iter(self._batches[start:])


def described(options: argparse.Namespace, method: str) -> Trial:
    """Return the trial of a method, with its own schedule."""
    fields = {
        "pretrain.method": method,
        "pretrain.cnn": options.cnn,
        "pretrain.vit": options.vit,
        "pretrain.weights": "random",
        "pretrain.embedding_dim": 1000,
        "pretrain.batch_size": options.batch,
        "pretrain.epochs": 2 * options.rounds + 2,
        "data.image_size_px": options.size,
        "data.pretrain_fraction": 1.0,
        "dino.outputs": options.outputs,
    }
    return as_method(with_fields(tiny.BASE, fields), fields)


def training(trial: Trial, count: int, *, is_kept: bool) -> Iterator[Any]:
    """Yield after every epoch.

    Args:
        trial: what to train.
        count: images.
        is_kept: train on images that are augmented before the first epoch.
    """
    listing = tiny.listing({"train": {"cat": count // 2, "dog": count - count // 2}})
    size = trial.data.image_size_px
    pixels = tiny.resized(listing, size)
    batches: Any = Batches(pixels, seed=0, stream="pretrain", views=method_class(trial.pretrain.method).views(trial))
    positions = listing.of_split("train")
    if is_kept:
        batches = _Kept(batches, positions, trial.pretrain.batch_size)
    arms = nn.ModuleDict({arm: build_arm(trial, arm) for arm in ARMS})
    return Pretraining(trial, arms, batches, positions).run()


def measure(options: argparse.Namespace, *, is_kept: bool) -> dict[str, list[float]]:
    """Return the seconds of every epoch after the first, by method."""
    runs = {name: training(described(options, name), options.images, is_kept=is_kept) for name in METHODS}
    for run in runs.values():
        next(run)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(options.rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            next(run)
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cnn", default=tiny.CNN)
    parser.add_argument("--vit", default=tiny.VIT)
    parser.add_argument("--outputs", type=int, default=65536, help="of DINO's heads (the paper's: 65536)")
    for name, default in (("size", 64), ("images", 128), ("batch", 16), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    prepare_torch(torch.device("cpu"), 1)
    print(f"{options.cnn} + {options.vit}, {options.size} px, batch {options.batch}, {options.images} images per epoch")
    for is_kept, what in ((False, "whole epoch"), (True, "training alone")):
        seconds = measure(options, is_kept=is_kept)
        for name in METHODS:
            ratio = median(own / cass for own, cass in zip(seconds[name], seconds["cass"], strict=True))
            print(f"  {what}: {name} {median(seconds[name]):.2f} s per epoch, {ratio:.2f} times CASS")


if __name__ == "__main__":
    main()
