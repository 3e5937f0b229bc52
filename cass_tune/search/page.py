"""A page of a paper that searches instead of varying: the same command line, and options of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cass_tune.plan import Axes
from cass_tune.search.settings import SearchSettings
from cass_tune.search.space import Space
from cass_tune.study import Report, Study

if TYPE_CHECKING:
    from cass_tune.console import Console
    from cass_tune.options import Given
    from cass_tune.search.command import SearchCommand


@dataclass(frozen=True, kw_only=True)
class Search(Study):
    """A study whose trials are suggested by Optuna.

    Args:
        name: of the study's module and folder.
        title: what is looked for.
        space: asks a trial of Optuna for parameters and returns values by ``"section.field"``; it must do the same for
            the same parameters.
    """

    space: Space
    axes: Axes = field(default_factory=dict, init=False)

    @property
    def settings(self) -> type[SearchSettings]:
        """The options of the command line that are not fields of the trial."""
        return SearchSettings

    def command(self, given: Given, console: Console, report: Report) -> SearchCommand:
        """Return one call of the command line."""
        from cass_tune.search.command import SearchCommand

        return SearchCommand(self, given, console, report)
