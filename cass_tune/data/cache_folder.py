"""Where this user's remembered facts lie."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder, which need not exist yet.

    It is CASS_TUNE_CACHE where that is set, else ``cass_tune`` in XDG_CACHE_HOME, else ``~/.cache/cass_tune``.

    Raises:
        OSError: none of these is there, because this user has no home.
    """
    own = os.environ.get("CASS_TUNE_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "cass_tune"
    except RuntimeError as error:
        raise OSError(f"no folder for it: {error}") from error
