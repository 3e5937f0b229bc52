"""Leaving although Ray no longer answers: a signal to the whole process group ends Ray's own processes as well.

Ray's driver then waits for a minute and is ended without a word, or for ever. Here threads watch: once the trials have
saved their state, or their time is over, or Ray is gone, the process ends.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from cass_tune.notices import Stop

logger = logging.getLogger(__name__)

STUCK_S = 6.0
"""How long Ray Tune may take to end after the last trial has left."""
_LOOK_S = 0.5
GONE_S = 20.0


@contextmanager
def leaving_for_sure(
    stop: Stop, at_work: Callable[[], bool], leave: Callable[[], None], *, most_s: float
) -> Iterator[None]:
    """Call ``leave`` when the block does not end after a stop was requested.

    Args:
        stop: the request.
        at_work: whether any trial still runs; may take long.
        leave: ends the process.
        most_s: how long trials have to save their state.
    """
    over = threading.Event()

    def watch() -> None:
        while stop.reason is None:
            if over.wait(_LOOK_S):
                return
        timer = threading.Timer(most_s + STUCK_S, leave_unless_over)
        timer.daemon = True
        timer.start()
        quiet_since = time.monotonic()
        while not over.wait(_LOOK_S):
            if _answer(at_work):
                quiet_since = time.monotonic()
            if time.monotonic() - quiet_since > STUCK_S:
                leave_unless_over()
        timer.cancel()

    def leave_unless_over() -> None:
        if not over.is_set():
            leave()

    threading.Thread(target=watch, name="leaving", daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextmanager
def watched_ray(gone: Callable[[], None]) -> Iterator[None]:
    """Call ``gone``, once, when Ray has had no head or no node for `GONE_S` in the block."""
    address = ray.get_runtime_context().gcs_address
    over = threading.Event()

    def watch() -> None:
        seen = time.monotonic()
        while not over.wait(GONE_S / 5):
            if _is_there(address):
                seen = time.monotonic()
            elif time.monotonic() - seen > GONE_S and not over.is_set():
                gone()
                return

    threading.Thread(target=watch, name="ray", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _is_there(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=GONE_S / 5):
            pass
        return any(node["Alive"] for node in ray.nodes())
    except OSError:
        return False


def _answer(at_work: Callable[[], bool]) -> bool:
    try:
        return at_work()
    except OSError as error:
        logger.debug("it is not known whether trials run: %s", error)
        return True
