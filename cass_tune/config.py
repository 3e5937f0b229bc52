"""What a trial is: frozen dataclasses, and the rules that their values obey.

A field marked ``identity=False`` cannot change a number by itself (a folder's place, for example) and is left out of
the identity. A field that is added later declares ``neutral``: the value that stands for the behaviour before it
existed; it is left out of the identity while it has that value (`cass_tune.identity`).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from cass_tune.errors import UsageError

ARMS = ("cnn", "vit")
"""The two networks of a trial, in the order in which they are finetuned."""

_PLACE: dict[str, Any] = {"identity": False}


class Section:
    """Common part of the sections of a trial: types are coerced and checked, and all broken rules raised at once."""

    def __post_init__(self) -> None:
        self._coerce()
        problems = [text for text in self.rules() if text]
        if problems:
            raise UsageError(*problems)

    def _coerce(self) -> None:
        """Bring whole numbers given for real-valued fields to float, so that 1 and 1.0 are one identity."""
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if kind is float and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, name, float(value))

    def rules(self) -> list[str]:
        """Return one text per rule, empty where it holds."""
        return []

    def _at_least(self, name: str, least: int) -> str:
        value = getattr(self, name)
        label = flag(type(self), name)
        if isinstance(value, bool) or not isinstance(value, int):
            return f"{label} must be a whole number, but got {value!r}."
        return "" if value >= least else f"{label} must be at least {least}, but got {value}."

    def _positive(self, name: str) -> str:
        value = getattr(self, name)
        fine = isinstance(value, float) and math.isfinite(value) and value > 0
        return "" if fine else f"{flag(type(self), name)} must be a finite number above 0, but got {value}."

    def _fraction(self, name: str, below_one: bool = False) -> str:
        value = getattr(self, name)
        fine = isinstance(value, float) and value > 0 and (value < 1 if below_one else value <= 1)
        allowed = "above 0 and below 1" if below_one else "above 0 and at most 1 (0.1 is 10 %)"
        return "" if fine else f"{flag(type(self), name)} must be {allowed}, but got {value}."

    def _one_of(self, name: str, allowed: tuple[str, ...]) -> str:
        value = getattr(self, name)
        return "" if value in allowed else f"{flag(type(self), name)} must be one of {allowed}, but got {value!r}."


def flag(section: type, name: str) -> str:
    """Return the command-line name of a field, for example ``--pretrain.batch-size``."""
    return f"--{section.__name__.lower()}.{name.replace('_', '-')}"


@dataclass(frozen=True, kw_only=True)
class Data(Section):
    """Which images, how large, and which part of them is used."""

    name: str = "phantom"
    """A catalogued set (phantom, brain_mri), or `folder` or `csv` for your own."""
    root: str | None = field(default=None, metadata=_PLACE)
    """Folder of the images (not needed for phantom)."""
    table: str = field(default="labels.csv", metadata=_PLACE)
    """For `csv`: the table's file, relative to the root; columns path, label and optionally split and group."""
    path_column: str = field(default="path", metadata=_PLACE)
    """For `csv`: the column of image paths, relative to the root."""
    label_column: str = field(default="label", metadata=_PLACE)
    """For `csv`: the column of class names."""
    split_column: str = field(default="split", metadata=_PLACE)
    """For `csv`: the column that says train, val or test; without it a test part is drawn."""
    group_column: str = field(default="group", metadata=_PLACE)
    """For `csv`: the column of patients (or lesions) that must stay in one part, used when it is there."""
    on_bad_image: Literal["error", "skip"] = field(default="error", metadata=_PLACE)
    """What to do with an image that cannot be decoded; skipped ones are listed in every result."""
    image_size_px: int = 384
    """Height and width to which every image is resized, in pixels."""
    label_fraction: float = 1.0
    """Share of the training labels that finetuning may use, per class, above 0 and at most 1."""
    pretrain_fraction: float = 1.0
    """Share of the training images (without validation) that pretraining uses, above 0 and at most 1."""
    validation_fraction: float = 0.2
    """Share of the training part held out for validation where the set brings no validation part of its own."""
    test_fraction: float = 0.2
    """Share of all images held out for testing where the set brings no test part of its own."""
    split_seed: int = 0
    """Seed of the validation (and test) split, the same for every trial of a study."""

    def rules(self) -> list[str]:
        """Return one text per rule, empty where it holds."""
        return [
            "" if self.name else "--data.name must not be empty.",
            self._one_of("on_bad_image", ("error", "skip")),
            self._at_least("image_size_px", 8),
            self._fraction("label_fraction"),
            self._fraction("pretrain_fraction"),
            self._fraction("validation_fraction", below_one=True),
            self._fraction("test_fraction", below_one=True),
            self._at_least("split_seed", 0),
        ]


@dataclass(frozen=True, kw_only=True)
class Pretrain(Section):
    """Self-supervised pretraining of the two arms (CASS, arXiv 2206.04170), or none."""

    method: Literal["cass", "none"] = "cass"
    """`cass`, or `none`: the control, which finetunes the starting weights."""
    cnn: str = "resnet50.a1_in1k"
    """timm name of the convolutional arm, with its full tag."""
    vit: str = "vit_base_patch16_384.augreg_in21k_ft_in1k"
    """timm name of the transformer arm, with its full tag."""
    weights: str = field(default="timm", metadata=_PLACE)
    """Starting weights of both arms: `timm` (pretrained), `random`, or a path: a folder with cnn.safetensors and
    vit.safetensors, or one file whose tensors are named cnn.* and vit.*."""
    cnn_weights: str | None = field(default=None, metadata=_PLACE)
    """Starting weights of the CNN alone (`timm`, `random` or a file), instead of `weights`."""
    vit_weights: str | None = field(default=None, metadata=_PLACE)
    """Starting weights of the ViT alone (`timm`, `random` or a file), instead of `weights`."""
    embedding_dim: int = 1000
    """Width of each arm's output; a head of this width is kept, any other is replaced by a new linear layer."""
    epochs: int = 100
    """Passes over the pretraining images."""
    batch_size: int = 16
    """Images per pretraining step; the last partial batch of an epoch is dropped."""
    learning_rate: float = 1e-3
    """Highest learning rate of Adam, the same for both arms."""
    min_learning_rate: float = 1e-6
    """Lowest learning rate of the cosine schedule."""
    schedule_t_max_steps: int = 16
    """Steps from the highest to the lowest learning rate of the cosine schedule, which is stepped every batch."""

    def rules(self) -> list[str]:
        """Return one text per rule, empty where it holds."""
        return [
            self._one_of("method", ("cass", "none")),
            *("" if getattr(self, arm) else f"--pretrain.{arm} must name a timm model." for arm in ARMS),
            self._at_least("embedding_dim", 2),
            self._at_least("epochs", 1),
            self._at_least("batch_size", 2),
            self._positive("learning_rate"),
            self._positive("min_learning_rate"),
            self._at_least("schedule_t_max_steps", 1),
        ]

    def weights_of(self, arm: str) -> str:
        """Return the starting weights asked for one arm: ``timm``, ``random`` or a path."""
        return getattr(self, f"{arm}_weights") or self.weights


@dataclass(frozen=True, kw_only=True)
class Finetune(Section):
    """Supervised finetuning of each arm with the labelled images."""

    epochs: int = 50
    """Passes over the labelled images."""
    batch_size: int = 16
    """Images per step."""
    learning_rate: float = 3e-4
    """Highest learning rate of Adam."""
    min_learning_rate: float = 1e-6
    """Lowest learning rate of the cosine schedule."""
    schedule_t_max_steps: int = 16
    """Steps from the highest to the lowest learning rate of the cosine schedule, which is stepped every batch."""
    focal_gamma: float = 2.0
    """Exponent of the focal loss, at least 0."""
    class_weights: Literal["balanced", "none"] = "balanced"
    """`balanced`: images / (classes x images of the class); `none`: 1 for every class."""
    select_by: Literal["micro_f1_at_half", "macro_f1"] = "micro_f1_at_half"
    """Validation metric that picks the best epoch, whose weights are tested."""

    def rules(self) -> list[str]:
        """Return one text per rule, empty where it holds."""
        gamma = self.focal_gamma
        gamma_fits = math.isfinite(gamma) and gamma >= 0
        return [
            self._at_least("epochs", 1),
            self._at_least("batch_size", 2),
            self._positive("learning_rate"),
            self._positive("min_learning_rate"),
            self._at_least("schedule_t_max_steps", 1),
            "" if gamma_fits else f"--finetune.focal-gamma must be at least 0, but got {gamma}.",
            self._one_of("class_weights", ("balanced", "none")),
            self._one_of("select_by", ("micro_f1_at_half", "macro_f1")),
        ]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One complete experiment: data, pretraining, finetuning of both arms, and one seed."""

    data: Data = Data()
    pretrain: Pretrain = Pretrain()
    finetune: Finetune = Finetune()
    seed: int = 0
    """Replica: drives the labelled subset, the new layers, the order, the augmentation and dropout."""

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise UsageError(f"--seeds must be whole numbers of at least 0, but got {self.seed!r}.")


SECTIONS: dict[str, type[Section]] = {"data": Data, "pretrain": Pretrain, "finetune": Finetune}
"""The sections of a trial by name, in the order in which the command line lists them."""


def get_field(trial: Trial, path: str) -> Any:
    """Return the value at ``"section.field"`` (or ``"seed"``)."""
    section, _, name = path.rpartition(".")
    return getattr(getattr(trial, section) if section else trial, name)


def with_field(trial: Trial, path: str, value: Any) -> Trial:
    """Return a copy of the trial with another value at ``"section.field"`` (or ``"seed"``)."""
    section, _, name = path.rpartition(".")
    if not section:
        return dataclasses.replace(trial, **{name: value})
    changed = dataclasses.replace(getattr(trial, section), **{name: value})
    return dataclasses.replace(trial, **{section: changed})


def control(trial: Trial) -> Trial:
    """Return the control of a trial: the same finetuning from the starting weights, without pretraining."""
    return with_field(trial, "pretrain.method", "none")


def to_json(trial: Trial) -> dict[str, Any]:
    """Return the trial as plain JSON types, every field included."""
    return dataclasses.asdict(trial)


def from_json(text: str | bytes) -> Trial:
    """Read back the JSON of a trial, strictly: no unknown key, no other type, no broken rule.

    Raises:
        UsageError: every problem with its place.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Trial).validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        places = (".".join(str(part) for part in problem["loc"]) for problem in error.errors())
        messages = (problem["msg"] for problem in error.errors())
        raise UsageError(*(f"{place}: {message}." for place, message in zip(places, messages, strict=True))) from error
