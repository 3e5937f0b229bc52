"""What a trial is: frozen dataclasses, and the rules that their values obey.

A field marked ``identity=False`` cannot change a number by itself (a folder's place, for example) and is left out of
the identity. A field that is added later declares ``neutral``: the value that stands for the behaviour before it
existed; it is left out of the identity while it has that value (`cass_tune.identity`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, get_type_hints

from cass_tune.errors import UsageError, did_you_mean

ARMS = ("cnn", "vit")
"""The two networks of a trial, in the order in which they are finetuned."""

METHODS = ("cass", "dino", "supervised", "none")
"""Names of the pretraining methods (`cass_tune.methods`)."""

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
"""What a phase may compute in (`cass_tune.training.precision`)."""

EVALUATION_BATCH = 64
"""Images per batch of an evaluation, unless told otherwise."""

PROBES = ("linear", "knn")
"""The probes of an arm's frozen features (`cass_tune.training.feature_probes`)."""

_PLACE: dict[str, Any] = {"identity": False}


def _later(neutral: Any) -> Any:
    """Return a field that was added later, whose default is the behaviour before it."""
    return field(default=neutral, metadata={"neutral": neutral})


@functools.cache
def _types(section: type[Section]) -> dict[str, Any]:
    return get_type_hints(section)


class Section:
    """Common part of the sections of a trial: types are coerced and checked, and all broken rules raised at once."""

    def __post_init__(self) -> None:
        self._coerce()
        problems = [text for text in self.rules() if text]
        if problems:
            raise UsageError(*problems)

    def _coerce(self) -> None:
        """Bring whole numbers given for real-valued fields to float, so that 1 and 1.0 are one identity."""
        for name, kind in _types(type(self)).items():
            value = getattr(self, name)
            if kind in (float, float | None) and isinstance(value, int) and not isinstance(value, bool):
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

    def _not_negative(self, name: str) -> str:
        value = getattr(self, name)
        fine = isinstance(value, float) and math.isfinite(value) and value >= 0
        return "" if fine else f"{flag(type(self), name)} must be a finite number of at least 0, but got {value}."

    def _fraction(self, name: str, below_one: bool = False) -> str:
        value = getattr(self, name)
        fine = isinstance(value, float) and value > 0 and (value < 1 if below_one else value <= 1)
        allowed = "above 0 and below 1" if below_one else "above 0 and at most 1 (0.1 is 10 %)"
        return "" if fine else f"{flag(type(self), name)} must be {allowed}, but got {value}."

    def _bool(self, name: str) -> str:
        value = getattr(self, name)
        return "" if isinstance(value, bool) else f"{flag(type(self), name)} must be True or False, but got {value!r}."

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
    """A catalogued set (phantom, brain_mri, isic2019, dermofit, autoimmune, medmnist:NAME), `folder` or `csv` for your
    own, or a function of yours as module:name."""
    root: str | None = field(default=None, metadata=_PLACE)
    """Folder of the images (not needed for phantom)."""
    table: str = field(default="labels.csv", metadata=_PLACE)
    """For `csv`: the table's file, relative to the root; columns path, label and optionally split and group."""
    path_column: str = field(default="path", metadata=_PLACE)
    """For `csv`: the column of image paths, relative to the root."""
    label_column: str = field(default="label", metadata=_PLACE)
    """For `csv`: the column of class names."""
    label_columns: str = field(default="", metadata=_PLACE)
    """For `csv` with several labels for each image: their columns of 0 and 1, with commas between, in the place of
    `label_column`."""
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
    folds: int = _later(0)
    """Folds that the training part is cut into, of which `fold` is the validation part; 0: none (one split by
    `validation_fraction`, or the validation part that the set brings)."""
    fold: int = _later(1)
    """Which of the `folds` is the validation part, from 1."""
    leaks: Literal["keep", "drop"] = _later("keep")
    """Training images of a group (patient, identical files) that lies in another part, too: `keep` them, as the set has
    them, or `drop` them."""
    normalisation: Literal["imagenet", "model"] = _later("imagenet")
    """Mean and std of the images: `imagenet`: ImageNet's for both arms (published); `model`: for each arm those of its
    timm configuration."""
    augmentation_strength: float = _later(1.0)
    """Factor of the published augmentation's ranges, and of the probability of its flips up to a half; from 0 (none)
    to 4. DINO's pretraining has views of its own, which it leaves alone."""
    pipeline: Literal["torchvision-1", "opencv-1", "device-1"] = _later("torchvision-1")
    """What carries the published augmentation out: `torchvision-1`: torchvision on PIL images, as published;
    `opencv-1`: OpenCV, the same draws in a fraction of the time, nearly the same pixels; `device-1`: the trial's
    device, which leaves the processor reading alone: for a GPU."""

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
            self._at_least("folds", 0) or self._at_least("fold", 1) or self._folds_rule(),
            self._one_of("leaks", ("keep", "drop")),
            self._one_of("normalisation", ("imagenet", "model")),
            self._not_negative("augmentation_strength") or self._strength_rule(),
            self._one_of("pipeline", ("torchvision-1", "opencv-1", "device-1")),
        ]

    def _folds_rule(self) -> str:
        folds, fold = (flag(type(self), name) for name in ("folds", "fold"))
        if self.folds == 1:
            return f"{folds} must be 0 (none) or at least 2, but got 1."
        if self.fold > 1 and not self.folds:
            return f"{fold} {self.fold} needs {folds}, the number of folds, of which it is one."
        if self.fold > max(1, self.folds):
            return f"{fold} must be one of the {self.folds} of {folds}, counted from 1, but got {self.fold}."
        return ""

    def _strength_rule(self) -> str:
        label, most = flag(type(self), "augmentation_strength"), 4
        fine = self.augmentation_strength <= most
        return "" if fine else f"{label} must be at most {most}, but got {self.augmentation_strength}."


@dataclass(frozen=True, kw_only=True)
class Pretrain(Section):
    """Pretraining of the two arms: CASS (arXiv 2206.04170), another method, or none."""

    method: str = "cass"
    """`cass`; `dino`: each arm alone, by self-distillation (arXiv 2104.14294); `supervised`: each arm alone, with the
    labels of all its images; `none`: the control, finetuned from the starting weights; or your own, as module:Class."""
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
    """Highest learning rate, of both arms unless `vit_learning_rate` is given."""
    vit_learning_rate: float | None = _later(None)
    """Highest learning rate of the ViT, instead of `learning_rate`."""
    min_learning_rate: float = 1e-6
    """Lowest learning rate of the schedule."""
    schedule: Literal["cosine", "wsd", "cosine_to_end"] = _later("cosine")
    """`cosine`: the published one, up and down for ever; `wsd`: warm-up, constant, decay (arXiv 2405.18392), so that
    runs of different lengths share all but their decay; `cosine_to_end`: warm-up, then one cosine to the last step."""
    schedule_t_max_steps: int = 16
    """Steps from the highest to the lowest learning rate of `cosine`, which is stepped every batch."""
    warmup_epochs: int = _later(0)
    """Epochs in which the learning rate rises linearly to the highest, fewer than all; 0 with `cosine`."""
    decay_fraction: float = _later(0.2)
    """Share of the epochs in which the learning rate of `wsd` falls, above 0 and below 1; one epoch at least."""
    optimiser: Literal["adam", "adamw"] = _later("adam")
    """`adam` (published), or `adamw`: with decoupled weight decay."""
    weight_decay: float = _later(0.0)
    """Weight decay of `adamw`, at least 0, not applied to biases, norms and position embeddings; 0 with `adam`."""
    weight_decay_end: float | None = _later(None)
    """Weight decay of the last step, which a cosine from `weight_decay` leads to; without it, it stays the same."""
    clip_norm: float = _later(0.0)
    """Largest norm of an arm's gradient, to which a longer one is scaled; 0: any."""
    variance_weight: float = _later(0.0)
    """Weight of a variance term in CASS's loss, at least 0: it keeps the outputs apart (VICReg, arXiv 2105.04906)."""
    predictor: bool = _later(False)
    """CASS with a predictor behind each arm and a stopped gradient on the other side (SimSiam, arXiv 2011.10566)."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = _later("fp32")
    """What matrices are multiplied in: `fp32`; `tf32`: with TF32's 10 bits; `bf16`, `fp16`: by torch's autocast."""
    compile: bool = _later(False)
    """Whether the networks' blocks are compiled (torch.compile): a long first step, and shorter ones after it."""

    def rules(self) -> list[str]:
        """Return one text per rule, empty where it holds."""
        return [
            self._method_rule(),
            *("" if getattr(self, arm) else f"--pretrain.{arm} must name a timm model." for arm in ARMS),
            self._at_least("embedding_dim", 2),
            self._one_of("schedule", ("cosine", "wsd", "cosine_to_end")),
            *_training_rules(self),
            self._fraction("decay_fraction", below_one=True) or self._trunk_rule(),
            "" if self.weight_decay_end is None else self._not_negative("weight_decay_end") or self._end_rule(),
            self._not_negative("variance_weight"),
            self._bool("predictor"),
            *self._variant_rules(),
        ]

    def _method_rule(self) -> str:
        module, colon, name = str(self.method).partition(":")
        is_own = colon and all(part.isidentifier() for part in (*module.split("."), name))
        if self.method in METHODS or is_own:
            return ""
        hint = did_you_mean(str(self.method), METHODS)
        what = f"{flag(type(self), 'method')} must be one of {METHODS}, or your own as module:Class"
        return f"{what}, but got {self.method!r}.{hint}"

    def _variant_rules(self) -> list[str]:
        """Return what is asked for and not a part of this method; a control has none of it, and is not asked."""
        if self.method not in ("dino", "supervised"):
            return []
        asked = [name for name in ("variance_weight", "predictor") if getattr(self, name)]
        label = flag(type(self), "method")
        return [f"{flag(type(self), name)} is a part of {label} cass, not of {self.method}." for name in asked]

    def _end_rule(self) -> str:
        start, end = (flag(type(self), name) for name in ("weight_decay", "weight_decay_end"))
        text = f"{end} {self.weight_decay_end} needs {start} above 0, to lead from there."
        return "" if self.weight_decay > 0 else text

    def _trunk_rule(self) -> str:
        has_warmup = not self._at_least("epochs", 1) and 0 < self.warmup_epochs < self.epochs
        if self.schedule != "wsd" or not has_warmup or self.trunk_epochs:
            return ""
        got = f"{self.decay_fraction} of {flag(type(self), 'epochs')} {self.epochs}"
        return f"{flag(type(self), 'decay_fraction')} must leave an epoch for the warm-up, but got {got}."

    @property
    def decay_epochs(self) -> int:
        """Epochs in which the learning rate of `wsd` falls, at least 1."""
        return max(1, round(self.decay_fraction * self.epochs))

    @property
    def trunk_epochs(self) -> int:
        """Epochs of `wsd` before the decay, at least 0; runs of any length are the same up to there."""
        return self.epochs - self.decay_epochs

    def weights_of(self, arm: str) -> str:
        """Return the starting weights asked for one arm: ``timm``, ``random`` or a path."""
        return getattr(self, f"{arm}_weights") or self.weights


@dataclass(frozen=True, kw_only=True)
class Dino(Section):
    """What `--pretrain.method dino` needs beyond `--pretrain` (arXiv 2104.14294; defaults of the authors' code)."""

    outputs: int = 65536
    """Outputs of each projection head."""
    local_crops: int = 8
    """Small crops of each image beside the two large ones."""
    local_crop_px: int | None = None
    """Height and width of the small crops; by default 96/224 of the images' size, rounded to a multiple of 16."""
    momentum: float = 0.996
    """Share of itself that the teacher keeps in the first step, at least 0 and at most 1."""
    momentum_end: float = 1.0
    """The same in the last step, which a cosine leads to; the same as `momentum` does not depend on the epochs."""
    teacher_temperature: float = 0.04
    """Temperature of the teacher's outputs after the warm-up."""
    teacher_temperature_start: float = 0.04
    """Temperature of the teacher's outputs in the first epoch."""
    teacher_warmup_epochs: int = 0
    """Epochs from `teacher_temperature_start` to `teacher_temperature`, linearly."""
    student_temperature: float = 0.1
    """Temperature of the student's outputs."""
    centre_momentum: float = 0.9
    """Share of itself that the centre keeps in every step, at least 0 and below 1."""
    frozen_epochs: int = 1
    """Epochs in which the last layer of the head stays as it is."""

    def rules(self) -> list[str]:
        """Return one text per rule, empty where it holds."""
        temperatures = ("teacher_temperature", "teacher_temperature_start", "student_temperature")
        return [
            self._at_least("outputs", 2),
            self._at_least("local_crops", 0),
            "" if self.local_crop_px is None else self._at_least("local_crop_px", 8),
            *(self._share(name) for name in ("momentum", "momentum_end")),
            self._share("centre_momentum", below_one=True),
            *(self._positive(name) for name in temperatures),
            self._at_least("teacher_warmup_epochs", 0),
            self._at_least("frozen_epochs", 0),
        ]

    def _share(self, name: str, below_one: bool = False) -> str:
        value = getattr(self, name)
        fine = isinstance(value, float) and 0 <= value <= 1 and not (below_one and value == 1)
        allowed = "at least 0 and below 1" if below_one else "at least 0 and at most 1"
        return "" if fine else f"{flag(type(self), name)} must be {allowed}, but got {value}."


@dataclass(frozen=True, kw_only=True)
class Change(Section):
    """Values of the finetuning from some epoch on, each with the rules of the field of this name in `Finetune`."""

    epoch: int
    """Finished epochs from which on they are in force, at least 1."""
    learning_rate: float
    """Highest learning rate, of both arms unless `vit_learning_rate` is given."""
    vit_learning_rate: float | None = None
    """Highest learning rate of the ViT, instead of `learning_rate`."""
    weight_decay: float = 0.0
    """Weight decay of `adamw`."""
    clip_norm: float = 0.0
    """Largest norm of the gradient; 0: any."""

    def values(self) -> dict[str, Any]:
        """Return the fields of the finetuning that it sets."""
        return {name: getattr(self, name) for name in CHANGEABLE}

    def __str__(self) -> str:
        known = (f"{name}={value:g}" for name, value in self.values().items() if value is not None)
        return f"after epoch {self.epoch}: {' '.join(known)}"


CHANGEABLE = tuple(item.name for item in dataclasses.fields(Change) if item.name != "epoch")
"""Fields of the finetuning that may change while it runs."""


@dataclass(frozen=True, kw_only=True)
class Finetune(Section):
    """Supervised finetuning of each arm with the labelled images."""

    epochs: int = 50
    """Passes over the labelled images."""
    batch_size: int = 16
    """Images per step."""
    evaluation_batch_size: int = _later(EVALUATION_BATCH)
    """Images per batch of an evaluation, divided where the memory is not enough: more is faster on a large GPU."""
    learning_rate: float = 3e-4
    """Highest learning rate, of both arms unless `vit_learning_rate` is given."""
    vit_learning_rate: float | None = _later(None)
    """Highest learning rate of the ViT, instead of `learning_rate`."""
    min_learning_rate: float = 1e-6
    """Lowest learning rate of the schedule."""
    schedule: Literal["cosine", "cosine_to_end"] = _later("cosine")
    """`cosine`: the published one, up and down for ever; `cosine_to_end`: warm-up, then one cosine to the last step of
    all `epochs`, also where `patience` ends the finetuning before."""
    schedule_t_max_steps: int = 16
    """Steps from the highest to the lowest learning rate of `cosine`, which is stepped every batch."""
    warmup_epochs: int = _later(0)
    """Epochs in which the learning rate rises linearly to the highest, fewer than all; 0 with `cosine`."""
    optimiser: Literal["adam", "adamw"] = _later("adam")
    """`adam` (published), or `adamw`: with decoupled weight decay."""
    weight_decay: float = _later(0.0)
    """Weight decay of `adamw`, at least 0, not applied to biases, norms and position embeddings; 0 with `adam`."""
    clip_norm: float = _later(0.0)
    """Largest norm of the gradient, to which a longer one is scaled; 0: any."""
    focal_gamma: float = 2.0
    """Exponent of the focal loss, at least 0."""
    class_weights: Literal["balanced", "none"] = "balanced"
    """`balanced`: images / (classes x images of the class); `none`: 1 for every class."""
    select_by: Literal["micro_f1_at_half", "macro_f1"] = "micro_f1_at_half"
    """Validation metric that picks the best epoch, whose weights are tested."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = _later("fp32")
    """What matrices are multiplied in, evaluation included: as for `--pretrain.precision`."""
    compile: bool = _later(False)
    """Whether the networks' blocks are compiled for the training steps; an evaluation is computed as without."""
    patience: int = _later(0)
    """Epochs without a better `select_by` metric after which the finetuning of an arm stops; 0: it never does."""
    changes: tuple[Change, ...] = field(default=(), metadata={"neutral": (), "option": False})
    """What changes while it runs, in order: population based training makes it, no option does."""

    def _coerce(self) -> None:
        """Make changes of what JSON has in their place, too."""
        super()._coerce()
        found = (item if isinstance(item, Change) else Change(**item) for item in self.changes)
        object.__setattr__(self, "changes", tuple(found))

    @property
    def passes_shorter(self) -> bool:
        """Whether it passes through the states of the same finetuning with fewer epochs."""
        return self.schedule == "cosine" and not self.patience

    def in_force(self, epoch: int) -> Finetune:
        """Return the finetuning with the values that are in force after so many finished epochs, and no changes."""
        begun = [change for change in self.changes if change.epoch <= epoch]
        return dataclasses.replace(self, changes=(), **(begun[-1].values() if begun else {}))

    def shorter(self, epochs: int) -> Finetune:
        """Return the same finetuning with fewer epochs, and those changes that begin before its end."""
        begun = tuple(change for change in self.changes if change.epoch < epochs)
        return dataclasses.replace(self, epochs=epochs, changes=begun)

    def rules(self) -> list[str]:
        """Return one text per rule, empty where it holds."""
        problems = [
            self._one_of("schedule", ("cosine", "cosine_to_end")),
            *_training_rules(self),
            self._not_negative("focal_gamma"),
            self._one_of("class_weights", ("balanced", "none")),
            self._one_of("select_by", ("micro_f1_at_half", "macro_f1")),
            self._at_least("patience", 0),
            self._at_least("evaluation_batch_size", 1),
        ]
        return problems if any(problems) else self._change_rules()

    def _change_rules(self) -> list[str]:
        label, of, patience = (flag(type(self), name) for name in ("changes", "epochs", "patience"))
        if not self.passes_shorter and self.changes:
            schedule = flag(type(self), "schedule")
            needs = f"{schedule} cosine, which does not depend on the number of epochs, and {patience} 0"
            return [f"{label} needs {needs}, but got {self.schedule} and {self.patience}."]
        epochs = [change.epoch for change in self.changes]
        is_whole = all(type(epoch) is int for epoch in epochs)
        if not is_whole or any(later <= before for before, later in pairwise([0, *epochs, self.epochs])):
            what = f"whole numbers of epochs, each above the one before, from 1 to less than {of} {self.epochs}"
            return [f"{label} must begin after {what}, but got {', '.join(map(str, epochs))}."]
        return [f"{label} after epoch {epoch}: {text}" for epoch in epochs for text in self._problems_after(epoch)]

    def _problems_after(self, epoch: int) -> Sequence[str]:
        try:
            values = self.in_force(epoch)
        except UsageError as error:
            return error.problems
        if bool(values.weight_decay) == bool(self.weight_decay):
            return ()
        name, got = flag(type(self), "weight_decay"), f"{values.weight_decay}, and {self.weight_decay} at the start"
        return [f"{name} must stay 0 or stay above 0, because it parts the optimiser's parameters, but got {got}."]


def _training_rules(section: Pretrain | Finetune) -> list[str]:
    """Return one text per rule that pretraining and finetuning share, empty where it holds."""
    return [
        section._at_least("epochs", 1),
        section._at_least("batch_size", 2),
        _rate_rule(section, "learning_rate"),
        "" if section.vit_learning_rate is None else _rate_rule(section, "vit_learning_rate"),
        section._positive("min_learning_rate"),
        section._at_least("schedule_t_max_steps", 1),
        section._at_least("warmup_epochs", 0) or _warmup_rule(section),
        section._one_of("optimiser", ("adam", "adamw")),
        section._not_negative("weight_decay") or _weight_decay_rule(section),
        section._not_negative("clip_norm"),
        section._one_of("precision", PRECISIONS),
        section._bool("compile"),
    ]


def _rate_rule(section: Pretrain | Finetune, name: str) -> str:
    """A pretraining without any learning changes the batch norms' statistics alone: a control (cass_protocol, D22)."""
    return section._not_negative(name) if isinstance(section, Pretrain) else section._positive(name)


def _warmup_rule(section: Pretrain | Finetune) -> str:
    label, schedule = flag(type(section), "warmup_epochs"), flag(type(section), "schedule")
    if section.schedule == "cosine":
        what = f"{label} must be 0 with {schedule} cosine, but got {section.warmup_epochs}: the published schedule"
        advice = f"Give {label} 0, or {schedule} cosine_to_end."
        return f"{what} has no warm-up. {advice}" if section.warmup_epochs else ""
    if section._at_least("epochs", 1) or section.warmup_epochs < section.epochs:
        return ""
    epochs = f"{flag(type(section), 'epochs')} ({section.epochs})"
    return f"{label} must be less than {epochs}, of which it is a part, but got {section.warmup_epochs}."


def _weight_decay_rule(section: Pretrain | Finetune) -> str:
    if section.optimiser != "adam" or not section.weight_decay:
        return ""
    label, optimiser = flag(type(section), "weight_decay"), flag(type(section), "optimiser")
    return (
        f"{label} must be 0 with {optimiser} adam, the published optimiser, which has none, "
        f"but got {section.weight_decay}. Give {label} 0, or {optimiser} adamw."
    )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One complete experiment: data, pretraining, finetuning of both arms, and one seed."""

    data: Data = Data()
    pretrain: Pretrain = Pretrain()
    finetune: Finetune = Finetune()
    dino: Dino = Dino()
    seed: int = 0
    """Replica: drives the labelled subset, the new layers, the order, the augmentation and dropout."""

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise UsageError(f"--seeds must be whole numbers of at least 0, but got {self.seed!r}.")


SECTIONS: dict[str, type[Section]] = {"data": Data, "pretrain": Pretrain, "finetune": Finetune, "dino": Dino}
"""The sections of a trial by name, in the order in which the command line lists them."""


def options_of(section: type[Section]) -> list[str]:
    """Return the names of the fields that a user, or the space of a search, can set."""
    return [item.name for item in dataclasses.fields(section) if item.metadata.get("option", True)]  # type: ignore[arg-type]


def get_field(trial: Trial, path: str) -> Any:
    """Return the value at ``"section.field"`` (or ``"seed"``)."""
    section, _, name = path.rpartition(".")
    return getattr(getattr(trial, section) if section else trial, name)


def plain(value: Any) -> Any:
    """Return a field's value as a table or a name has it: several changes as one text."""
    return "; ".join(map(str, value)) or "none" if isinstance(value, tuple) else value


def with_field(trial: Trial, path: str, value: Any) -> Trial:
    """Return a copy of the trial with another value at ``"section.field"`` (or ``"seed"``)."""
    section, _, name = path.rpartition(".")
    if not section:
        return dataclasses.replace(trial, **{name: value})
    changed = dataclasses.replace(getattr(trial, section), **{name: value})
    return dataclasses.replace(trial, **{section: changed})


def with_fields(trial: Trial, values: Mapping[str, Any]) -> Trial:
    """Return a copy of the trial with other values by ``"section.field"``, put in together: rules bind some fields."""
    of_section: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        section, _, name = path.partition(".")
        of_section.setdefault(section, {})[name] = value
    changed = {section: dataclasses.replace(getattr(trial, section), **own) for section, own in of_section.items()}
    return dataclasses.replace(trial, **changed)


def control(trial: Trial) -> Trial:
    """Return the control of a trial: the same finetuning from the starting weights, without pretraining."""
    return with_field(trial, "pretrain.method", "none")


def to_json(trial: Trial) -> dict[str, Any]:
    """Return the trial as plain JSON types, every field included."""
    record = dataclasses.asdict(trial)
    record["finetune"]["changes"] = list(record["finetune"]["changes"])
    return record


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
