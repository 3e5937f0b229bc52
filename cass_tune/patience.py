"""How long what is away, or full, is tried again."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from cass_tune.errors import StorageError

logger = logging.getLogger(__name__)

PATIENCE_S = 120.0
"""How long an operation on an object store that is away is tried again."""

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 15.0
_MAY_PASS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
_own = threading.local()

_Result = TypeVar("_Result")


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Let this thread try an object store that is away again for so long, in place of `PATIENCE_S`, in the block."""
    before = getattr(_own, "patience_s", None)
    _own.patience_s = seconds
    try:
        yield
    finally:
        _own.patience_s = before


def own_patience_s() -> float:
    """Return how long this thread tries an object store that is away again."""
    seconds = getattr(_own, "patience_s", None)
    return PATIENCE_S if seconds is None else seconds


def delays() -> Iterator[float]:
    """Yield how many seconds to wait before each further try of an object store: ever more."""
    delay_s = _FIRST_DELAY_S
    while True:
        yield delay_s
        delay_s = min(2 * delay_s, _LONGEST_DELAY_S)


def patiently(
    write: Callable[[], _Result], between: Callable[[], None] = lambda: None, seconds: float | None = None
) -> _Result:
    """Return what a write returns; while a disk is full or away, try again for a while, as for an object store.

    Args:
        write: can be repeated.
        between: called before each further try; what it raises ends the waiting.
        seconds: how long it is tried; `PATIENCE_S` by default.

    Raises:
        StorageError: it could not be written.
    """
    longest_s = PATIENCE_S if seconds is None else seconds
    deadline, is_said = time.monotonic() + longest_s, False
    while True:
        try:
            return write()
        except StorageError as error:
            if error.errno not in _MAY_PASS or time.monotonic() > deadline:
                raise
            if not is_said:
                logger.warning("tried again for %g s: %s", longest_s, error)
            is_said = True
        between()
        time.sleep(_FIRST_DELAY_S)
