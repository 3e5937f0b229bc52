"""An object store for tests: a moto server in a process of its own, on loopback, that can be away or fail."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from xml.etree import ElementTree

ACCESS_KEY, SECRET_KEY = "AKIATESTACCESSKEY000", "test-secret/of+object-store-6f1c2e"
OTHER_SETTINGS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
)
"""What may be in the environment and would count besides `ObjectStore.environment`."""
SIGNED = {
    "Authorization": f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20260101/us-east-1/s3/aws4_request, Signature=0",
    "Content-Type": "application/octet-stream",
}
"""Headers of a request by the owner of the buckets; moto checks no signature."""
START_S = 60.0
ANSWER_S = 10.0


class ObjectStore:
    """A running moto server; what it stores is in its memory. Use it in a ``with`` statement, or end it with `kill`.

    It ends with the thread that made it, however that ends.
    """

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs; the credentials are made up and easy to search for."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start the server unless it runs, empty and at the same address as before, and wait until it answers."""
        if self._process is not None and self._process.poll() is None:
            return
        command = [sys.executable, str(Path(__file__).with_name("object_server.py")), str(self.port)]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, text=True)
        assert self._process.stdout is not None
        port = self._process.stdout.readline()
        deadline = time.monotonic() + START_S
        while not port or not self._answers(int(port)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the object store of the tests does not start: {' '.join(command)}")
            time.sleep(0.05)

    def pause(self) -> None:
        """Stop answering; connections are still accepted."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Answer again, also what was asked meanwhile."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the server, paused or not; connections are refused from now on, and what it stored is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()

    @contextmanager
    def failing(
        self, pattern: str = "", status: int = 503, code: str = "ServiceUnavailable", times: int = -1
    ) -> Iterator[None]:
        """Let requests fail until the block ends.

        Args:
            pattern: regular expression of their method, path and query, such as ``PUT .*partNumber=2``.
            status: HTTP status of the answer.
            code: S3's name of the error.
            times: how many fail; all when negative.
        """
        self._fail({"pattern": pattern, "status": status, "code": code, "times": times})
        try:
            yield
        finally:
            self._fail(None)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Accept no credentials until the block ends."""
        self._request("POST", "/moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self._request("POST", "/moto-api/reset-auth", b"inf")

    def make_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        self._request("PUT", f"/{name}")

    def objects(self, bucket: str) -> dict[str, int]:
        """Return the size in bytes of every object by key; at most 1000."""
        items = self._listed(f"/{bucket}?list-type=2", "Contents")
        return {_text(item, "Key"): int(_text(item, "Size")) for item in items}

    def content(self, bucket: str, key: str) -> bytes:
        """Return the content of an object."""
        return self._request("GET", f"/{bucket}/{key}")

    def uploads(self, bucket: str) -> list[str]:
        """Return the keys of the uploads in parts that are not complete."""
        return [_text(item, "Key") for item in self._listed(f"/{bucket}?uploads", "Upload")]

    def __enter__(self) -> ObjectStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self, port: int) -> bool:
        self.port = port
        try:
            self._request("GET", "/moto-api/")
        except OSError:
            return False
        return True

    def _fail(self, rule: dict[str, str | int] | None) -> None:
        self._request("PUT", "/failures", json.dumps(rule).encode())

    def _listed(self, path: str, kind: str) -> list[ElementTree.Element]:
        tree = ElementTree.fromstring(self._request("GET", path))
        return [item for item in tree.iter() if _name(item) == kind]

    def _request(self, method: str, path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.url}{path}", data, SIGNED, method=method)
        with _without_proxy.open(request, timeout=ANSWER_S) as answer:
            return answer.read()


_without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _name(item: ElementTree.Element) -> str:
    return item.tag.rpartition("}")[2]


def _text(item: ElementTree.Element, name: str) -> str:
    return next(child.text or "" for child in item if _name(child) == name)


def wait_until(condition: Callable[[], object], limit_s: float = 30.0) -> None:
    """Return when a condition holds; fail when it does not in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def free_port() -> int:
    """Return a port of loopback where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
