"""Arithmetic of a training phase: which format matrices are multiplied in, and how a CNN's tensors lie in memory.

Parameters, optimiser, losses and metrics are float32 in every precision; bf16 and fp16 are torch's autocast
(https://docs.pytorch.org/docs/stable/amp.html). With fp32 nothing differs from a training without any of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

NARROW = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions in which autocast multiplies matrices in fewer bits."""

_Loss = TypeVar("_Loss", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Precision:
    """What a phase computes in.

    Args:
        name: ``fp32``, ``tf32``, ``bf16`` or ``fp16``.
        device: of the networks.
    """

    name: str
    device: torch.device

    def arrange(self, arm: str, model: nn.Module) -> None:
        """Lay the CNN's tensors out in memory, in place, before an optimiser knows them: channels last unless fp32."""
        if self.name != "fp32" and arm == "cnn":
            _lay_out(model, torch.channels_last)

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """Let float32 matrices be multiplied as TF32 in the block, forward and backward, if this is tf32."""
        is_tf32 = self.name == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_tf32
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def forward(self) -> AbstractContextManager[object]:
        """Return a block for forward passes, whose outputs may be bfloat16 or float16.

        Narrow copies of weights are not kept between two passes of a step: one made without gradients would cut them
        off from the next (https://github.com/pytorch/pytorch/issues/65766).
        """
        if self.name not in NARROW:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=NARROW[self.name], cache_enabled=False)

    def scaler(self) -> torch.amp.GradScaler:  # type: ignore[name-defined]
        """Return what keeps small gradients above float16's smallest number; with other precisions it does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")  # type: ignore[attr-defined]


def contiguous(model: nn.Module) -> nn.Module:
    """Return the model, its tensors as those of a new one lie in memory, whatever trained it before."""
    _lay_out(model, torch.contiguous_format)
    return model


def _lay_out(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Copy what a convolution reads: of a kernel of one pixel, the strides tell a format that `to` leaves as it was."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.clone(memory_format=memory_format)


def in_float32(loss: _Loss) -> _Loss:
    """Return a loss that is computed in float32: autocast is off in it, and narrower outputs given to it are widened.

    Args:
        loss: takes tensors, or sequences of tensors; float64 stays as it is.
    """

    @wraps(loss)
    def computed(*args: Any, **named: Any) -> Any:
        wide = [_widened(value) for value in args]
        wide_named = {name: _widened(value) for name, value in named.items()}
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return loss(*wide, **wide_named)

    return cast(_Loss, computed)


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in NARROW.values() else value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_widened(item) for item in value]
    return value
