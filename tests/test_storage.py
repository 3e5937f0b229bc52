"""Storage, local and in an object store: whole or not at all, patient for a while, clear when it fails."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cass_tune import storage
from cass_tune.errors import StorageError, UsageError
from cass_tune.lines import Lines
from cass_tune.objects import ObjectPath
from cass_tune.results import Results
from cass_tune.storage import (
    AnyPath,
    local_copy,
    move,
    place,
    read_json,
    remove,
    size,
    whole_file,
    write_json,
    write_text,
)
from tests.disks import locked, make_read_only, small_disk
from tests.objects import ACCESS_KEY, SECRET_KEY, ObjectStore

REASONS = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID")
REPOSITORY = Path(__file__).parents[1]
STEPS = ["opened", "written", "synced", "renamed"]
LARGE = 11 * 2**20
"""Bytes of a file that is uploaded in parts."""
MIB = 2**20

UPLOADER = """
import signal, sys
from cass_tune import storage

storage._REQUESTS = 1

def end(*_):
    raise SystemExit(3)

signal.signal(signal.SIGTERM, end)
storage.place(sys.argv[1]).write_bytes(b"1" * int(sys.argv[2]))
"""

INTERRUPTED = """
import os, random, signal, sys
from cass_tune import storage

class Ended(Exception):
    pass

class Store:
    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)

    def open_output_stream(self, *key, **options):
        stream = self.real.open_output_stream(*key, **options)
        if at_once:
            os.kill(os.getpid(), signal.SIGALRM)
        return stream

def end(*_):
    raise Ended

signal.signal(signal.SIGALRM, end)
connection = storage._connection
storage._connection = lambda *words: Store(connection(*words))
storage._connection.cache_clear = connection.cache_clear
path, at_once = storage.place(sys.argv[1]), False
path.write_text(f"<{0:0100d}>")
for number in range(60):
    at_once = number % 2
    try:
        signal.setitimer(signal.ITIMER_REAL, 0 if at_once else random.uniform(1e-4, 0.01))
        path.write_text(f"<{number:0100d}>")
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert not at_once
    except Ended:
        pass
    text = path.read_text()
    assert len(text) == 102 and text[0] + text[-1] == "<>", text
    assert not at_once or int(text[1:-1]) == number
"""


def wait_until(condition: Callable[[], object], limit_s: float = 30.0) -> None:
    """Return when a condition holds; fail when it does not in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def names(folder: AnyPath) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tree(folder: AnyPath, pattern: str) -> list[str]:
    """Return what matches, relative to the folder."""
    return sorted(str(path).removeprefix(f"{folder}/") for path in folder.glob(pattern))


def free_port() -> int:
    """Return a port of loopback where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def bucket(object_store: ObjectStore) -> ObjectPath:
    """An empty bucket."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    object_store.make_bucket(name)
    path = place(f"s3://{name}")
    assert isinstance(path, ObjectPath)
    return path


@pytest.fixture(params=["local", "object store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    """A results root of either kind, not made yet."""
    return (tmp_path if request.param == "local" else request.getfixturevalue("bucket")) / "results"


@pytest.fixture
def quick(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every request once, do not wait long for an answer, and try again soon."""
    for name, value in {"_REQUESTS": 1, "_ANSWER_S": 1.0, "_FIRST_DELAY_S": 0.01}.items():
        monkeypatch.setattr(storage, name, value)


@pytest.fixture
def impatient(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after one try."""
    monkeypatch.setattr(storage, "PATIENCE_S", 0.0)


@pytest.fixture
def away(impatient: None, monkeypatch: pytest.MonkeyPatch) -> ObjectPath:
    """A bucket whose store cannot be reached."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    return ObjectPath((f"away-{uuid.uuid4().hex[:12]}",))


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what storage has logged so far."""
    caplog.set_level(logging.INFO, "cass_tune.storage")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "cass_tune.storage"]


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


def test_large_files_go_and_come_whole(object_store: ObjectStore, bucket: ObjectPath) -> None:
    content = os.urandom(LARGE)
    with whole_file(bucket / "large") as temporary:
        temporary.write_bytes(content)
        assert object_store.objects(bucket.bucket) == {}
    assert object_store.objects(bucket.bucket) == {"large": LARGE} and object_store.uploads(bucket.bucket) == []
    with local_copy(bucket / "large") as copy:
        assert copy.read_bytes() == content
    assert (bucket / "large").read_bytes() == content and size(bucket / "large") == LARGE


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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_upload_that_is_ended_in_the_middle_leaves_the_old_object(
    object_store: ObjectStore, bucket: ObjectPath, number: signal.Signals
) -> None:
    path = bucket / "model"
    path.write_bytes(b"0" * LARGE)
    command = [sys.executable, "-c", UPLOADER, str(path), str(3 * LARGE)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with object_store.failing("PUT .*partNumber=3"), subprocess.Popen(command, env=environment) as process:
        try:
            wait_until(lambda: object_store.uploads(bucket.bucket) or len(object_store.objects(bucket.bucket)) > 1)
            process.send_signal(number)
            assert process.wait(60) == (-9 if number == signal.SIGKILL else 3)
        finally:
            process.kill()
    assert object_store.content(bucket.bucket, "model") == b"0" * LARGE
    if number != signal.SIGKILL:
        assert object_store.objects(bucket.bucket) == {"model": LARGE}, "what has arrived is deleted"


def test_a_small_upload_is_whole_whenever_a_signal_comes(bucket: ObjectPath) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(bucket / "record.json")]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


# An object store that fails


@pytest.mark.parametrize(
    ("pattern", "length"),
    [
        ("PUT .*/file", 10),
        ("PUT .*partNumber=1", LARGE),
        ("PUT .*partNumber=2", LARGE),
        ("POST .*uploadId=", LARGE),
        ("PUT /[^/]*/file[?]", LARGE),  # the copy to its own name
    ],
)
def test_an_upload_of_which_a_request_fails_is_repeated(
    object_store: ObjectStore,
    bucket: ObjectPath,
    told: Callable[[], list[str]],
    quick: None,
    pattern: str,
    length: int,
) -> None:
    path = bucket / "file"
    with object_store.failing(pattern, times=1):
        path.write_bytes(b"x" * length)
    assert object_store.content(bucket.bucket, "file") == b"x" * length
    assert list(object_store.objects(bucket.bucket)) == ["file"]
    warning, information = told()
    assert warning.startswith(
        f"{path} cannot be reached, which is tried again for 120 s: AWS Error SERVICE_UNAVAILABLE"
    )
    assert information == f"{bucket} can be reached again"


@pytest.mark.parametrize("length", [10, 2 * LARGE])
def test_an_upload_that_fails_for_good_leaves_the_old_object(
    object_store: ObjectStore, bucket: ObjectPath, impatient: None, length: int
) -> None:
    path = bucket / "file"
    path.write_text("old")
    with object_store.failing("PUT .*partNumber=2" if length > LARGE else "PUT"):
        with pytest.raises(StorageError, match=f"^{path} cannot be reached, tried for .*SERVICE_UNAVAILABLE"):
            path.write_bytes(b"x" * length)
        assert object_store.content(bucket.bucket, "file") == b"old"
    assert list(object_store.objects(bucket.bucket)) == ["file"]


def test_an_outage_is_waited_for_and_said_once(
    object_store: ObjectStore, bucket: ObjectPath, told: Callable[[], list[str]], quick: None
) -> None:
    for number in range(4):
        write_text(bucket / f"{number}.txt", f"text {number}")
    object_store.pause()
    with ThreadPoolExecutor(4) as threads:
        reading = [threads.submit((bucket / f"{number}.txt").read_text) for number in range(4)]
        try:
            wait_until(told)
            assert not any(future.done() for future in reading)
        finally:
            object_store.resume()
        assert [future.result() for future in reading] == [f"text {number}" for number in range(4)]
    assert not (bucket / "none.txt").exists()
    warning, information = told()
    assert re.match(rf"{bucket}/\d.txt cannot be reached, which is tried again for 120 s: AWS Error NETWORK", warning)
    assert information == f"{bucket} can be reached again"


def test_an_answer_that_something_is_missing_ends_an_outage(
    object_store: ObjectStore, bucket: ObjectPath, told: Callable[[], list[str]], impatient: None
) -> None:
    with object_store.failing(), pytest.raises(StorageError):
        bucket.exists()
    with pytest.raises(FileNotFoundError):
        (bucket / "none").read_bytes()
    assert told()[1:] == [f"{bucket} can be reached again"]


OPERATIONS: dict[str, Callable[[ObjectPath], object]] = {
    "exists": lambda path: path.exists(),
    "iterdir": lambda path: path.iterdir(),
    "glob": lambda path: list(path.glob("*")),
    "read": lambda path: path.read_bytes(),
    "read_json": read_json,
    "write_json": lambda path: write_json(path, {}),
    "unlink": lambda path: path.unlink(missing_ok=True),
    "move": lambda path: move(path, path.with_name("other")),
    "remove": remove,
    "size": size,
    "local_copy": lambda path: local_copy(path).__enter__(),
    "row": lambda path: _one_line(path),
}


def _one_line(path: ObjectPath) -> None:
    with Lines(path) as lines:
        lines.append("x")


@pytest.mark.parametrize("name", ["iterdir", "read_json", "write_json", "remove", "local_copy", "row"])
def test_a_long_outage_is_an_error_that_names_the_path(away: ObjectPath, name: str) -> None:
    path = away / "folder" / "file"
    with pytest.raises(StorageError) as caught:
        OPERATIONS[name](path)
    text = str(caught.value)
    assert re.match(rf"{path} cannot be reached, tried for \d s: AWS Error NETWORK_CONNECTION during ", text)
    assert "Could not connect to server" in text and text.endswith("the same command runs the rest.")
    assert str(pickle.loads(pickle.dumps(caught.value))) == text


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"glob"}))
def test_wrong_credentials_are_an_error_at_once(
    object_store: ObjectStore, bucket: ObjectPath, told: Callable[[], list[str]], name: str
) -> None:
    with object_store.refusing(), pytest.raises(StorageError) as caught:
        OPERATIONS[name](bucket / "file")
    assert re.match(
        rf"{bucket}/file cannot be used: AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID) ", str(caught.value)
    )
    assert "Check the credentials (AWS_ACCESS_KEY_ID, " in str(caught.value)
    assert not told(), "nothing was tried again"


def test_credentials_that_may_only_read(object_store: ObjectStore, bucket: ObjectPath) -> None:
    (bucket / "file").write_text("old")
    with object_store.failing("PUT|POST", 403, "AccessDenied"):
        for length in (3, LARGE):
            with pytest.raises(StorageError, match=r"ACCESS_DENIED .*read, write and delete its objects"):
                (bucket / "file").write_bytes(b"x" * length)
    assert (bucket / "file").read_text() == "old"


@pytest.mark.parametrize("length", [3, LARGE])
def test_a_bucket_that_is_not_there(object_store: ObjectStore, told: Callable[[], list[str]], length: int) -> None:
    path = ObjectPath(("no-such-bucket", "file"))
    with pytest.raises(StorageError, match="There is no bucket 'no-such-bucket': make it, or name another one"):
        path.write_bytes(b"x" * length)
    assert not told() and not path.exists() and not list(path.parent.glob("*"))
    with pytest.raises(StorageError, match="There is no bucket"):
        path.parent.iterdir()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "http://[::1", "/path"])
def test_an_endpoint_that_is_no_address(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(StorageError, match=r"^s3://bucket/a.json cannot be used: .*endpoint in AWS_ENDPOINT_URL"):
        read_json(ObjectPath(("bucket", "a.json")))


def test_an_endpoint_without_a_scheme_and_one_for_s3_alone(
    object_store: ObjectStore, bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"127.0.0.1:{object_store.port}")
    with pytest.raises(StorageError):  # https, which the test's store does not speak
        bucket.exists()
    storage._connection.cache_clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"{object_store.url}/")
    assert (bucket / "a").exists() is False


CREDENTIALS, BUCKET, REGION, ADDRESS = "Check the credentials", "There is no bucket", "AWS_REGION", "Check the address"


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("HeadObject operation: No response body. AWS Error ACCESS_DENIED during HeadObject", CREDENTIALS),
        ("AWS Error SIGNATURE_DOES_NOT_MATCH during ListObjectsV2 operation: The request signature we", CREDENTIALS),
        ("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body.", CREDENTIALS),
        (
            "AWS Error UNKNOWN (HTTP status 400) during PutObject: Unable to parse ExceptionName: ExpiredToken",
            CREDENTIALS,
        ),
        ("AWS Error NO_SUCH_BUCKET during PutObject operation: The specified bucket does not exist", BUCKET),
        ("AWS Error UNKNOWN (HTTP status 301) during HeadObject operation: No response body.", REGION),
        ("AWS Error UNKNOWN (HTTP status 400) during X: ExceptionName: AuthorizationHeaderMalformed", REGION),
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 60, SSL peer certificate", ADDRESS),
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 3, URL using bad/illegal", ADDRESS),
        ("AWS Error UNKNOWN (HTTP status 418) during HeadObject operation", ADDRESS),
    ],
)
def test_refusals_that_pyarrow_has_reported(object_store: ObjectStore, message: str, advice: str) -> None:
    def refuse(_: object) -> None:
        raise OSError(f"When getting information for key 'a' in bucket 'b': {message} (Request ID: 4Q/x=)")

    with pytest.raises(StorageError) as caught:
        storage._ask(ObjectPath(("bucket", "a")), refuse)
    text = str(caught.value)
    assert text.startswith("s3://bucket/a cannot be used: AWS Error ") and advice in text
    assert "Request ID" not in text and "When getting" not in text


@pytest.mark.parametrize(
    "message",
    [
        "AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 6, Could not resolve hostname",
        "AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 28, Timeout was reached",
        "AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate.",
        "AWS Error UNKNOWN (HTTP status 502) during HeadObject operation: No response body.",
        "AWS Error UNKNOWN (HTTP status 429) during HeadObject operation: No response body.",
        "AWS Error NO_SUCH_UPLOAD during UploadPart operation: The specified upload does not exist.",
    ],
)
def test_failures_that_pass_are_tried_again_ever_more_slowly(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", waits.append)

    def fail(_: object) -> str:
        if len(waits) < 8:
            raise OSError(f"When doing something: {message}")
        return "done"

    path = ObjectPath((f"bucket-{uuid.uuid4().hex[:8]}", "a"))
    assert storage._ask(path, fail, patience_s=1000) == "done"
    assert waits == [0.5, 1, 2, 4, 8, 15, 15, 15]


# Lines


def test_lines_are_added_to_what_is_there(root: AnyPath) -> None:
    path = root / "log" / "a.txt"
    with Lines(path):
        pass
    assert not path.exists(), "without a line there is no file"
    with Lines(path) as lines:
        lines.append("one")
        lines.flush()
        assert path.read_text(encoding="utf-8") == "one\n"
        lines.append("zwei ä \udcff")
    assert path.read_text(encoding="utf-8") == "one\nzwei ä \\udcff\n"
    with Lines(path) as lines:
        lines.append("three")
    lines.close()
    assert path.read_text(encoding="utf-8").splitlines() == ["one", "zwei ä \\udcff", "three"]
    with pytest.raises(ValueError, match="is closed"):
        lines.append("four")


def test_lines_of_an_object_appear_by_themselves(bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "OBJECT_INTERVAL_S", 0.02)
    path = bucket / "log.txt"
    with Lines(path) as lines:
        for number in range(3):
            lines.append(f"line {number}")
            wait_until(lambda number=number: path.exists() and path.read_text().endswith(f"line {number}\n"))
    assert path.read_text() == "line 0\nline 1\nline 2\n"


def test_lines_do_not_wait_for_a_store_that_is_away(
    object_store: ObjectStore,
    bucket: ObjectPath,
    told: Callable[[], list[str]],
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storage, "OBJECT_INTERVAL_S", 0.02)
    path = bucket / "log.txt"
    write_text(path, "earlier\n")
    lines = Lines(path)
    object_store.pause()
    try:
        lines.append("first")
        wait_until(told)  # its thread has found the outage
        started = time.monotonic()
        for number in range(1000):
            lines.append(f"line {number}")
        took_s = time.monotonic() - started
    finally:
        object_store.resume()
    lines.close()
    assert took_s < 5
    assert path.read_text().splitlines() == ["earlier", "first", *(f"line {number}" for number in range(1000))]
    (warning,) = [text for text in told() if "again" in text and "reached again" not in text]
    assert warning.startswith(f"{path} cannot be reached, which is tried again: AWS Error NETWORK_CONNECTION")


def test_lines_that_are_refused_are_said_once_and_written_later(
    object_store: ObjectStore, bucket: ObjectPath, told: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "OBJECT_INTERVAL_S", 0.01)
    path = bucket / "log.txt"
    with Lines(path) as lines, object_store.failing("PUT", 403, "AccessDenied", times=3):
        lines.append("x")
        wait_until(path.exists)
    (warning,) = told()
    assert warning.startswith(
        f"{path} is not up to date, which is tried again: {path} cannot be used: AWS Error ACCESS_"
    )
    assert path.read_text() == "x\n"


# A local disk that fails


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


def test_lines_on_a_full_disk_are_written_when_there_is_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines(tmp_path / "log.txt")
    with file_limit(4096):
        for number in range(100):
            lines.append(f"{number:099d}")
        assert (tmp_path / "log.txt").stat().st_size == 4096
        with pytest.raises(StorageError, match=r"Cannot write .*log.txt: File too large.*ulimit -f"):
            lines.flush()
    (warning,) = caplog.records
    assert "log.txt is not up to date, which is tried again: Cannot write" in warning.getMessage()
    lines.append("the last")
    lines.close()
    text = (tmp_path / "log.txt").read_text().splitlines()
    assert text == [*(f"{number:099d}" for number in range(100)), "the last"]


def test_lines_that_are_not_complete_are_an_error_unless_there_is_another(tmp_path: Path) -> None:
    with file_limit(10):
        with pytest.raises(StorageError, match="File too large"), Lines(tmp_path / "one.txt") as lines:
            lines.append("x" * 20)
        with pytest.raises(ZeroDivisionError), Lines(tmp_path / "another.txt") as lines:
            lines.append("x" * 20)
            raise ZeroDivisionError


def test_a_write_is_tried_again_while_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_FIRST_DELAY_S", 0.01)
    failures = [StorageError(errno.ENOSPC, "full"), StorageError(errno.EIO, "broken")]
    between: list[int] = []

    def write() -> str:
        if failures:
            raise failures.pop(0)
        return "written"

    assert storage.patiently(write, lambda: between.append(1)) == "written"
    assert between == [1, 1]


@pytest.mark.parametrize(("number", "patience_s"), [(errno.EACCES, 120), (errno.EROFS, 120), (errno.ENOSPC, 0)])
def test_not_when_waiting_is_of_no_use(monkeypatch: pytest.MonkeyPatch, number: int, patience_s: float) -> None:
    monkeypatch.setattr(storage, "PATIENCE_S", patience_s)
    monkeypatch.setattr(storage, "_FIRST_DELAY_S", 0.01)
    tries: list[int] = []

    def write() -> None:
        tries.append(1)
        raise StorageError(number, "no")

    with pytest.raises(StorageError, match="no"):
        storage.patiently(write)
    assert len(tries) <= 2


def test_waiting_ends_when_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def write() -> None:
        raise StorageError(errno.ENOSPC, "full")

    def between() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.patiently(write, between)


def test_what_killed_writers_left_is_swept_away(tmp_path: Path) -> None:
    for name in (".000001.safetensors.1a2b3c4d.tmp", "000001.safetensors", ".holder.lock"):
        (tmp_path / name).touch()
    storage.sweep(tmp_path)
    assert names(tmp_path) == [".holder.lock", "000001.safetensors"]
    storage.sweep(tmp_path / "missing")


@contextmanager
def file_limit(size_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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


# Credentials


def secrets_in(content: bytes) -> bool:
    return ACCESS_KEY.encode() in content or SECRET_KEY.encode() in content


def test_credentials_are_written_nowhere(
    object_store: ObjectStore, bucket: ObjectPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    written: list[bytes] = []
    monkeypatch.setattr(storage, "between_steps", lambda *_: written.extend(files_below(tmp_path)))
    results = Results(str(bucket / "results"))
    results.check_writable()
    trial = results.trial("0123456789ab" + "c" * 52)
    trial.write_config({"results": str(results.root)})
    trial.begin("1", "run")
    with trial.row_file("1") as lines:
        lines.append(json.dumps({"phase": "pretrain", "epoch": 1}))
    with object_store.refusing(), pytest.raises(StorageError) as caught:
        trial.status()
    trial.fail("StorageError", str(caught.value), repr(caught.value.__cause__))
    results.study("small", "phantom-demo").write_plan({"trials": []})
    written += [object_store.content(bucket.bucket, key) for key in object_store.objects(bucket.bucket)]
    written += [*files_below(tmp_path), pickle.dumps(results), pickle.dumps(caught.value), repr(trial.path).encode()]
    assert len(written) > 10 and not any(map(secrets_in, written))
    assert secrets_in(json.dumps(object_store.environment).encode()), "they are found where they are"


def files_below(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


def test_credentials_in_the_endpoint_are_not_shown(
    object_store: ObjectStore, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for host in (f"127.0.0.1:{free_port()}", "", "[::1"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{ACCESS_KEY}:{SECRET_KEY.replace('/', '')}@{host}")
        storage._connection.cache_clear()
        with pytest.raises(StorageError) as caught:
            ObjectPath(("bucket", "a")).exists()
        assert ACCESS_KEY not in str(caught.value) and SECRET_KEY.replace("/", "") not in str(caught.value)
