"""Requests to an object store: uploads that are whole, patient for a while, clear when they fail, no secrets."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cass_tune import object_store as store
from cass_tune import storage
from cass_tune.errors import StorageError
from cass_tune.lines import Lines
from cass_tune.objects import ObjectPath
from cass_tune.results import Results
from cass_tune.storage import local_copy, move, read_json, remove, size, whole_file, write_json, write_text
from tests.objects import ACCESS_KEY, SECRET_KEY, ObjectStore, free_port, wait_until

REPOSITORY = Path(__file__).parents[1]
LARGE = 11 * 2**20
"""Bytes of a file that is uploaded in parts."""

UPLOADER = """
import signal, sys
from cass_tune import object_store, storage

object_store._REQUESTS = 1

def end(*_):
    raise SystemExit(3)

signal.signal(signal.SIGTERM, end)
storage.place(sys.argv[1]).write_bytes(b"1" * int(sys.argv[2]))
"""

INTERRUPTED = """
import os, random, signal, sys
from cass_tune import object_store, storage

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
connection = object_store._connection
object_store._connection = lambda *words: Store(connection(*words))
object_store._connection.cache_clear = connection.cache_clear
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


def test_large_files_go_and_come_whole(object_store: ObjectStore, bucket: ObjectPath) -> None:
    content = os.urandom(LARGE)
    with whole_file(bucket / "large") as temporary:
        temporary.write_bytes(content)
        assert object_store.objects(bucket.bucket) == {}
    assert object_store.objects(bucket.bucket) == {"large": LARGE} and object_store.uploads(bucket.bucket) == []
    with local_copy(bucket / "large") as copy:
        assert copy.read_bytes() == content
    assert (bucket / "large").read_bytes() == content and size(bucket / "large") == LARGE


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


# A store that fails


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
    store._connection.cache_clear()
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
        store.ask("bucket/a", refuse)
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
    monkeypatch.setattr(store.time, "sleep", waits.append)

    def fail(_: object) -> str:
        if len(waits) < 8:
            raise OSError(f"When doing something: {message}")
        return "done"

    key = f"bucket-{uuid.uuid4().hex[:8]}/a"
    assert store.ask(key, fail, patience_s=1000) == "done"
    assert waits == [0.5, 1, 2, 4, 8, 15, 15, 15]


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
        store._connection.cache_clear()
        with pytest.raises(StorageError) as caught:
            ObjectPath(("bucket", "a")).exists()
        assert ACCESS_KEY not in str(caught.value) and SECRET_KEY.replace("/", "") not in str(caught.value)
