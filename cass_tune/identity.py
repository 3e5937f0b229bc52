"""Identities: what makes two trials, or two pretrainings, the same.

A digest is the SHA-256 of the sorted-key JSON of every resolved field that can change a number, together with what the
trial reads from outside: the data's fingerprint and the starting weights. Library versions and commits are not part
of it; they are recorded beside each result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from cass_tune.config import ARMS, Pretrain, Section, Trial, with_field

RESULTS_VERSION = 1
"""Raised by hand when the code changes numbers on purpose (`tests/test_golden_numbers.py` guards it)."""

PROBES_VERSION = 1
"""The same for the probes of frozen features, which are no part of a trial's identity; older ones are made again."""

ID_DIGITS = 12
"""Hexadecimal digits of a digest that name a folder; a folder grows by four when two digests ever meet."""

_LABEL_DATA = ("label_fraction",)
_CONTROL_PRETRAIN = ("method", *ARMS)
_PRETRAIN_DATA = ("pretrain_fraction",)
_CASS_PRETRAIN = ("variance_weight", "predictor")
_WITHOUT_VARIANTS = ("dino", "supervised")
_IDLE = {
    "cosine": ("decay_fraction",),
    "wsd": ("schedule_t_max_steps",),
    "cosine_to_end": ("schedule_t_max_steps", "decay_fraction"),
}
"""Fields that a schedule does not read and that make no other pretraining: a stage has their default in its hash."""
_IDLE_IN_TRUNK = ("min_learning_rate",)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a trial reads from outside its configuration.

    Args:
        data: fingerprint of the usable images (`cass_tune.data.listing`).
        cnn: starting weights of the CNN: ``timm:<full tag>``, ``random`` or ``sha256:<digest of the file>``.
        vit: the same of the ViT.
    """

    data: str
    cnn: str
    vit: str

    def weights(self) -> dict[str, str]:
        """Return the starting weights by arm."""
        return {arm: getattr(self, arm) for arm in ARMS}


def _hashed_fields(section: Section) -> dict[str, Any]:
    values = dataclasses.asdict(section)  # type: ignore[call-overload]
    for item in dataclasses.fields(section):  # type: ignore[arg-type]
        is_neutral = "neutral" in item.metadata and item.metadata["neutral"] == values[item.name]
        if is_neutral or not item.metadata.get("identity", True):
            del values[item.name]
    return values


def _data_fields(trial: Trial, inputs: Inputs) -> dict[str, Any]:
    values = _hashed_fields(trial.data)
    del values["name"]  # the fingerprint stands for the images, whatever they are called
    if trial.pretrain.method == "none":
        values = {name: value for name, value in values.items() if name not in _PRETRAIN_DATA}
    return {**values, "fingerprint": inputs.data}


def _pretrain_fields(trial: Trial, inputs: Inputs) -> dict[str, Any]:
    values = {**_hashed_fields(trial.pretrain), "weights": inputs.weights()}
    if trial.pretrain.method == "none":
        return {name: value for name, value in values.items() if name in (*_CONTROL_PRETRAIN, "weights")}
    return values


def matters(trial: Trial, path: str) -> bool:
    """Return whether the field at ``"section.field"`` can change this trial's numbers (a control has no batch size).

    What your own method looks at is not known, but for the section of another method.
    """
    section, _, name = path.rpartition(".")
    if section == "dino":
        return trial.pretrain.method == "dino"
    if section == "pretrain" and name in _CASS_PRETRAIN and trial.pretrain.method in _WITHOUT_VARIANTS:
        return False
    if trial.pretrain.method != "none":
        return True
    return name in _CONTROL_PRETRAIN if section == "pretrain" else name not in _PRETRAIN_DATA


def matters_to_pretraining(path: str) -> bool:
    """Return whether the field at ``"section.field"`` can change a pretraining, as opposed to the finetuning alone."""
    section, _, name = path.rpartition(".")
    return section != "finetune" and name not in _LABEL_DATA


def digest(payload: dict[str, Any]) -> str:
    """Return the SHA-256 of the payload's canonical JSON, 64 hexadecimal digits."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def trial_digest(trial: Trial, inputs: Inputs) -> str:
    """Return the identity of a whole trial."""
    return digest(
        {
            "results_version": RESULTS_VERSION,
            "data": _data_fields(trial, inputs),
            "pretrain": _pretrain_fields(trial, inputs),
            **_method_fields(trial),
            "finetune": _hashed_fields(trial.finetune),
            "seed": trial.seed,
        }
    )


def _method_fields(trial: Trial) -> dict[str, Any]:
    """Return the section of the trial's own method, for those that have one."""
    return {"dino": _hashed_fields(trial.dino)} if trial.pretrain.method == "dino" else {}


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The epochs of a pretraining that lie in one stage of the store.

    Args:
        stage: identity of the stage, shared by every trial that needs it.
        start: epochs before; the segment goes on from the end of the one before it.
        end: epochs at its end.
    """

    stage: str
    start: int
    end: int


def segments(trial: Trial, inputs: Inputs) -> tuple[Segment, ...]:
    """Return the segments of a trial's pretraining, in order; none for a control.

    The published schedule does not know the number of epochs: a longer run passes through the states of the shorter
    ones, in one stage. With warm-up, constant rate and decay, trials of any number of epochs share the trunk, and each
    leaves it where its own decay begins. What depends on the number of epochs from the first step on shares nothing.
    Neither labels nor finetuning are part of a stage's identity.
    """
    pretrain = trial.pretrain
    if pretrain.method == "none":
        return ()
    is_apart = why_apart(trial) is not None
    if pretrain.schedule == "cosine" and not is_apart:
        return (Segment(stage=_stage(trial, inputs, without=("epochs",)), start=0, end=pretrain.epochs),)
    start = 0 if is_apart else pretrain.trunk_epochs
    last = Segment(stage=_stage(trial, inputs), start=start, end=pretrain.epochs)
    if not start:
        return (last,)
    trunk = _stage(_by_default(trial, _IDLE_IN_TRUNK), inputs, without=("epochs", "decay_fraction"))
    return (Segment(stage=trunk, start=0, end=start), last)


def _by_default(trial: Trial, names: Collection[str]) -> Trial:
    """Return the trial with the default of some fields of its pretraining."""
    for name in names:
        default = Pretrain.__dataclass_fields__[name].default
        if getattr(trial.pretrain, name) != default:
            trial = with_field(trial, f"pretrain.{name}", default)
    return trial


def why_apart(trial: Trial) -> str | None:
    """Return why runs that differ in the number of pretraining epochs share nothing, or None: they do.

    It says what depends on that number from the first step on.
    """
    pretrain, depends = trial.pretrain, "depends on the number of epochs from the first step on"
    if pretrain.method == "none":
        return None
    if pretrain.schedule == "cosine_to_end":
        return f"the learning rate of --pretrain.schedule cosine_to_end {depends} (cosine and wsd share)"
    if pretrain.weight_decay_end is not None:
        return f"the weight decay that --pretrain.weight-decay-end leads to {depends}"
    if pretrain.method == "dino" and trial.dino.momentum_end != trial.dino.momentum:
        return f"the momentum that --dino.momentum-end leads to {depends} (one equal to --dino.momentum does not)"
    if ":" in pretrain.method:
        from cass_tune.methods import method_class  # brings torch

        return f"--pretrain.method {pretrain.method} {depends}" if method_class(pretrain.method).knows_epochs else None
    return None


def _stage(trial: Trial, inputs: Inputs, without: Collection[str] = ()) -> str:
    trial = _by_default(trial, _IDLE[trial.pretrain.schedule])
    data, pretrain = _data_fields(trial, inputs), _pretrain_fields(trial, inputs)
    return digest(
        {
            "results_version": RESULTS_VERSION,
            "data": {name: value for name, value in data.items() if name not in _LABEL_DATA},
            "pretrain": {name: value for name, value in pretrain.items() if name not in without},
            **_method_fields(trial),
            "seed": trial.seed,
        }
    )
