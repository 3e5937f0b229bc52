"""How long an epoch takes, learned from the rows of earlier ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from cass_tune.config import ARMS, EVALUATION_BATCH

Record = Mapping[str, Any]
Kind = tuple[Any, ...]
"""What the time that an image takes depends on: phase, image size, networks, batch size, precision, whether they are
compiled, and for pretraining the method with what it does to an image."""

PHASES = ("pretrain", *(f"finetune_{arm}" for arm in ARMS))


class _Total:
    """Seconds, and the images passed in them."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0.0

    def add(self, seconds: float, images: float) -> None:
        self.seconds += seconds
        self.images += images

    def of(self, images: float) -> float | None:
        """Return the seconds for so many images, or None before any were passed."""
        return images * self.seconds / self.images if self.images else None


class Pace:
    """Seconds per epoch: the mean of epochs alike; otherwise by images, of epochs of the same kind, or of any."""

    def __init__(self) -> None:
        self._alike: defaultdict[object, list[float]] = defaultdict(list)
        self._kinds: defaultdict[Kind, _Total] = defaultdict(_Total)
        self._all = _Total()

    def learn(self, config: Record, counts: Record, rows: Iterable[Record]) -> None:
        """Take in finished epochs.

        Args:
            config: the trial as JSON (`cass_tune.config.to_json`).
            counts: images in the data by part and class.
            rows: of its epochs.
        """
        for row in rows:
            phase, seconds = row["phase"], row["seconds"]
            images = images_passed(config, counts, phase)
            self._alike[_alike(config, phase, images)].append(seconds)
            self._kinds[kind(config, phase)].add(seconds, images)
            self._all.add(seconds, images)

    @property
    def has_learned(self) -> bool:
        """Whether any epochs were learned."""
        return self._all.images > 0

    def measured(self, of: Kind, seconds: float, images: float) -> None:
        """Take in a measurement without epochs.

        Args:
            of: what was measured.
            seconds: how long it took.
            images: passed forward and backward through one network in that time.
        """
        self._kinds[of].add(seconds, images)

    def knows(self, config: Record, phase: str) -> bool:
        """Return whether an epoch of this kind was learned or measured."""
        return kind(config, phase) in self._kinds

    def of_kind(self, config: Record, counts: Record, phase: str) -> float | None:
        """Return the expected seconds of an epoch by those of its kind alone, or None; arguments as in `learn`."""
        images = images_passed(config, counts, phase)
        alike = self._alike.get(_alike(config, phase, images))
        if alike:
            return fmean(alike)
        total = self._kinds.get(kind(config, phase))
        return total.of(images) if total else None

    def seconds(self, config: Record, counts: Record, phase: str) -> float | None:
        """Return the expected seconds of an epoch by any, or None before any was learned; arguments as in `learn`."""
        found = self.of_kind(config, counts, phase)
        return self._all.of(images_passed(config, counts, phase)) if found is None else found


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


def kind(config: Record, phase: str) -> Kind:
    """Return the kind of a trial's epochs in a phase."""
    pretrain, loading = config["pretrain"], (config["data"]["image_size_px"], _pipeline(config))
    if phase == "pretrain":
        networks = (pretrain[arm] for arm in ARMS)
        return (phase, *loading, *networks, *_of_step(pretrain), pretrain["method"], *_of_method(config))
    arm = phase.removeprefix("finetune_")
    return (phase, *loading, pretrain[arm], *_of_step(config["finetune"]))


def _pipeline(config: Record) -> str:
    return config["data"].get("pipeline", "torchvision-1")  # the same


def _of_step(section: Record) -> tuple[Any, ...]:
    """Return what a step's time depends on; records may be of before a field was one."""
    compiled = ("compiled",) if section.get("compile") else ()
    evaluation = section.get("evaluation_batch_size", EVALUATION_BATCH)
    evaluated = () if evaluation == EVALUATION_BATCH else ("evaluation", evaluation)
    return (section["batch_size"], section.get("precision", "fp32"), *compiled, *evaluated)


def _of_method(config: Record) -> tuple[Any, ...]:
    """Return what else the time of a pretraining depends on: how many crops of which size, and the heads' width."""
    if config["pretrain"]["method"] != "dino":
        return ()
    return tuple(config["dino"][name] for name in ("local_crops", "local_crop_px", "outputs"))


def _alike(config: Record, phase: str, images: float) -> tuple[Any, ...]:
    """Return what the time of a whole epoch depends on."""
    return (*kind(config, phase), config["data"]["name"], images)
