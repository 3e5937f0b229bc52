"""A process's part of a GPU's memory, and what it looks like when there is not enough."""

from __future__ import annotations

import re

import torch

from cass_tune.memory import CONTEXT_GIB, Card

_SHORT_OF_MEMORY = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|CUDA_ERROR_OUT_OF_MEMORY|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED"
)
"""What errors of torch and of CUDA's libraries say when the GPU's memory is not enough."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a GPU's memory was not enough."""
    return isinstance(error, torch.OutOfMemoryError) or bool(_SHORT_OF_MEMORY.search(str(error)))


def card() -> Card:
    """Return the kind of GPU that this process uses."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Card(name=properties.name, total_gib=properties.total_memory / 2**30)


def use_least_card() -> None:
    """Let this process use the GPU that has the least memory of those that it sees, if there are any."""
    numbers = range(torch.cuda.device_count())
    if len(numbers) > 1:
        torch.cuda.set_device(min(numbers, key=lambda n: torch.cuda.get_device_properties(n).total_memory))


def cap_memory(part: float) -> None:
    """Let this process allocate no more than its part of the GPU, so that a neighbour is not short of memory.

    Args:
        part: of the card, its CUDA context included, above 0 and at most 1; 1 lifts an earlier cap.
    """
    total = card().total_gib
    allowed = 1.0 if part >= 1 else max(part - CONTEXT_GIB / total, part / 2)
    torch.cuda.set_per_process_memory_fraction(allowed)
