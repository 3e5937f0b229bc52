"""The data sets by name."""

from __future__ import annotations

from collections.abc import Callable

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
        data: its name, place and options.
        progress: called with the numbers of files examined and of all files.

    Raises:
        UsageError: the name is unknown, or something in the data is missing or wrong.
    """
    source = SOURCES.get(data.name)
    if source is None:
        raise UsageError(
            f"--data.name must be one of {', '.join(SOURCES)}, but got {data.name!r}.{did_you_mean(data.name, SOURCES)}"
        )
    return source(data, progress)
