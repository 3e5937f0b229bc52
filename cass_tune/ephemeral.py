"""Does a results root look as if it would vanish with the machine? Then the user is warned before work is put there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cass_tune.storage import AnyPath

_CLOUD_NAMES = ("Amazon EC2", "Google", "OracleCloud", "Alibaba Cloud", "DigitalOcean", "Hetzner", "Scaleway", "Vultr")
"""What cloud machines call themselves in their firmware; Microsoft's name is on laptops, too."""
_AZURE = "7783-7084-3265-9085-8269-3286-77"
_FIRMWARE = ("sys_vendor", "product_name", "board_vendor", "bios_vendor", "chassis_asset_tag")
_MEMORY = ("tmpfs", "ramfs")
_CONTAINER = ("overlay", "aufs")
_KEPT = {"/content": ("/content/drive",), "/kaggle": ("/kaggle/working",), "/tmp": (), "/var/tmp": (), "/run": ()}
"""Folders that go with a notebook's or cloud's machine, and what of them stays."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What tells a machine that may be taken away.

    Args:
        environment: environment variables.
        firmware: folder of the firmware's texts.
        mounts: file that lists the file systems.
    """

    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    firmware: Path = Path("/sys/class/dmi/id")
    mounts: Path = Path("/proc/mounts")

    def notebook(self) -> str | None:
        """Return the name of the notebook service that this is, or None."""
        for variable, name in (("COLAB_RELEASE_TAG", "Google Colab"), ("KAGGLE_KERNEL_RUN_TYPE", "Kaggle")):
            if variable in self.environment:
                return name
        return None

    def is_cloud(self) -> bool:
        """Return whether this looks like a rented machine."""
        texts = [_text(self.firmware / name) for name in _FIRMWARE]
        named = any(name in text for text in texts for name in _CLOUD_NAMES) or _AZURE in texts
        return named or "KUBERNETES_SERVICE_HOST" in self.environment or self.notebook() is not None

    def file_system(self, path: Path) -> str:
        """Return the type of the file system that a path lies in, or an empty text."""
        best, kind = "", ""
        for line in _text(self.mounts).splitlines():
            words = line.split()
            if len(words) < 3 or not path.is_relative_to(words[1]):
                continue
            if len(words[1]) >= len(best):  # of two on one place the later one counts
                best, kind = words[1], words[2]
        return kind


def ephemeral(root: AnyPath, machine: Machine | None = None) -> str | None:
    """Return a warning when what is written below a results root would be lost with the machine, or None.

    Args:
        root: results root.
        machine: what to judge by; this machine by default.
    """
    machine = machine or Machine()
    if not isinstance(root, Path) or not machine.is_cloud():
        return None
    place = _resolved(root)
    reason = _reason(place, machine)
    if reason is None:
        return None
    return (
        f"The results root {root} {reason}: all work is lost with this machine. Give a mounted disk or a bucket "
        "(--results DIR or s3://BUCKET/PREFIX)."
    )


def _reason(place: Path, machine: Machine) -> str | None:
    kind = machine.file_system(place)
    if kind in _MEMORY:
        return "lies in memory"
    temporary = {**_KEPT, str(_resolved(Path(tempfile.gettempdir()))): ()}
    for folder, kept in temporary.items():
        if place.is_relative_to(folder) and not any(place.is_relative_to(path) for path in kept):
            notebook = machine.notebook()
            return f"is deleted when the {notebook} session ends" if notebook else "is a temporary folder"
    return "lies in the container's own file system" if kind in _CONTAINER else None


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
