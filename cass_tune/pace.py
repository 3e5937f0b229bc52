"""How long an epoch takes, learned from the rows of earlier ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from cass_tune.config import ARMS

Record = Mapping[str, Any]

_DATA = ("name", "image_size_px")
_PRETRAIN = ("cnn", "vit", "batch_size")


class Pace:
    """Mean seconds per epoch: of trials alike; otherwise by images, of any trial and phase."""

    def __init__(self) -> None:
        self._alike: defaultdict[object, list[float]] = defaultdict(list)
        self._seconds = 0.0
        self._images = 0.0

    def learn(self, config: Record, counts: Record, rows: Iterable[Record]) -> None:
        """Take in finished epochs.

        Args:
            config: the trial as JSON (`cass_tune.config.to_json`).
            counts: images in the data by part and class.
            rows: of its epochs.
        """
        for row in rows:
            self._alike[_kind(config, row["phase"])].append(row["seconds"])
            self._seconds += row["seconds"]
            self._images += images_passed(config, counts, row["phase"])

    def seconds(self, config: Record, counts: Record, phase: str) -> float | None:
        """Return the expected seconds of an epoch, or None before any was learned; arguments as in `learn`."""
        alike = self._alike.get(_kind(config, phase))
        if alike:
            return fmean(alike)
        return images_passed(config, counts, phase) * self._seconds / self._images if self._images else None


def images_passed(config: Record, counts: Record, phase: str) -> float:
    """Return how many images an epoch passes forward and backward through one network, about; a forward pass is 1/3."""
    data = config["data"]
    train, validation = (sum(counts.get(part, {}).values()) for part in ("train", "val"))
    if not validation:
        validation = data["validation_fraction"] * train
        train -= validation
    if phase == "pretrain":
        return len(ARMS) * data["pretrain_fraction"] * train
    return data["label_fraction"] * train + validation / 3


def _kind(config: Record, phase: str) -> tuple[Any, ...]:
    """Return what the time of an epoch depends on."""
    data = [config["data"][name] for name in _DATA]
    if phase == "pretrain":
        settings = [config["pretrain"][name] for name in _PRETRAIN]
        return (phase, *data, config["data"]["pretrain_fraction"], *settings)
    arm = phase.removeprefix("finetune_")
    return (phase, *data, config["data"]["label_fraction"], config["pretrain"][arm], config["finetune"]["batch_size"])
