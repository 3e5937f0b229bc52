"""Storage, local and in an object store: found, read, written whole or not at all."""

from __future__ import annotations

import os
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cass_tune import storage
from cass_tune.errors import UsageError
from cass_tune.objects import ObjectPath
from cass_tune.storage import (
    AnyPath,
    local_copy,
    move,
    place,
    read_json,
    remove,
    size,
    sweep,
    whole_file,
    write_json,
    write_text,
)
from tests.disks import names

STEPS = ["opened", "written", "synced", "renamed"]


def tree(folder: AnyPath, pattern: str) -> list[str]:
    """Return what matches, relative to the folder."""
    return sorted(str(path).removeprefix(f"{folder}/") for path in folder.glob(pattern))


# Addresses


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://my.bucket-1_x//some/./folder/", "s3://my.bucket-1_x/some/folder"),
        (Path("s3://bucket/some"), "s3://bucket/some"),  # one slash
        (ObjectPath(("bucket", "a")), "s3://bucket/a"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_an_object_store_is_an_address(text: str | Path | ObjectPath, shown: str) -> None:
    found = place(text)
    assert isinstance(found, ObjectPath) and str(found) == shown and place(str(found)) == found
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize("text", ["results", "./a/b", Path("a"), "a:b", "/a/s3:x"])
def test_everything_else_is_a_local_folder(tmp_path: Path, text: str | Path) -> None:
    assert place(text) == tmp_path / text
    assert place("~/results") == Path.home() / "results"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gs://bucket/a", "an address that begins with gs://"),
        ("https://name:SECRET@host/SECRET", "an address that begins with https://"),
        ("s3://", "got s3://. The bucket has 3 to 63 letters"),
        ("s3:///", "got s3://. The bucket"),
        ("s3://ab/folder", "got s3://ab/folder. The bucket"),
        ("s3://bücket/folder", "got s3://bücket/folder. The bucket"),
        ("s3://bucket/../other", "got s3://bucket/../other. The bucket"),
        ("s3://name:SECRET@bucket/folder", "got s3://...@bucket/folder. The bucket"),
        ("s3://name:SECRET/of/SECRET+more@bucket/folder", "got s3://...@bucket/folder. The bucket"),
        ("s3://bucket/folder?secret_key=SECRET@x/SECRET", "got s3://bucket/folder. The bucket"),
    ],
)
def test_other_addresses_are_refused_without_showing_secrets(text: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        place(text)
    assert expected in str(caught.value) and "SECRET" not in str(caught.value).replace("AWS_SECRET", "")


def test_paths_of_both_kinds_have_the_same_parts(root: AnyPath) -> None:
    path = root / "trials" / "a.b/model.tar.gz"
    assert (path.name, path.stem, path.suffix) == ("model.tar.gz", "model.tar", ".gz")
    assert str(path) == f"{root}/trials/a.b/model.tar.gz"
    assert path.parent == root / "trials/a.b" and path.with_name("log.txt") == root / "trials/a.b/log.txt"
    assert list(path.parents)[:3] == [root / "trials" / "a.b", root / "trials", root]
    assert path.absolute() == path and sorted([path, root]) == [root, path]  # type: ignore[type-var]
    top = list(path.parents)[-1]
    assert top.name == "" and top.parent == top and not list(top.parents)


# Reading and writing


def test_a_file_is_written_read_and_replaced(root: AnyPath) -> None:
    path = root / "new" / "file.txt"
    assert not path.exists() and not path.is_file() and not path.is_dir() and not root.is_dir()
    path.parent.mkdir(parents=True, exist_ok=True)
    for text in ("old ä", "new and longer", ""):
        write_text(path, text)
        assert (path.read_text(encoding="utf-8"), path.read_bytes()) == (text, text.encode())
        assert size(path) == len(text.encode())
    path.write_text("direct", encoding="utf-8")
    assert path.read_text() == "direct"
    path.write_bytes(b"\xff\0")
    assert path.read_bytes() == b"\xff\0" and path.read_text(errors="replace") == "\ufffd\0"
    assert path.exists() and path.is_file() and not path.is_dir()
    assert root.exists() and root.is_dir() and not root.is_file()
    assert names(root) == ["new"] and names(root / "new") == ["file.txt"]


def test_what_is_missing(root: AnyPath) -> None:
    write_text(root / "file.txt", "x")
    for missing in (root / "nothing", root / "nothing" / "below", root / "file"):
        with pytest.raises(FileNotFoundError, match=re.escape(str(missing))):
            missing.read_bytes()
        for ask in (missing.unlink, lambda path=missing: list(path.iterdir()), lambda path=missing: size(path)):
            with pytest.raises(FileNotFoundError):
                ask()
        with pytest.raises(FileNotFoundError):
            move(missing, root / "target")
        with pytest.raises(FileNotFoundError), local_copy(missing) as copy:
            copy.read_bytes()
        missing.unlink(missing_ok=True)
        remove(missing)
        assert read_json(missing) is None and not list(missing.glob("*"))
    remove(root / "file.txt" / "below")
    assert read_json(root / "file.txt" / "below") is None
    assert names(root) == ["file.txt"]


def test_folders_are_listed(root: AnyPath) -> None:
    for name in ("a/plans/1.json", "a/plans/2.json", "b/plans/1.json", "b/other/1.json", "plans/x.json", "c.json"):
        write_text(root / name, name)
    assert names(root) == ["a", "b", "c.json", "plans"]
    assert tree(root, "*/plans") == ["a/plans", "b/plans"]
    assert tree(root, "*/*/1.json") == ["a/plans/1.json", "b/other/1.json", "b/plans/1.json"]
    assert tree(root, "*.json") == ["c.json"] and tree(root, "a/plans/[1]*") == ["a/plans/1.json"]
    assert tree(root, "a/plans") == ["a/plans"] and tree(root, "a/none") == tree(root, "none/*") == []
    assert tree(root, "?") == ["a", "b"] and tree(root, "c.json/*") == []


def test_a_file_and_a_folder_are_moved_and_removed(root: AnyPath) -> None:
    for name in ("a/1.txt", "a/below/2.txt", "ab/3.txt"):
        write_text(root / name, name)
    move(root / "a/1.txt", root / "a/one.txt")
    assert (root / "a/one.txt").read_text() == "a/1.txt" and names(root / "a") == ["below", "one.txt"]
    move(root / "a", root / "c")
    assert (root / "c/below/2.txt").read_text() == "a/below/2.txt"
    assert names(root) == ["ab", "c"], "a folder whose name begins the same stays"
    remove(root / "c/one.txt")
    assert names(root / "c") == ["below"]
    (root / "c/below/2.txt").unlink()
    remove(root / "c")
    assert names(root) == ["ab"]


def test_json(root: AnyPath) -> None:
    path = root / "record.json"
    assert read_json(path) is None
    write_json(path, {"a": None, "ä": [1, 2.5]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert read_json(path) == {"a": None, "ä": [1, 2.5]} and names(root) == ["record.json"]
    for damage in (b'{"half": ', b"\xff\xfe", b""):
        path.write_bytes(damage)
        with pytest.raises(UsageError, match=f"^{re.escape(str(path))} is damaged: .*Delete it"):
            read_json(path)


def test_json_that_grows_while_it_is_read_is_not_damaged(bucket: ObjectPath) -> None:
    path, stop = bucket / "record.json", threading.Event()

    def grow() -> None:
        text = "x"
        while not stop.is_set():
            text += "y" * 50
            write_json(path, {"text": text})

    write_json(path, {"text": "x"})
    with ThreadPoolExecutor(1) as thread:
        growing = thread.submit(grow)
        try:
            lengths = [len(read_json(path)["text"]) for _ in range(100)]  # type: ignore[index]
        finally:
            stop.set()
        growing.result()
    assert lengths == sorted(lengths) and lengths[-1] > lengths[0]


def test_a_local_copy(root: AnyPath) -> None:
    path = root / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 1000)
    with local_copy(path) as copy:
        assert copy.name == "model.safetensors" and copy.read_bytes() == b"x" * 1000
        assert (copy == path) is isinstance(root, Path)
    assert copy.exists() is isinstance(root, Path), "a temporary copy goes"
    assert path.read_bytes() == b"x" * 1000


def test_what_killed_writers_left_is_swept_away(tmp_path: Path) -> None:
    for name in (".000001.safetensors.1a2b3c4d.tmp", "000001.safetensors", ".holder.lock"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert names(tmp_path) == [".holder.lock", "000001.safetensors"]
    sweep(tmp_path / "missing")


# Whole or not at all


def test_content_changes_at_one_of_the_steps(root: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = root / "file.txt", []
    write_text(path, "old")
    monkeypatch.setattr(storage, "between_steps", lambda step, at: seen.append((step, at, path.read_text())))
    write_text(path, "new")
    assert seen == [
        ("opened", path, "old"),
        ("written", path, "old"),
        ("synced", path, "old"),
        ("renamed", path, "new"),
    ]


def test_a_local_file_is_on_the_disk_before_and_its_name_after_the_renaming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = [], os.fsync

    def note(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, (tmp_path / "file.txt").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write_text(tmp_path / "file.txt", "x")
    assert synced == [((tmp_path / "file.txt").stat().st_ino, False), (tmp_path.stat().st_ino, True)]


@pytest.mark.parametrize("failing", STEPS)
def test_an_error_at_a_step_leaves_the_old_content_or_the_new_and_nothing_else(
    root: AnyPath, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(step: str, path: AnyPath) -> None:
        if step == failing:
            raise RuntimeError(step)

    write_text(root / "file.txt", "old")
    monkeypatch.setattr(storage, "between_steps", fail)
    with pytest.raises(RuntimeError, match=failing):
        write_text(root / "file.txt", "new")
    assert (root / "file.txt").read_text() == ("new" if failing == "renamed" else "old")
    assert names(root) == ["file.txt"]


def test_nothing_written_is_an_error(root: AnyPath) -> None:
    write_text(root / "file.txt", "old")
    with pytest.raises(FileNotFoundError), whole_file(root / "file.txt"):
        pass
    assert (root / "file.txt").read_text() == "old" and names(root) == ["file.txt"]
