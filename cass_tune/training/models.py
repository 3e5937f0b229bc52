"""The arms: timm models with given starting weights, and their safetensors files."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config  # type: ignore[attr-defined]
from timm.models import load_state_dict
from torch import Tensor, nn

from cass_tune.config import Trial, with_fields
from cass_tune.data.loader import IMAGENET, Normalisation
from cass_tune.errors import UsageError, did_you_mean
from cass_tune.methods import method_class
from cass_tune.randomness import torch_seed
from cass_tune.storage import AnyPath
from cass_tune.tensors import write_tensors
from cass_tune.training.determinism import seed_torch
from cass_tune.weights import weights_file

logger = logging.getLogger(__name__)

ANY_SIZE = "dynamic_img_size"
"""timm's argument for transformers whose position embeddings follow the size of the images."""


def build_arm(trial: Trial, arm: str) -> nn.Module:
    """Return one arm before pretraining, with an output of `embedding_dim`.

    The body's random weights, where asked for, and a new head are functions of (seed, arm). The arm's timm
    configuration says how its images are normalised, see `normalisation`.

    Args:
        trial: names the model, its starting weights, the images' size and normalisation, and the seed.
        arm: ``cnn`` or ``vit``.

    Raises:
        UsageError: unknown model, image size that it cannot take, weights that are missing or do not fit.
    """
    name, weights = getattr(trial.pretrain, arm), trial.pretrain.weights_of(arm)
    check_name(name, arm, needs_weights=weights == "timm")
    arguments = {**model_arguments(name, trial.data.image_size_px), **_sizes(trial, name)}
    seed_torch(torch_seed(trial.seed, f"initialisation/{arm}"), torch.get_default_device())
    try:
        model = _create(name, weights, arm, arguments)
        _try_size(model, trial.data.image_size_px)
    except UsageError:
        raise
    except TypeError as error:
        raise UsageError(_one_size(trial, arm) if ANY_SIZE in str(error) else str(error)) from error
    except Exception as error:  # timm, the hub's client and torch raise many kinds; none is our user's to decode
        raise UsageError(_cannot_build(name, weights, arm, trial.data.image_size_px, error)) from error
    width = trial.pretrain.embedding_dim
    if model.num_classes != width:
        logger.info("%s: head of width %s replaced by a new one of width %d", name, model.num_classes, width)
        replace_head(model, width, torch_seed(trial.seed, f"embedding head/{arm}"))
    if trial.data.normalisation == "imagenet":
        model.pretrained_cfg = {**model.pretrained_cfg, "mean": IMAGENET.mean, "std": IMAGENET.std}
    return model


def build_blank_arm(trial: Trial, arm: str) -> nn.Module:
    """Return an arm whose parameters will be replaced, or do not matter: nothing is fetched; otherwise `build_arm`."""
    unfetched = {"pretrain.weights": "random", "pretrain.cnn_weights": None, "pretrain.vit_weights": None}
    return build_arm(with_fields(trial, unfetched), arm)


def features(model: nn.Module, images: Tensor) -> Tensor:
    """Return what a timm model's last layer sees, shape (batch, `feature_width`).

    Args:
        model: an arm.
        images: normalised, shape (batch, 3, height, width).
    """
    timm_model: Any = model
    return timm_model.forward_head(timm_model.forward_features(images), pre_logits=True)


def feature_width(model: nn.Module) -> int:
    """Return the width of `features`."""
    timm_model: Any = model
    return int(getattr(timm_model, "head_hidden_size", timm_model.num_features))


def normalisation(model: nn.Module) -> Normalisation:
    """Return the constants that a model's images are normalised with: those of its timm configuration."""
    config = resolve_model_data_config(model)
    return Normalisation(mean=tuple(config["mean"]), std=tuple(config["std"]))


def _create(name: str, weights: str, arm: str, arguments: Mapping[str, Any]) -> Any:
    if weights in ("timm", "random"):
        return timm.create_model(name, pretrained=weights == "timm", **arguments)
    state = _read_state(weights_file(weights, arm), arm)
    classifier = _published(name).classifier
    width = len(state[f"{classifier}.weight"]) if f"{classifier}.weight" in state else 0
    overlay = {
        "state_dict": state,
        "num_classes": width,
    }  # equal widths make timm load strictly: no tensor may be missing
    return timm.create_model(name, pretrained=True, num_classes=width, pretrained_cfg_overlay=overlay, **arguments)


def _try_size(model: nn.Module, size_px: int) -> None:
    """Raise the model's own error when it cannot take images of this size."""
    model.eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, size_px, size_px))
    model.train()


def _read_state(path: Path, arm: str) -> dict[str, Tensor]:
    """Read a safetensors or torch file (weights only); of one with tensors named cnn.* and vit.*, the arm's part."""
    state = load_state_dict(str(path), weights_only=True)
    own = {key.removeprefix(f"{arm}."): value for key, value in state.items() if key.startswith(f"{arm}.")}
    return own or state


def _cannot_build(name: str, weights: str, arm: str, size_px: int, error: Exception) -> str:
    reason = str(error).strip().splitlines()[:3]
    what = f"--pretrain.{arm} {name} with weights {weights} at {size_px} px cannot be made: {' '.join(reason)[:500]}"
    if weights != "timm":
        return (
            f"{what} Give weights of this very model (--pretrain.{arm}-weights FILE), or another --data.image-size-px."
        )
    fetch = f"python -c \"import timm; timm.create_model('{name}', pretrained=True)\""
    return (
        f"{what} Pretrained weights are fetched once, where there is a network, by: {fetch} . Without one give files "
        "(--pretrain.weights FILE_OR_FOLDER), or ask for random weights (--pretrain.weights random)."
    )


def check_name(name: str, arm: str, *, needs_weights: bool) -> None:
    """Raise a UsageError with suggestions when timm has no such model, or pretrained weights lack their full tag."""
    architecture, _, tag = name.partition(".")
    tags = timm.list_pretrained(f"{architecture}.*")
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models())
        raise UsageError(f"--pretrain.{arm} {name!r} is not a timm model.{hint} `timm.list_models()` lists all.")
    if (tag and name not in tags) or (needs_weights and not tag):
        raise UsageError(
            f"--pretrain.{arm} {name!r} must name timm's full tag, because timm's default has changed over time. "
            f"There are: {', '.join(tags) or 'none (give --pretrain.weights FILE or random)'}."
        )


def model_arguments(name: str, image_size_px: int) -> dict[str, Any]:
    """Return what `timm.create_model` needs beside the name: transformers of a fixed input size are told the size."""
    return {"img_size": image_size_px} if _published(name).fixed_input_size else {}


def _sizes(trial: Trial, name: str) -> dict[str, Any]:
    """Return what a transformer of a fixed size is told, where the method shows it images of several sizes."""
    method = trial.pretrain.method
    is_needed = method != "none" and method_class(method).needs_sizes and _published(name).fixed_input_size
    return {ANY_SIZE: True} if is_needed else {}


def _one_size(trial: Trial, arm: str) -> str:
    return (
        f"--pretrain.method {trial.pretrain.method} shows the networks images of several sizes, and --pretrain.{arm} "
        f"{getattr(trial.pretrain, arm)} takes one size alone. Give a network that takes any, or another method."
    )


def _published(name: str) -> Any:
    """timm's description of a model: input size, classifier, ..."""
    return timm.get_pretrained_cfg(name)


def replace_head(model: Any, width: int, seed: int) -> None:
    """Give a timm model a new linear head, its weights a function of the seed.

    Args:
        model: any timm model.
        width: outputs of the new head.
        seed: for torch.
    """
    device = next(model.parameters()).device
    seed_torch(seed, device)
    model.reset_classifier(width)
    model.to(device)


def save_arm(model: nn.Module, path: AnyPath, *, name: str, image_size_px: int, classes: Sequence[str] = ()) -> str:
    """Write an arm as safetensors, whole or not at all, and return the file's SHA-256.

    The metadata (timm name, its arguments as JSON, classes as JSON, image size, and mean and std of `normalisation`)
    are enough to rebuild it and to feed it:
    ``timm.create_model(name, checkpoint_path=path, **json.loads(arguments))``.

    Args:
        model: the arm.
        path: of the file.
        name: timm name.
        image_size_px: height and width of the images.
        classes: names of the outputs, in order; empty after pretraining.
    """
    arguments = {**model_arguments(name, image_size_px), "num_classes": model.num_classes}
    constants = normalisation(model)
    metadata = {
        "name": name,
        "arguments": json.dumps(arguments),
        "classes": json.dumps(list(classes)),
        "image_size_px": str(image_size_px),
        "mean": json.dumps(constants.mean),
        "std": json.dumps(constants.std),
    }
    return write_tensors(path, model.state_dict(), metadata)
