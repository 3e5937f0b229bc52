"""GPUs: which there are, which precisions they have, and what `--precision auto` makes of them."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cass_tune.config import Trial
from cass_tune.errors import UsageError

LEAST = {"fp16": (7, 0), "tf32": (8, 0), "bf16": (8, 0)}
"""Compute capability from which on an NVIDIA GPU has matrix units for a format: fp16 since Volta, tf32 and bf16 since
Ampere (CUDA programming guide, "Compute Capabilities", table of tensor core input types)."""

AUTO = ("bf16", "fp16")
"""What `auto` takes, the first that every GPU has; otherwise fp32."""

LEAST_BF16_PX = 17
"""Height and width of images from which on torch's bf16 convolutions on the CPU are right: over less, a network that
halves them five times comes to one pixel, of which oneDNN gives a stride-2 convolution undefined gradients (torch 2.15,
Zen 4)."""

ASK = """
import json, torch
numbers = range(torch.cuda.device_count())
found = [torch.cuda.get_device_properties(n) for n in numbers]
print(json.dumps([[each.name, [each.major, each.minor], each.total_memory / 2**30] for each in found]))
"""
ANSWER_S = 120.0


@dataclass(frozen=True, order=True)
class Gpu:
    """A kind of GPU.

    Args:
        name: for example ``NVIDIA H200``.
        capability: CUDA compute capability, for example (9, 0).
        total_gib: its memory; 0 where nobody asks for it.
    """

    name: str
    capability: tuple[int, int]
    total_gib: float = 0.0

    def has(self, precision: str) -> bool:
        """Return whether it has matrix units for a precision; fp32 needs none."""
        return precision == "fp32" or self.capability >= LEAST[precision]

    def __str__(self) -> str:
        return f"{self.name} (compute capability {_version(self.capability)})"


def _version(capability: Sequence[int]) -> str:
    return ".".join(map(str, capability))


@functools.cache
def gpus_here() -> tuple[Gpu, ...]:
    """Return the kinds of GPU that torch sees on this machine, each once.

    Another process asks torch: a process that has done so keeps a part of every GPU's memory.

    Raises:
        UsageError: torch cannot tell.
    """
    try:
        done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=ANSWER_S, check=True)
        found = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        raise UsageError(
            f"torch cannot tell which GPUs there are: {' '.join(said)[:200]} Mend that, or give --device cpu."
        ) from error
    return tuple(sorted({Gpu(name, tuple(capability), gib) for name, capability, gib in found}))


def auto(gpus: Sequence[Gpu]) -> str:
    """Return the precision that `auto` stands for: one for all trials, so that a table is of one kind.

    Args:
        gpus: kinds that trials may run on; none where they run on the CPU.
    """
    return next((name for name in AUTO if gpus and all(gpu.has(name) for gpu in gpus)), "fp32")


def auto_line(gpus: Sequence[Gpu]) -> str:
    """Return what `auto` stands for, and why; arguments as in `auto`."""
    name = auto(gpus)
    if not gpus:
        return f"precision: {name}, because there is no GPU for the trials, and on a CPU fewer bits hardly pay"
    lacking = {better: [gpu for gpu in gpus if not gpu.has(better)] for better in AUTO[: (*AUTO, "fp32").index(name)]}
    if not lacking:
        return f"precision: {name}, on {_and(gpus)}"
    return f"precision: {name}, because {' and '.join(f'{_and(old)} has no {new}' for new, old in lacking.items())}"


def _and(gpus: Iterable[Gpu]) -> str:
    return ", ".join(dict.fromkeys(map(str, gpus)))


def check_precisions(trials: Iterable[Trial], gpus: Sequence[Gpu]) -> None:
    """Raise a UsageError with every precision that trials ask for and a device does not have.

    Args:
        trials: to be run.
        gpus: kinds that trials may run on; none where they run on the CPU.
    """
    problems = [text for trial in trials for text in _problems(trial, gpus)]
    if problems:
        raise UsageError(*dict.fromkeys(problems))


def _problems(trial: Trial, gpus: Sequence[Gpu]) -> Iterable[str]:
    phases = {"finetune": trial.finetune.precision}
    if trial.pretrain.method != "none":
        phases["pretrain"] = trial.pretrain.precision
    for phase, name in phases.items():
        what = f"--{phase}.precision {name}"
        if gpus:
            yield from (_too_old(what, name, gpu) for gpu in gpus if not gpu.has(name))
        elif name == "tf32":
            yield f"{what} is a format of GPUs, and trials run on the CPU. Give fp32, or bf16."
        elif name == "bf16" and _smallest_px(trial, phase) < LEAST_BF16_PX:
            yield (
                f"{what} on the CPU needs images, and DINO's small crops, of at least {LEAST_BF16_PX} px, but got "
                f"{_smallest_px(trial, phase)}: torch's gradients are undefined there. Give fp32, or larger ones."
            )


def _too_old(what: str, name: str, gpu: Gpu) -> str:
    return (
        f"{what} needs a GPU of compute capability {_version(LEAST[name])} or newer, but there is {gpu}. "
        f"Give {auto([gpu])}, or --precision auto, or leave that GPU out."
    )


def _smallest_px(trial: Trial, phase: str) -> int:
    """Return the height and width of the smallest images that the networks see."""
    if phase == "pretrain" and trial.pretrain.method == "dino" and trial.dino.local_crops:
        from cass_tune.methods.dino import local_crop_px  # brings torch

        return min(trial.data.image_size_px, local_crop_px(trial))
    return trial.data.image_size_px
