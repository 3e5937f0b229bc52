"""The paper's grid over a listing as large as the paper's data, for tests that run nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cass_tune.config import Trial, with_field
from cass_tune.data.listing import Item, Listing, Split
from cass_tune.identity import Inputs
from cass_tune.plan import Wanted, grid, replicate, resolve, with_controls
from cass_tune.sharing import in_order

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
COUNTS: Mapping[Split, int] = {"train": 1428, "test": 328}
"""Images per class, about as in Brain MRI: 5712 and 1312."""
AXES: Mapping[str, Sequence[Any]] = {
    "data.label_fraction": (0.01, 0.1, 1.0),
    "pretrain.batch_size": (8, 16, 32),
    "pretrain.epochs": (50, 100, 200),
}
INPUTS = Inputs(data="0" * 64, cnn="random", vit="random")


def listing(counts: Mapping[Split, int] = COUNTS) -> Listing:
    """Return a listing that has no images."""
    paths: list[tuple[Split, str, int]] = [
        (part, label, n) for part, count in counts.items() for label in CLASSES for n in range(count)
    ]
    items = (
        Item(path=f"{part}/{label}/{n:04d}", sha256="", label=label, split=part, group=f"{part}/{label}/{n}")
        for part, label, n in paths
    )
    ordered = tuple(sorted(items, key=lambda item: item.path))
    return Listing(name="brain_mri", items=ordered, open_image=_open, fingerprint=INPUTS.data)


def _open(item: Item) -> Any:
    raise AssertionError("there are no images")


def paper_grid(
    axes: Mapping[str, Sequence[Any]] = AXES, *, controls: bool = True, seeds: Sequence[int] = (0,), **fields: Any
) -> list[Wanted]:
    """Return the grid's trials in the order in which they start.

    Args:
        axes: values by field.
        controls: whether it has its controls.
        seeds: of every cell.
        fields: of `pretrain`, of all trials.
    """
    base = Trial()
    for name, value in fields.items():
        base = with_field(base, f"pretrain.{name}", value)
    cells = list(grid(base, axes))
    trials = replicate(with_controls(cells) if controls else cells, seeds)
    return in_order(resolve(trials, dict.fromkeys(trials, INPUTS)))
