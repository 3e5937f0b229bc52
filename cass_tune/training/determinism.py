"""Settings of torch under which the same trial gives the same numbers on the same kind of device."""

from __future__ import annotations

import gc
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from cass_tune.collector import spare
from cass_tune.training.machine import reset_peak_memory


def prepare_torch(device: torch.device, threads: int) -> None:
    """Choose deterministic kernels, plain float32 and a fixed number of threads for this process.

    A kernel without a deterministic form is used all the same: torch warns of it, and `Alerts` collects it.

    Args:
        device: of the trial.
        threads: CPU threads of one operation; 1 and 2 threads give different last digits.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a pass over each output
    for enable in (torch.backends.cuda.enable_flash_sdp, torch.backends.cuda.enable_cudnn_sdp):
        enable(device.type != "cuda")  # there, its backward is not deterministic under warn_only
    torch.backends.cuda.enable_mem_efficient_sdp(False)  # the same
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # attention is left in the precision of the trial
    _spare_modules()
    gc.collect()  # networks of a trial that was interrupted in this process
    if device.type == "cuda":
        torch.cuda.init()
        torch.cuda.empty_cache()
    reset_peak_memory(device)


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of one device, as ``torch.manual_seed`` does.

    That one asks every kind of device that torch knows; for those that are not there it formats the call stack, in a
    millisecond (torch 2.15), which is too much for every step of a training.

    Args:
        seed: for both.
        device: of the trial.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)


@cache
def _spare_modules() -> None:
    """Let the collector pass over what is imported by now: a collection then takes no quarter of a second."""
    gc.collect()
    spare()


class Alerts(logging.Handler):
    """Collects the kernels that have no deterministic form, from torch's warnings.

    While the block runs, it listens to Python's warnings, which `logging.captureWarnings` must be sending to the log.
    Each kernel is heard once per block, also in a process in which it was warned of before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r"(\S+) does not have a deterministic implementation", record.getMessage())
        if found:
            self.kernels.add(found[1])

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Collect until the block ends."""
        source = logging.getLogger("py.warnings")
        source.addHandler(self)
        try:
            with warnings.catch_warnings():  # forgets which warnings were shown before
                yield
        finally:
            source.removeHandler(self)
