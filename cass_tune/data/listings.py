"""The listing of every trial of a study: where a set brings no test part, it depends on how that is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields

from cass_tune.config import Data
from cass_tune.data.listing import Listing

LISTED_BY = (
    *("name", "test_fraction", "split_seed"),
    *(field.name for field in fields(Data) if not field.metadata.get("identity", True)),
)
"""Fields of a trial's data on which its listing depends: what is read from where, and how a test part is drawn."""


class Listings:
    """Listings by the data sections of trials; trials that differ in nothing of `LISTED_BY` have one in common.

    Args:
        sections: of the trials that are known; those of others are listed when they are asked for.
        read: lists the images of a section.

    Raises:
        UsageError: something in the data is missing or wrong.
    """

    def __init__(self, sections: Iterable[Data], read: Callable[[Data], Listing]) -> None:
        self._read = read
        self._known: dict[tuple[object, ...], Listing] = {}
        for data in sections:
            self(data)

    def __call__(self, data: Data) -> Listing:
        """Return the listing of a trial with this section."""
        key = tuple(getattr(data, name) for name in LISTED_BY)
        if key not in self._known:
            self._known[key] = self._read(data)
        return self._known[key]

    @property
    def known(self) -> tuple[Listing, ...]:
        """Each that was read, in order."""
        return tuple(self._known.values())

    @property
    def first(self) -> Listing:
        """That of the first trial: for what all have in common, which is everything but the parts of images."""
        return self.known[0]
