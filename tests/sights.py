"""Data sets that one node of a test's cluster does not see as the driver does."""

from __future__ import annotations

import os
from dataclasses import replace

from cass_tune.config import Data
from cass_tune.data.index import Progress
from cass_tune.data.listing import Listing
from cass_tune.data.phantom import phantom_listing
from cass_tune.errors import UsageError

ELSEWHERE = "CASS_TUNE_TEST_ELSEWHERE"
"""Environment variable of the node that sees something else."""


def differing(data: Data, progress: Progress) -> Listing:
    """Return the phantom, with another fingerprint elsewhere."""
    listing = phantom_listing()
    return replace(listing, fingerprint="other") if os.environ.get(ELSEWHERE) else listing


def missing(data: Data, progress: Progress) -> Listing:
    """Return the phantom, which is not there elsewhere."""
    if os.environ.get(ELSEWHERE):
        raise UsageError("--data.root /data: there is no such folder.")
    return phantom_listing()


def failing() -> None:
    """Fail."""
    raise RuntimeError("no mood")
