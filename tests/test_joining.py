"""An address at which no cluster can be joined is said to be one within seconds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from ray._private import utils
from ray.exceptions import RaySystemError, RpcError

from cass_tune.errors import UsageError
from cass_tune.runner import joining
from tests import small

pytestmark = pytest.mark.ray
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def silent() -> Iterator[str]:
    """A port that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def web() -> Iterator[str]:
    """A port at which a web server listens."""
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[method-assign,assignment]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_cluster_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.run("--address", "127.0.0.1:1", results=tmp_path) == 2
    error = capsys.readouterr().err
    assert "--address 127.0.0.1:1: no Ray cluster can be joined there: [Errno 111] Connection refused. Give" in error


@pytest.mark.parametrize("address", ["nowhere", "nowhere:", "nowhere:http"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UsageError, match="it is neither `auto` nor HOST:PORT"):
        joining.join(address, {})


@pytest.mark.parametrize("port", ["silent", "web"])
def test_a_port_that_is_not_rays(port: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "KNOCK_S", 1.0)
    with pytest.raises(UsageError, match="what listens there is not the head of a Ray cluster"):
        joining.join(request.getfixturevalue(port), {})


@pytest.mark.parametrize("error", [RpcError("no such method", 12), RaySystemError("it is gone"), TimeoutError("late")])
def test_an_error_of_rays_own_is_said_in_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a server that speaks HTTP/2 and is none of Ray's."""

    def fail(address: str) -> None:
        raise error

    monkeypatch.setattr(joining, "_knock", fail)
    with pytest.raises(UsageError, match=r"no Ray cluster can be joined there: .*(no such method|it is gone|late)"):
        joining.join("10.0.0.1:6379", {})


def test_a_cluster_with_other_versions_is_named_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ray_version, python_version, *_ = utils.compute_version_info()

    def mismatch(address: str) -> None:
        utils.check_version_info({"ray_version": "2.59.0", "python_version": python_version}, "10.0.0.2")

    monkeypatch.setattr(joining, "_knock", mismatch)
    with pytest.raises(UsageError) as found:
        joining.join("10.0.0.1:6379", {})
    text = str(found.value)
    assert "2.59.0" in text and ray_version in text and "Install the same versions" in text and "\n" not in text


JOIN = """
import sys, time
from cass_tune.errors import UsageError
from cass_tune.runner import ray_session
began = time.monotonic()
try:
    with ray_session(sys.argv[1]):
        print("joined")
except UsageError as error:
    print(error)
    assert time.monotonic() - began < 10
"""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a head that asks for a token, and the file of the token."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    token = tmp_path / "token"
    token.write_text("1" * 64)
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    words = ["start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(port), "--num-cpus", "1"]
    words += ["--include-dashboard", "false", "--disable-usage-stats", "--object-store-memory", str(150 * 2**20)]
    log = (tmp_path / "ray.txt").open("w")
    program = [sys.executable, "-m", "ray.scripts.scripts", *words]
    head = subprocess.Popen(program, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while "Ray runtime started" not in (tmp_path / "ray.txt").read_text():
            assert time.monotonic() < deadline and head.poll() is None, (tmp_path / "ray.txt").read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{port}", token
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        log.close()


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token(guarded: tuple[str, Path], tmp_path: Path) -> None:
    address, token = guarded
    wrong = tmp_path / "wrong"
    wrong.write_text("2" * 64)
    asks = f"--address {address}: the cluster asks for its token, and this process has none, or another."

    def answer(**environment: str) -> str:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment = {**plain, "HOME": str(tmp_path), **environment}
        words = [sys.executable, "-c", JOIN, address]
        done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert answer(RAY_AUTH_MODE="token").startswith(asks)
    assert answer(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(wrong)).startswith(asks)
    assert answer(RAY_AUTH_TOKEN_PATH=str(token)).startswith(asks)
    assert answer(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token)) == "joined"
