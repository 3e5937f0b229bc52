"""What must be kept so that training can go on exactly where it was: tensors, and values that JSON can hold."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class State:
    """State of a part of training between two steps.

    Args:
        tensors: by name; parts are separated by ``/``.
        values: everything else: numbers, texts, lists and mappings that JSON can hold.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    def on_cpu(self) -> State:
        """Return a copy that later training steps do not change."""
        tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.tensors.items()}
        return State(tensors=tensors, values=copy.deepcopy(dict(self.values)))

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors below a name, without it."""
        start = f"{name}/"
        return {key.removeprefix(start): tensor for key, tensor in self.tensors.items() if key.startswith(start)}


def below(**parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of several parts in one mapping, each below its part's name."""
    return {f"{name}/{key}": tensor for name, tensors in parts.items() for key, tensor in tensors.items()}


def optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state by ``<number of the parameter>/<name>``; empty before its first step."""
    state = optimiser.state_dict()["state"]
    return {f"{number}/{name}": tensor for number, values in state.items() for name, tensor in values.items()}


def load_optimiser(optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that `optimiser_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    for parameter, values in optimiser.state.items():
        for name, value in values.items():  # fused kernels want moments to lie in memory as their parameter does
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter).copy_(value)
