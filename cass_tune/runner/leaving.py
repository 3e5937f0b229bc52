"""Leaving although Ray no longer answers: a signal to the whole process group ends Ray's own processes as well.

Ray's driver then waits for a minute and is ended without a word. Here a thread watches: once the trials have saved
their state, or their time is over, the process ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cass_tune.notices import Stop

logger = logging.getLogger(__name__)

STUCK_S = 6.0
"""How long Ray Tune may take to end after the last trial has left."""
_LOOK_S = 0.5


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


def _answer(at_work: Callable[[], bool]) -> bool:
    try:
        return at_work()
    except OSError as error:
        logger.debug("it is not known whether trials run: %s", error)
        return True
