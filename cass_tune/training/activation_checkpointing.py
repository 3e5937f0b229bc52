"""Activation checkpointing: activations are computed again in the backward pass instead of being kept (less memory).

Chen et al. 2016 (https://arxiv.org/abs/1604.06174), by timm's own segments and `torch.utils.checkpoint`, which draws
the same random numbers again. A training with it gives the same numbers as one without.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cass_tune.errors import UsageError


def can_checkpoint(model: nn.Module) -> bool:
    """Return whether a timm model can compute its activations again; the model stays as it is."""
    timm_model: Any = model
    try:
        timm_model.set_grad_checkpointing(True)
        timm_model.set_grad_checkpointing(False)
    except (AttributeError, AssertionError):  # timm asserts that nobody asks a model that cannot
        return False
    return True


def set_checkpointing(model: nn.Module, *, enabled: bool) -> None:
    """Switch activation checkpointing of a timm model on or off; one that knows none of it keeps its activations."""
    timm_model: Any = model
    if not enabled and not hasattr(model, "set_grad_checkpointing"):
        return
    if not enabled or can_checkpoint(model):
        timm_model.set_grad_checkpointing(enabled)


def check_checkpointing(model: nn.Module, name: str) -> None:
    """Raise a UsageError when a network that is to compute its activations again cannot.

    Args:
        model: the network.
        name: of it, for people.
    """
    if not can_checkpoint(model):
        raise UsageError(
            f"--activation-checkpointing on: {name} cannot compute its activations again (timm says). "
            "Leave the option out, or give another network."
        )


@contextmanager
def buffers_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Give all buffers, after the block, the values that they had before it.

    A backward pass that computes activations again would let batch normalisation count each batch twice.

    Args:
        modules: whose buffers; nothing in the block may change them on purpose.
    """
    buffers = [buffer for module in modules for buffer in module.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
