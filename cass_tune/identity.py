"""Identities: what makes two trials, or two pretrainings, the same.

A digest is the SHA-256 of the sorted-key JSON of every resolved field that can change a number, together with what the
trial reads from outside: the data's fingerprint and the starting weights. Library versions and commits are not part
of it; they are recorded beside each result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cass_tune.config import ARMS, Section, Trial

RESULTS_VERSION = 1
"""Raised by hand when the code changes numbers on purpose (`tests/test_golden_numbers.py` guards it)."""

ID_DIGITS = 12
"""Hexadecimal digits of a digest that name a folder; a folder grows by four when two digests ever meet."""

_LABEL_DATA = ("label_fraction",)
_CONTROL_PRETRAIN = ("method", *ARMS)
_PRETRAIN_DATA = ("pretrain_fraction",)


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
    values: dict[str, Any] = {}
    for item in dataclasses.fields(section):  # type: ignore[arg-type]
        value = getattr(section, item.name)
        is_neutral = "neutral" in item.metadata and item.metadata["neutral"] == value
        if item.metadata.get("identity", True) and not is_neutral:
            values[item.name] = value
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
    """Return whether the field at ``"section.field"`` can change this trial's numbers (a control has no batch size)."""
    if trial.pretrain.method != "none":
        return True
    section, _, name = path.rpartition(".")
    return name in _CONTROL_PRETRAIN if section == "pretrain" else name not in _PRETRAIN_DATA


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
            "finetune": _hashed_fields(trial.finetune),
            "seed": trial.seed,
        }
    )


def stage_digest(trial: Trial, inputs: Inputs) -> str:
    """Return the identity of a trial's pretraining, whatever its number of epochs.

    The learning rate of every recipe so far is a function of the step alone, so a longer run passes through the states
    of the shorter ones. Neither labels nor finetuning are part of it.
    """
    data = _data_fields(trial, inputs)
    pretrain = _pretrain_fields(trial, inputs)
    pretrain.pop("epochs", None)
    return digest(
        {
            "results_version": RESULTS_VERSION,
            "data": {name: value for name, value in data.items() if name not in _LABEL_DATA},
            "pretrain": pretrain,
            "seed": trial.seed,
        }
    )
