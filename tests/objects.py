"""An object store for tests: a moto server in a process of its own, on loopback, that can be away for a while."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import TracebackType
from xml.etree import ElementTree

ACCESS_KEY, SECRET_KEY = "AKIATESTACCESSKEY000", "test-secret/of+object-store-6f1c2e"
START_S = 60.0
ANSWER_S = 10.0

SERVER = """
import ctypes, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the tests, however they end
from moto.server import main
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""


class ObjectStore:
    """A running moto server; what it stores is in its memory. Use it in a ``with`` statement, or end it with `kill`."""

    def __init__(self) -> None:
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

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
        command = [sys.executable, "-c", SERVER, str(self._port)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"moto's server does not answer at {self.url}")
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

    def make_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        self._request("PUT", f"/{name}")

    def objects(self, bucket: str) -> dict[str, int]:
        """Return the size in bytes of every object by key."""
        tree = ElementTree.fromstring(self._request("GET", f"/{bucket}?list-type=2"))
        found = [item for item in tree.iter() if item.tag.endswith("}Contents")]
        return {_text(item, "Key"): int(_text(item, "Size")) for item in found}

    def uploads(self, bucket: str) -> list[str]:
        """Return the keys of the uploads in parts that are not complete."""
        tree = ElementTree.fromstring(self._request("GET", f"/{bucket}?uploads"))
        return [_text(item, "Key") for item in tree.iter() if item.tag.endswith("Upload")]

    def __enter__(self) -> ObjectStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        try:
            self._request("GET", "/moto-api/")
        except OSError:
            return False
        return True

    def _request(self, method: str, path: str) -> bytes:
        request = urllib.request.Request(f"{self.url}{path}", method=method)
        with _without_proxy.open(request, timeout=ANSWER_S) as answer:
            return answer.read()


_without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _text(item: ElementTree.Element, name: str) -> str:
    return next(child.text or "" for child in item if child.tag.rpartition("}")[2] == name)
