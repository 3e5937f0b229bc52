"""From results on disk to numbers, tables and figures; imports neither torch nor ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cass_tune.results import StudyFolder


def write_report(study: StudyFolder, published: Mapping[str, object]) -> str:
    """Write a study's tables, plots and report, and return the tables as text (`analysis.report.write`).

    A study's page hands this to its command line; pandas is imported only when there is something to report.
    """
    from analysis.report import write

    return write(study, published)
