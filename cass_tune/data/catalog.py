"""The data sets by name."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import cast

from cass_tune.config import Data
from cass_tune.data.folder import brain_mri_listing, folder_listing
from cass_tune.data.index import Progress, no_progress
from cass_tune.data.listing import Listing
from cass_tune.data.table import csv_listing
from cass_tune.errors import UsageError, did_you_mean


def _phantom(data: Data, progress: Progress) -> Listing:
    from cass_tune.data.phantom import phantom_listing

    return phantom_listing()


SOURCES: dict[str, Callable[[Data, Progress], Listing]] = {
    "phantom": _phantom,
    "brain_mri": brain_mri_listing,
    "folder": folder_listing,
    "csv": csv_listing,
}
"""How to list each data set; a new one is one more entry."""


def list_images(data: Data, progress: Progress = no_progress) -> Listing:
    """Return the usable images of a data set.

    Args:
        data: its name (a key of `SOURCES`, or ``module:function`` for your own), place and options.
        progress: called with the numbers of files examined and of all files.

    Raises:
        UsageError: the name is unknown, or something in the data is missing or wrong.
    """
    if ":" in data.name:
        return dataclasses.replace(_own(data.name)(data, progress), name=short_name(data.name))
    source = SOURCES.get(data.name)
    if source is None:
        raise UsageError(
            f"--data.name must be one of {', '.join(SOURCES)}, or your own as module:function, but got {data.name!r}."
            f"{did_you_mean(data.name, SOURCES)}"
        )
    return source(data, progress)


def short_name(name: str) -> str:
    """Return the name by which a data set's results are filed: that of the function for your own."""
    return name.rpartition(":")[2]


def _own(name: str) -> Callable[[Data, Progress], Listing]:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # of a module that is not ours
        raise UsageError(
            f"--data.name {name} cannot be used: {type(error).__name__}: {error}. Give module:function of a module "
            "that Python can import here and on every machine that runs trials (the working folder, or PYTHONPATH)."
        ) from error
    if not callable(found):
        raise UsageError(
            f"--data.name {name} must be a function that takes the `Data` section and returns a `Listing`."
        )
    return cast("Callable[[Data, Progress], Listing]", found)
