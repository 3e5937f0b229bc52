"""Presets: networks, image size, epochs and seeds; never the data. They only choose values, they are not fields."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cass_tune.config import SECTIONS, Trial, with_fields


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named choice of values.

    Args:
        fields: value by ``"section.field"``; what is not named keeps the field's default, which is the paper's.
        seeds: replicas when none are given.
        epochs_divisor: a study's own numbers of pretraining epochs are divided by it.
    """

    fields: Mapping[str, Any]
    seeds: tuple[int, ...]
    epochs_divisor: int = 1

    def scale(self, path: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a study's own axis values as this preset runs them."""
        if path != "pretrain.epochs":
            return values
        return tuple(max(1, value // self.epochs_divisor) for value in values)


PRESETS = {
    "demo": Preset(
        fields={
            "data.image_size_px": 32,
            "pretrain.cnn": "test_resnet.r160_in1k",
            "pretrain.vit": "test_vit.r160_in1k",
            "pretrain.weights": "random",
            "pretrain.epochs": 10,
            "finetune.epochs": 25,
            "dino.outputs": 1024,
        },
        seeds=(0, 1, 2),
        epochs_divisor=10,
    ),
    "paper": Preset(fields={}, seeds=(0,)),
}

RECIPES: dict[str, Mapping[str, Any]] = {
    "as_described": {},
    "corrected": {
        "data.normalisation": "model",
        "pretrain.schedule": "wsd",
        "pretrain.warmup_epochs": 1,
        "pretrain.learning_rate": 1e-3,
        "pretrain.vit_learning_rate": 1e-4,
        "pretrain.optimiser": "adamw",
        "pretrain.weight_decay": 0.05,
        "pretrain.clip_norm": 1.0,
        "finetune.schedule": "cosine_to_end",
        "finetune.warmup_epochs": 1,
        "finetune.learning_rate": 3e-4,
        "finetune.vit_learning_rate": 1e-4,
        "finetune.optimiser": "adamw",
        "finetune.weight_decay": 0.05,
        "finetune.clip_norm": 1.0,
        "finetune.select_by": "macro_f1",
        "finetune.patience": 10,
    },
}
"""How a trial is trained; the numbers are those of the list of defects, `cass_protocol`.

`as_described`: the published method with the code's mistakes mended (the fields' defaults). `corrected`: its weak
choices are changed too: a learning rate whose period is 32 batches, whatever the length of the run (D12); plain Adam at
one rate for both networks, without warm-up, weight decay and clipping (D13); ImageNet's mean and std for a transformer
that was trained with others (D23); the best epoch by the micro-F1 at one half (D6); no early stopping (D17).
"""


def of_method(trial: Trial) -> dict[str, Any]:
    """Return the values that a pretraining method brings of its own, whatever the recipe, by ``"section.field"``.

    DINO (arXiv 2104.14294, section 3.2, implementation details): AdamW, a learning rate of 0.0005 batch / 256 after ten
    epochs of warm-up, a cosine to 1e-6, weight decay from 0.04 to 0.4; gradients clipped at 3 (the authors' code). A
    pretraining of less than 50 epochs warms up in a fifth of them.
    """
    if trial.pretrain.method != "dino":
        return {}
    pretrain = trial.pretrain
    return {
        "pretrain.schedule": "cosine_to_end",
        "pretrain.warmup_epochs": min(10, pretrain.epochs // 5),
        "pretrain.learning_rate": 0.0005 * pretrain.batch_size / 256,
        "pretrain.vit_learning_rate": None,
        "pretrain.min_learning_rate": 1e-6,
        "pretrain.optimiser": "adamw",
        "pretrain.weight_decay": 0.04,
        "pretrain.weight_decay_end": 0.4,
        "pretrain.clip_norm": 3.0,
    }


def as_method(trial: Trial, given: Collection[str]) -> Trial:
    """Return the trial with its method's own values.

    Args:
        trial: with a recipe's values.
        given: fields that the user has set, which stay.

    Raises:
        UsageError: what was given does not go with them.
    """
    return with_fields(trial, {path: value for path, value in of_method(trial).items() if path not in given})


def recipe_fields(recipe: str) -> dict[str, Any]:
    """Return the value of every field that any recipe chooses, so that either can follow the other in a search."""
    chosen = dict.fromkeys(path for fields in RECIPES.values() for path in fields)
    defaults = {path: getattr(SECTIONS[path.partition(".")[0]](), path.partition(".")[2]) for path in chosen}
    return {**defaults, **RECIPES[recipe]}


def values_of(preset: str, recipe: str) -> dict[str, dict[str, Any]]:
    """Return by section the values that a preset and a recipe choose."""
    chosen: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for path, value in {**RECIPES[recipe], **PRESETS[preset].fields}.items():
        section, _, name = path.partition(".")
        chosen[section][name] = value
    return chosen
