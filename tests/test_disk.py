"""A local disk that fails: an error says where, and what to do."""

from __future__ import annotations

import errno
import os
import pickle
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cass_tune import storage
from cass_tune.errors import StorageError
from cass_tune.lines import Lines
from cass_tune.objects import ObjectPath
from cass_tune.storage import AnyPath, local_copy, remove, whole_file, write_text
from tests.disks import locked, make_read_only, names, small_disk

MIB = 2**20

CODES = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space",
    errno.EROFS: "Make it writable",
    errno.EACCES: "Make it writable",
    errno.EIO: "Check that the disk works and is mounted",
    errno.ESTALE: "Check that the disk works and is mounted",
    errno.ETIMEDOUT: "Check that the disk works and is mounted",
}


@pytest.mark.parametrize("code", CODES)
def test_an_error_of_the_disk_says_where_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail(step: str, at: AnyPath) -> None:
        if step == "synced":
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(storage, "between_steps", fail)
    with pytest.raises(StorageError) as caught:
        write_text(path, "new")
    text = re.sub(r"[\d,]+ bytes", "N bytes", str(caught.value))
    advice = f"{CODES[code]}, or name another folder with --results DIR."
    assert text == f"Cannot write {path}: {os.strerror(code)} (N bytes free there). {advice}"
    assert caught.value.errno == code and pickle.loads(pickle.dumps(caught.value)).errno == code
    assert path.read_text() == "old" and names(tmp_path) == ["file.txt"]


def test_other_errors_are_left_as_they_are(tmp_path: Path) -> None:
    elsewhere = OSError(errno.ENOSPC, "No space left on device", "/elsewhere/file")
    for error in (elsewhere, ValueError("a value"), OSError(errno.EEXIST, "there")):
        with pytest.raises(type(error)) as caught, whole_file(tmp_path / "file.txt"):
            raise error
        assert caught.value is error
    rust = Exception("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(StorageError, match="No space left on device"), whole_file(tmp_path / "file.txt"):
        raise rust


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk that has room for 1 MiB; where none can be mounted, a folder in which writing fails in the same way."""

    def fail(step: str, at: AnyPath) -> None:
        if step == "written":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with small_disk(tmp_path / "disk", MIB) as mounted:
        (tmp_path / "disk" / "file.txt").write_text("old")
        if not mounted:
            monkeypatch.setattr(storage, "between_steps", fail)
        yield tmp_path / "disk"


def test_a_full_disk(full_disk: Path) -> None:
    with pytest.raises(
        StorageError, match=rf"^Cannot write {full_disk}/file.txt: No space left on device \([\d,]+ byt"
    ):
        write_text(full_disk / "file.txt", "x" * 2 * MIB)
    assert (full_disk / "file.txt").read_text() == "old" and names(full_disk) == ["file.txt"]


def test_no_room_for_the_transfer(full_disk: Path, bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bucket / "large"
    path.write_bytes(b"0" * 2 * MIB)
    monkeypatch.setattr(tempfile, "tempdir", str(full_disk))
    expected = rf"^Cannot keep {path} in {full_disk} for the transfer: No space left .*environment variable TMPDIR\.$"
    with pytest.raises(StorageError, match=expected), whole_file(path) as temporary:
        temporary.write_bytes(b"1" * 2 * MIB)
    if os.path.ismount(full_disk):
        with pytest.raises(StorageError, match=expected), local_copy(path):
            pass
    assert names(full_disk) == ["file.txt"]


def test_a_folder_that_may_not_be_entered(tmp_path: Path) -> None:
    folder = tmp_path / "secret"
    write_text(folder / "file.txt", "old")
    with locked(folder):
        with pytest.raises(
            StorageError, match=rf"^Cannot write {folder}/file.txt: Permission denied.*Make it writable"
        ):
            write_text(folder / "file.txt", "new")
        with pytest.raises(StorageError, match=rf"^Cannot delete {folder}/file.txt: Permission denied"):
            remove(folder / "file.txt")
        lines = Lines(folder / "log.txt")
        lines.append("x")
        with pytest.raises(StorageError, match=rf"^Cannot write {folder}/log.txt: Permission denied"):
            lines.close()
    assert (folder / "file.txt").read_text() == "old" and names(folder) == ["file.txt"]


def test_a_read_only_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "disk"
    with small_disk(folder, MIB) as mounted:
        write_text(folder / "below" / "file.txt", "old")
        if mounted:
            make_read_only(folder)
        else:
            monkeypatch.setattr(os, "open", read_only)
            monkeypatch.setattr(os, "unlink", read_only)
        with pytest.raises(StorageError, match=r"Cannot write .*file.txt: Read-only file system .*Make it writable"):
            write_text(folder / "below" / "file.txt", "new")
        for path in (folder / "below" / "file.txt", folder / "below"):
            with pytest.raises(StorageError, match=f"^Cannot delete {path}: Read-only file system"):
                remove(path)
        remove(folder / "nothing")
        assert (folder / "below" / "file.txt").read_text() == "old"
        monkeypatch.undo()


def read_only(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_link_is_removed_and_not_what_it_points_to(tmp_path: Path) -> None:
    write_text(tmp_path / "there/file.txt", "x")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    remove(tmp_path / "link")
    remove(tmp_path / "broken")
    assert names(tmp_path) == ["there"] and names(tmp_path / "there") == ["file.txt"]


def test_a_folder_from_which_another_process_deletes_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    for number in range(5):
        write_text(folder / f"{number}.txt", "x")
    unlink = os.unlink

    def unlink_twice(*args: object, **options: object) -> None:
        monkeypatch.setattr(os, "unlink", unlink)
        for _ in range(2):
            unlink(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "unlink", unlink_twice)
    remove(folder)
    assert not folder.exists()
