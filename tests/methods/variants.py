"""Every method and variant with a tiny trial, and what tests of all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cass_tune.config import Trial
from cass_tune.data.listing import Listing
from cass_tune.data.loader import Batches
from cass_tune.methods import method_class
from cass_tune.training.pretrain import Pretraining
from tests import tiny

DINO = {
    "pretrain.method": "dino",
    "dino.outputs": 32,
    "dino.local_crops": 1,
    "dino.local_crop_px": 16,
    "dino.momentum": 0.9,
    "dino.momentum_end": 0.9,
    "dino.teacher_temperature": 0.07,
    "dino.teacher_warmup_epochs": 2,
}
PAPERS_SCHEDULES = {
    "dino.momentum_end": 1.0,
    "pretrain.optimiser": "adamw",
    "pretrain.weight_decay": 0.04,
    "pretrain.weight_decay_end": 0.4,
    "pretrain.schedule": "cosine_to_end",
    "pretrain.clip_norm": 3.0,
}
"""DINO's: momentum and weight decay change until the end, so that lengths share nothing."""
VARIANTS: dict[str, dict[str, Any]] = {
    "cass": {},
    "variance": {"pretrain.variance_weight": 1.0},
    "predictor": {"pretrain.predictor": True},
    "supervised": {"pretrain.method": "supervised"},
    "dino": DINO,
    "dino_to_end": {**DINO, **PAPERS_SCHEDULES},
}
LISTING = tiny.listing({"train": {"cat": 13, "dog": 9}})


def trial(name: str, fields: Mapping[str, Any] | None = None) -> Trial:
    return tiny.trial({**VARIANTS[name], **(fields or {})})


def pretraining(
    name: str, fields: Mapping[str, Any] | None = None, *, images: Listing = LISTING, count: int = 16, workers: int = 0
) -> Pretraining:
    """Return a pretraining of two epochs of two steps, unless told otherwise."""
    described = trial(name, fields)
    views = method_class(described.pretrain.method).views(described)
    batches = Batches(tiny.pixels(images), seed=0, stream="pretrain", workers=workers, views=views)
    return Pretraining(described, tiny.arms(described), batches, images.of_split("train")[:count])
