"""Kernels that torch.compile makes for a network's blocks: the first step takes longer, those after it less.

The blocks that timm names are compiled one by one: equal ones share their kernels, and activation checkpointing, which
computes them again, gives the same numbers. Only training steps whose batches are whole go through them; an evaluation,
and a last batch of another size, is computed as without. The numbers of a training differ in their last digits from
those of one without, and are the same each time.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
from torch import nn

from cass_tune.data.cache_folder import cache_folder
from cass_tune.errors import UsageError

FOLDER_ENV = "TORCHINDUCTOR_CACHE_DIR"
"""Where kernels are kept for later processes."""
MOST_KERNELS = 4096
"""Kinds of block in one process, each with its shapes and precisions, more than many trials have; torch's own limit is
for one network."""
OPTIONS: dict[str, Any] = {"deterministic": True, "fallback_random": True, "compile_threads": 1}
"""No choice by the clock that changes numbers; dropout draws as without; no processes of its own for every trial. Given
with each block, because a backward pass is compiled in whatever thread runs it."""


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a network, or of all timm's networks in a module; none where timm does not name them."""
    networks: list[Any] = [module for module in model.modules() if hasattr(module, "group_matcher")]
    return [block for network in networks for block in _blocks(network)]


def _blocks(network: Any) -> Iterator[nn.Module]:
    groups = network.group_matcher()
    found = groups.get("blocks", ()) if isinstance(groups, dict) else ()
    # beside a pattern stands None, or the place of a part that is no block
    patterns = [found] if isinstance(found, str) else [pattern for pattern, place in found if place is None]
    for name, module in network.named_modules():
        if any(re.fullmatch(pattern, name) for pattern in patterns):
            yield module


def set_compiling(model: nn.Module, *, enabled: bool) -> None:
    """Let the blocks of a network be compiled when they are called, or no longer.

    Args:
        model: a network, or a module that holds some; its state keeps its names.
        enabled: whether they are.
    """
    if enabled:
        _prepare()
        for block in blocks(model):
            block.compile(dynamic=False, options=OPTIONS)
    elif _is_compiled(model):
        for block in blocks(model):
            block._compiled_call_impl = None  # no public call takes it back (torch 2.15)


def _is_compiled(model: nn.Module) -> bool:
    return any(module._compiled_call_impl is not None for module in model.modules())


def as_written(model: nn.Module) -> AbstractContextManager[object]:
    """Return a block in which a network is computed as without compiling."""
    if _is_compiled(model):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


def check_compiling(model: nn.Module, name: str) -> None:
    """Raise a UsageError when a network that is to be compiled has no blocks.

    Args:
        model: the network.
        name: of it, for people.
    """
    if not blocks(model):
        raise UsageError(
            f"--compile on: timm does not say which blocks {name} has. Leave the option out, or give another network."
        )


def check_compiler(device: str) -> None:
    """Raise a UsageError when torch cannot compile a function.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    _prepare()
    try:
        torch.compile(_double, dynamic=False, options=OPTIONS)(torch.ones(8, device=device))
    except Exception as error:  # torch, its compilers and the system raise many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        needed = "a C++ compiler (g++)" if device == "cpu" else "Triton, and a GPU of compute capability 7.0 or newer"
        raise UsageError(
            f"--compile on, but torch.compile does not work here: {reason} It needs {needed}. Mend that, or leave the "
            "option out."
        ) from error


def _double(values: torch.Tensor) -> torch.Tensor:
    return values * 2


def _prepare() -> None:
    """Set the compiler up for this thread: torch keeps these settings by thread, and Ray runs each trial in its own."""
    import torch._dynamo.config as tracing
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(FOLDER_ENV, default_cache_dir()) == default_cache_dir():  # torch sets it when it is imported
        with suppress(OSError):  # this user has no home
            os.environ[FOLDER_ENV] = str(cache_folder() / "compiled")  # others may write to torch's folder below /tmp
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns where there is no GPU
    settings: Any = tracing
    settings.recompile_limit = settings.accumulated_recompile_limit = MOST_KERNELS
    settings.fail_on_recompile_limit_hit = True  # rather than go on without kernels
