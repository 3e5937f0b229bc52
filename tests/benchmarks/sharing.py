"""What sharing saves: the paper's grid in miniature, with sharing and without, in one run.

    python -m tests.benchmarks.sharing --recipe as_described

27 cells: 1, 10, 100 % of the labels, batch 8, 16, 32, and 2, 4, 8 epochs of pretraining in place of 50, 100, 200, with
2 of finetuning in place of 50. Without sharing each trial has a results root of its own. Trials run one after the other
in this process. Prints the training samples (images passed forward and backward through a network), the times from the
first training step to the last result, both as ratios beside the plan's bound, and whether all results are identical.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from cass_tune.config import ARMS, Trial, with_field
from cass_tune.data import phantom
from cass_tune.data.listing import Listing
from cass_tune.data.loader import Batch, Batches
from cass_tune.data.pixels import load_pixels
from cass_tune.data.splits import split
from cass_tune.identity import Inputs
from cass_tune.plan import Wanted, grid, resolve
from cass_tune.presets import RECIPES
from cass_tune.results import Results
from cass_tune.sharing import in_order, nothing_stored, own_epochs, register
from cass_tune.trial import RunOptions, read_inputs, run_trial
from tests import tiny

AXES = {"data.label_fraction": (0.01, 0.1, 1.0), "pretrain.batch_size": (8, 16, 32), "pretrain.epochs": (2, 4, 8)}
FIELDS = {
    "data.label_fraction": 1.0,
    "data.pretrain_fraction": 1.0,
    "finetune.epochs": 2,
    "finetune.batch_size": 16,
}
IMAGES_PER_CLASS = {"train": 720, "test": 25}
LEAST_PASS_S = 3.0
LEAST_SHARE = 0.85
"""Of the bound's ratio, that the ratio of the times must reach."""


@dataclass
class Measured:
    """One way of running the grid.

    Args:
        samples: images passed forward and backward through a network.
        seconds: from the first training step to the last result.
        numbers: of every trial, by its name.
    """

    samples: int = 0
    seconds: float = 0.0
    numbers: dict[str, Any] = field(default_factory=dict)


def trials(recipe: str) -> list[Trial]:
    """Return the 27 cells; early stopping is off, so that what is trained can be counted beforehand."""
    base = tiny.trial(FIELDS)
    for path, value in {**RECIPES[recipe], "finetune.patience": 0}.items():
        base = with_field(base, path, value)
    return list(grid(base, AXES))


def wanted(recipe: str, listing: Listing) -> list[Wanted]:
    """Return the cells in the order in which they start."""
    cells = trials(recipe)
    inputs: dict[Trial, Inputs | None] = {trial: read_inputs(trial, listing) for trial in cells}
    return in_order(resolve(cells, inputs))


def bound(items: Sequence[Wanted], listing: Listing, own: dict[str, int]) -> int:
    """Return the training samples of trials that compute so many epochs of pretraining themselves."""
    total = 0
    for item in items:
        parts, pretrain = split(listing, item.trial.data, item.trial.seed), item.trial.pretrain
        of_epoch = len(parts.pretrain) // pretrain.batch_size * pretrain.batch_size
        total += len(ARMS) * (own[str(item.digest)] * of_epoch + item.trial.finetune.epochs * len(parts.labelled))
    return total


@contextmanager
def counted(measured: Measured, begun: Callable[[], None]) -> Iterator[None]:
    """Count every training batch that a trial takes."""
    training = Batches.training

    def count(batches: Batches, *args: Any, **named: Any) -> Iterator[Batch]:
        arms = len(ARMS) if batches._stream == "pretrain" else 1
        for batch in training(batches, *args, **named):
            begun()
            measured.samples += arms * len(batch.images)
            yield batch

    with mock.patch.object(Batches, "training", count):
        yield


def measure(items: Sequence[Wanted], root_of: Callable[[Wanted], Path]) -> Measured:
    """Run trials one after the other."""
    measured, started = Measured(), [0.0]
    begun = lambda: started.__setitem__(0, started[0] or time.perf_counter())  # noqa: E731
    with counted(measured, begun):
        for item in items:
            for _ in run_trial(item.trial, Results(root_of(item)), RunOptions(), item.inputs):
                pass
    measured.seconds = time.perf_counter() - started[0]
    for item in items:
        folder = Results(root_of(item)).trial(str(item.digest))
        names = ("predictions.parquet", *(f"{arm}.safetensors" for arm in ARMS))
        hashes = [hashlib.sha256((folder.path / name).read_bytes()).hexdigest() for name in names]
        measured.numbers[item.name] = [hashes, (folder.result() or {})["arms"]]
    return measured


def pass_seconds(results: Results, items: Sequence[Wanted]) -> float:
    """Return the mean time of an epoch of pretraining."""
    stages = {segment.stage for item in items for segment in item.segments}
    seconds = [row["seconds"] for stage in stages for row in results.stage(stage).rows()]
    return sum(seconds) / len(seconds)


def compare(recipe: str, folder: Path) -> bool:
    """Run the grid both ways, print what was measured, and return whether all goals were reached."""
    listing = phantom.phantom_listing()
    items = wanted(recipe, listing)
    load_pixels(listing, tiny.SIZE_PX)
    together, alone = folder / "together", folder / "alone"
    register(items, Results(together))
    shared = measure(items, lambda item: together)
    separate = measure(items, lambda item: alone / str(item.digest))
    expected = [bound(items, listing, own_epochs(items, nothing_stored))]
    expected.append(bound(items, listing, {str(item.digest): item.trial.pretrain.epochs for item in items}))
    ratio, goal = separate.seconds / shared.seconds, expected[1] / expected[0]
    each = pass_seconds(Results(together), items)
    same = sum(shared.numbers[name] == separate.numbers[name] for name in shared.numbers)
    print(f"{recipe}: 27 cells, {len(listing.items)} images, one pass of both arms takes {each:.1f} s")
    print(f"  samples: {shared.samples:,} shared, {separate.samples:,} separate; plan {expected[0]:,}, {expected[1]:,}")
    print(f"  ratio of samples: {separate.samples / shared.samples:.3f}; the plan's bound {goal:.3f}")
    print(
        f"  time: {shared.seconds:.0f} s shared, {separate.seconds:.0f} s separate: {ratio:.2f} times as fast, ", end=""
    )
    print(f"{ratio / goal:.0%} of the bound; identical results: {same} of {len(items)}")
    counts = [shared.samples, separate.samples] == expected
    return counts and ratio >= LEAST_SHARE * goal and same == len(items) and each >= LEAST_PASS_S


def main() -> int:
    """Return 0 when every goal was reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--images-per-class", type=int, default=IMAGES_PER_CLASS["train"], help="for training")
    given = parser.parse_args()
    counts = {**IMAGES_PER_CLASS, "train": given.images_per_class}
    reached = []
    with mock.patch.object(phantom, "IMAGES_PER_CLASS", counts):
        for recipe in given.recipe:
            with tempfile.TemporaryDirectory() as folder:
                reached.append(compare(recipe, Path(folder)))
    return 0 if all(reached) else 1


if __name__ == "__main__":
    raise SystemExit(main())
