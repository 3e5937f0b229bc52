"""Files of tensors (safetensors), written whole or not at all, and checked when they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load, save_file
from torch import Tensor

from cass_tune.errors import StorageError
from cass_tune.patience import patiently
from cass_tune.storage import AnyPath, explained, whole_file


def write_tensors(path: AnyPath, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write tensors and return the SHA-256 of the file, 64 hexadecimal digits.

    Args:
        path: of the file.
        tensors: by name, on any device.
        metadata: texts beside them.

    Raises:
        StorageError: the file cannot be written; says how large it is.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with whole_file(path) as temporary:
            save_file(on_cpu, temporary, dict(metadata) if metadata else None)
            _sort_metadata(temporary)
            return _sha256(temporary)
    except StorageError as error:
        size = sum(tensor.nbytes for tensor in on_cpu.values())
        raise StorageError(error.errno, f"{error.strerror} The file takes {size:,} bytes.") from error


def read_tensors(path: AnyPath, sha256: str) -> dict[str, Tensor]:
    """Return the tensors of a file.

    The file is read, not mapped: another process may delete it meanwhile.

    Args:
        path: of the file.
        sha256: what `write_tensors` returned.

    Raises:
        ValueError: the content is not what was written.
        FileNotFoundError: there is no such file.
        StorageError: it cannot be read.
    """
    content = patiently(lambda: _content(path))
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"the content of {path.name} was changed")
    return load(content)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _content(path: AnyPath) -> bytes:
    with explained(path, "read"):
        return path.read_bytes()


def _sort_metadata(path: Path) -> None:
    """Bring the metadata in order, so that equal tensors make equal files; safetensors orders them by chance.

    The header is JSON of the length that the first eight bytes give
    (https://github.com/huggingface/safetensors#format).
    """
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        if not header["__metadata__"]:
            return
        ordered = {"__metadata__": header.pop("__metadata__"), **header}
        text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(text) == length:
            stream.seek(8)
            stream.write(text)
