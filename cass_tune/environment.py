"""What a trial ran on: versions, commit, device, host. Recorded beside each result, never part of an identity."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("cass-tune", "ray", "torch", "torchvision", "timm", "torchmetrics", "numpy", "pillow", "pandas", "pyarrow")
"""Packages whose versions are recorded."""

NUMERIC_PACKAGES = ("ray", "torch", "torchvision", "timm", "torchmetrics", "numpy", "pillow")
"""Packages that must agree between the driver and every node of a cluster."""


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return installed versions by package, and Python's; a package that is not installed is ``none``."""
    return {"python": platform.python_version(), **{name: _installed(name) for name in packages}}


@functools.cache
def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


@functools.cache
def source_digest() -> str:
    """Return the first digits of the SHA-256 of this package's source, which needs no checkout to be known."""
    here = Path(__file__).resolve().parent
    total = hashlib.sha256()
    for path in sorted(here.rglob("*.py")):
        content = path.read_bytes()
        total.update(f"{path.relative_to(here).as_posix()} {len(content)} ".encode() + content)
    return total.hexdigest()[:12]


@functools.cache
def commit() -> str | None:
    """Return the git commit of this code, with ``+changes`` when files differ from it, or None outside its checkout."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != here.parent:
            return None  # installed somewhere below another project's checkout
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def processor() -> str:
    """Return the name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def device_name(device: str, threads: int) -> str:
    """Return for example ``cuda (NVIDIA H200)`` or ``cpu (AMD EPYC 9R14, 1 thread)``."""
    if device.startswith("cuda"):
        import torch

        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({processor()}, {threads} thread{'s' if threads > 1 else ''})"


def describe(device: str, threads: int, commit: str | None) -> dict[str, Any]:
    """Return the record that goes into environment.json.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of one operation.
        commit: of the driver's code (`commit`): the copy that a cluster's node runs knows none.
    """
    return {
        "versions": versions(),
        "commit": commit,
        "devices": [device_name(device, threads)],
        "threads": threads,
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "executable": sys.executable,
        "cpus": os.cpu_count(),
    }
