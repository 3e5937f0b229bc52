"""Joining a cluster: what is wrong with its address is said within seconds, where Ray itself tries for minutes."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray._private import services
from ray._private.authentication.authentication_token_setup import (
    ensure_token_if_auth_enabled,
    maybe_enable_token_auth_if_token_available,
)
from ray.exceptions import AuthenticationError, RayError

from cass_tune.errors import UsageError

_STORE = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
"""Where the object store is, which every node must know; credentials are each node's own."""
KNOCK_S = 5.0
"""How long an address may take to answer."""
_OTHER_VERSIONS = "Version mismatch"
"""How Ray's text about them begins (2.60)."""
_SETTINGS = 4
_EMPTY_SETTINGS = bytes([0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0])
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _EMPTY_SETTINGS
"""How a client of HTTP/2, and so of gRPC, begins (RFC 9113, 3.4); the server's first frame is its settings as well."""


def join(address: str, common: Mapping[str, Any]) -> None:
    """Join a cluster, taking this code along.

    Args:
        address: ``auto`` or ``HOST:PORT``.
        common: further arguments of ``ray.init``.

    Raises:
        UsageError: it cannot be joined.
    """
    try:
        _knock(address)
        where = {name: os.environ[name] for name in _STORE if name in os.environ}
        environment = {"py_modules": [str(Path(__file__).parent.parent)], "env_vars": where}
        ray.init(address=address, **common, runtime_env=environment)
    except AuthenticationError as error:
        raise UsageError(
            f"--address {address}: the cluster asks for its token, and this process has none, or another. Give it the "
            "token of the head: RAY_AUTH_MODE=token in the environment, and the file ~/.ray/auth_token or "
            "RAY_AUTH_TOKEN_PATH (docs/cluster.md)."
        ) from error
    except (OSError, RuntimeError, ValueError, RayError) as error:
        lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
        if lines and lines[0].startswith(_OTHER_VERSIONS):
            raise UsageError(
                f"--address {address}: {' '.join(lines)}. Install the same versions of Python and Ray on all machines, "
                "or start the study on one that has the cluster's."
            ) from error
        raise UsageError(
            f"--address {address}: no Ray cluster can be joined there: {(lines or [type(error).__name__])[0]}. "
            "Give `auto` on a node of the cluster, or HOST:PORT as `ray start` printed it, or leave --address out."
        ) from error


def _knock(address: str) -> None:
    """Raise an error when no head of Ray answers, or none that lets this process in (Ray 2.60)."""
    if "://" in address:  # of Ray's client, which has checks of its own
        return
    if address == "auto":
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # as Ray does for this address alone
        address = services.canonicalize_bootstrap_address_or_die(address)
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError("it is neither `auto` nor HOST:PORT")
    _speak(host.strip("[]"), int(port))
    ensure_token_if_auth_enabled(create_token_if_missing=False)  # without a token, Ray's client ends the process
    raylet: Any = importlib.import_module("ray._raylet")  # no public call asks a head with a limit of time
    raylet.InnerGcsClient.standalone(address, None, int(1000 * KNOCK_S))


def _speak(host: str, port: int) -> None:
    """Raise an OSError or ValueError when nothing listens there, or something that does not speak HTTP/2."""
    with socket.create_connection((host, port), timeout=KNOCK_S) as connection:
        connection.sendall(_PREFACE)
        try:
            answer = connection.recv(len(_EMPTY_SETTINGS), socket.MSG_WAITALL)
        except TimeoutError:
            answer = b""
    if len(answer) < len(_EMPTY_SETTINGS) or answer[3] != _SETTINGS:
        raise ValueError("what listens there is not the head of a Ray cluster")
