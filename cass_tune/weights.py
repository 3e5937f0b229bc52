"""Starting weights: which file holds an arm's, and what stands for them in an identity."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cass_tune.config import ARMS, Pretrain
from cass_tune.errors import UsageError

_ENDINGS = (".safetensors", ".pth", ".pt", ".bin")


def weights_file(path: str, arm: str) -> Path:
    """Return the file that holds an arm's weights: the path itself, or the arm's file in that folder.

    Raises:
        UsageError: there is none.
    """
    place = Path(path)
    if place.is_file():
        return place
    for ending in _ENDINGS:
        if (place / f"{arm}{ending}").is_file():
            return place / f"{arm}{ending}"
    expected = (
        f"a folder with {arm}{_ENDINGS[0]} (or {', '.join(_ENDINGS[1:])})" if place.is_dir() else "a file or folder"
    )
    raise UsageError(
        f"--pretrain.weights {path!r} holds no weights of the {arm}: expected {expected}. Give `timm` (pretrained), "
        f"`random`, a file or a folder; or --pretrain.{arm}-weights for this arm alone."
    )


def weights_identity(pretrain: Pretrain) -> dict[str, str]:
    """Return by arm what stands for its starting weights: ``timm:<name>``, ``random`` or ``sha256:<of the file>``.

    Raises:
        UsageError: a file is missing; every one is named.
    """
    identities: dict[str, str] = {}
    problems: list[str] = []
    for arm in ARMS:
        weights = pretrain.weights_of(arm)
        try:
            identities[arm] = _identity(weights, getattr(pretrain, arm), arm)
        except UsageError as error:
            problems.extend(error.problems)
    if problems:
        raise UsageError(*problems)
    return identities


def _identity(weights: str, name: str, arm: str) -> str:
    if weights == "random":
        return weights
    if weights == "timm":
        return f"timm:{name}"
    with weights_file(weights, arm).open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
