"""Where this user's remembered facts lie."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder, which need not exist yet.

    It is CASS_TUNE_CACHE where that is set, else ``cass_tune`` in XDG_CACHE_HOME, else ``~/.cache/cass_tune``.
    """
    own = os.environ.get("CASS_TUNE_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cass_tune"
