"""Paths of objects in a store, in the place of those of files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cass_tune import object_store
from cass_tune.disk import explained_deletion

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo


@dataclass(frozen=True, order=True, repr=False)
class ObjectPath:
    """An object or a folder of objects: the part of `pathlib.Path` that records need.

    A folder is there when something lies below it, or lay there until it was deleted; there is no need to make it.
    Everything that asks the store raises a `StorageError` when it is away for `PATIENCE_S` or refuses.

    Args:
        parts: the bucket and the parts of the key.
    """

    parts: tuple[str, ...]

    def __str__(self) -> str:
        return object_store.address(self.key)

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __truediv__(self, below: str) -> ObjectPath:
        return ObjectPath((*self.parts, *parts_of(below)))

    @property
    def key(self) -> str:
        """The path as pyarrow wants it: ``bucket/prefix``."""
        return "/".join(self.parts)

    @property
    def bucket(self) -> str:
        return self.parts[0]

    @property
    def name(self) -> str:
        """The last part; empty for a bucket, as for the root of a file system."""
        return self.parts[-1] if len(self.parts) > 1 else ""

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.parts[:-1] or self.parts)

    @property
    def parents(self) -> tuple[ObjectPath, ...]:
        return tuple(ObjectPath(self.parts[:end]) for end in range(len(self.parts) - 1, 0, -1))

    def with_name(self, name: str) -> ObjectPath:
        return self.parent / name

    def absolute(self) -> ObjectPath:
        return self

    def exists(self) -> bool:
        return self._info().type.name != "NotFound"

    def is_file(self) -> bool:
        return self._info().type.name == "File"

    def is_dir(self) -> bool:
        return self._info().type.name == "Directory"

    def iterdir(self) -> Iterator[ObjectPath]:
        """Yield what lies directly in the folder.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        return iter([_of(info) for info in self._listed()])

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Yield what lies below and matches: parts as `fnmatch` knows them, such as ``*/plans``; no ``**``."""
        first, _, rest = pattern.partition("/")
        if re.search(r"[*?[]", first):
            listed = self._listed(missing_ok=True)
            found = [_of(info) for info in listed if info.type.name == "Directory" or not rest]
            below = [path for path in found if fnmatchcase(path.name, first)]
        else:
            below = [self / first] if rest or (self / first).exists() else []
        for path in below:
            yield from path.glob(rest) if rest else (path,)

    def read_bytes(self) -> bytes:
        """Return the content.

        Raises:
            FileNotFoundError: there is no such object.
        """
        return object_store.read(self.key)

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the content as text, line ends as they are; errors as in `read_bytes`."""
        return self.read_bytes().decode(encoding, errors)

    def write_bytes(self, data: bytes) -> None:
        """Write the object whole or not at all."""
        object_store.write(self.key, data)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Write the object whole or not at all."""
        object_store.write(self.key, text.encode(encoding))

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object.

        Raises:
            FileNotFoundError: there is none, and ``missing_ok`` is false.
        """
        if not missing_ok and not self.is_file():
            raise object_store.missing(self.key)
        with suppress(FileNotFoundError):
            object_store.ask(self.key, lambda store: store.delete_file(self.key))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a folder is there when something lies in it."""

    def rename(self, target: ObjectPath) -> ObjectPath:
        """Copy an object, or one by one all that lie in a folder, and delete them; return the target.

        Raises:
            FileNotFoundError: there is nothing to rename.
        """
        files = [self] if self.is_file() else [_of(i) for i in self._listed(recursive=True) if i.type.name == "File"]
        for path in files:
            key = f"{target.key}{path.key.removeprefix(self.key)}"
            object_store.ask(path.key, lambda store, source=path.key, key=key: store.copy_file(source, key))
        self.delete()
        return target

    def delete(self) -> None:
        """Delete the object, or the folder with all that lies below; a missing one is fine."""
        with explained_deletion(self, None):
            is_folder = self.is_dir()
            object_store.ask(
                self.key, lambda store: store.delete_dir(self.key) if is_folder else store.delete_file(self.key)
            )

    def size(self) -> int:
        """Return the size in bytes.

        Raises:
            FileNotFoundError: there is no such object.
        """
        found = self._info().size
        if found is None:
            raise object_store.missing(self.key)
        return found

    def _info(self) -> FileInfo:
        return object_store.ask(self.key, lambda store: store.get_file_info(self.key))

    def _listed(self, *, recursive: bool = False, missing_ok: bool = False) -> list[FileInfo]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(self.key, allow_not_found=missing_ok, recursive=recursive)
        return object_store.ask(self.key, lambda store: store.get_file_info(selector))


def parts_of(text: str) -> list[str]:
    """Return the parts of a path that slashes separate."""
    return [part for part in text.split("/") if part not in ("", ".")]


def _of(info: FileInfo) -> ObjectPath:
    return ObjectPath(tuple(info.path.split("/")))
