"""How busy the device of a trial is, and how much memory it takes: what a row says of the machine."""

from __future__ import annotations

import logging
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

SAMPLE_S = 1.0
"""Time between two questions to the GPU's driver, whose answer is about the last second or less."""

PEAK_LINE = "VmHWM:"
RESIDENT_ERROR = 1.02
"""How far the kernel's two counts of resident memory are apart at most: each is kept by processor."""


class Utilisation:
    """The mean utilisation of a device.

    Of a GPU, NVML's: the share of time in which a kernel of any process ran on it. Of a CPU, this process's time on
    processors as a share of what its threads could have had.

    Args:
        device: the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.begin()

    def begin(self) -> None:
        """Forget what was before."""
        self._percents: list[float] = []
        self._looked = self._began = time.perf_counter()
        self._process_s = time.process_time()

    def look(self) -> None:
        """Ask the GPU's driver, if that is due; called between two steps."""
        if self._device.type == "cuda" and time.perf_counter() - self._looked >= SAMPLE_S:
            self._sample()

    def mean(self) -> float | None:
        """Return the mean since `begin`, from 0 to 1, or None: not known."""
        if self._device.type != "cuda":
            possible_s = (time.perf_counter() - self._began) * torch.get_num_threads()
            return min(1.0, (time.process_time() - self._process_s) / possible_s)
        if not self._percents:
            self._sample()
        return sum(self._percents) / len(self._percents) / 100 if self._percents else None

    def _sample(self) -> None:
        self._looked = time.perf_counter()
        try:
            self._percents.append(torch.cuda.utilization(self._device))
        except Exception as error:  # NVML is not installed, or does not know it of this device (a part of a GPU: MIG)
            logger.debug("the GPU's utilisation is not known: %s", error)


def peak_memory_gib(device: torch.device) -> float | None:
    """Return the most memory used since `reset_peak_memory`: allocated on the GPU, or resident in this process.

    None: not known, because an earlier trial in this process used more, and the system cannot forget that.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    most = _most_resident()
    return most / 2**30 if most > _earlier else None


def reset_peak_memory(device: torch.device) -> None:
    """Forget the memory of trials that ran in this process before; on a CPU, Linux alone can, and not everywhere."""
    global _earlier
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    most = _most_resident()
    _earlier = 0 if most <= RESIDENT_ERROR * _resident() else most


_earlier = 0
"""The most bytes of earlier trials, where they could not be forgotten."""


def _most_resident() -> int:
    """Return the most bytes of this process; `getrusage` alone may tell those of the one that started it."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(PEAK_LINE):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident() -> int:
    """Return the bytes that are resident now; 0: not known."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return 0
