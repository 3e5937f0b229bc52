"""From results on disk to numbers, tables and figures; imports neither torch nor ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cass_tune.results import StudyFolder


def report(study: StudyFolder, published: Mapping[str, object]) -> str:
    """Write a study's tables and plot and return the tables as text (`analysis.tables.report`).

    A study's page hands this to its command line; pandas is imported only when there is something to report.
    """
    from analysis import tables

    return tables.report(study, published)
