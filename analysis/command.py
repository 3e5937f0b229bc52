"""The common command line of the analyses: a study's name or path, and the results root."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from analysis.results import read_plans
from cass_tune import ending
from cass_tune.errors import StorageError, UsageError
from cass_tune.results import StudyFolder, default_root, find_study
from cass_tune.storage import place

Action = Callable[[StudyFolder, Mapping[str, object]], str]


def run(description: str, action: Action, arguments: Sequence[str] | None = None) -> int:
    """Do something with every study folder that the command line names, print what it says, return the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("study", metavar="STUDY", help="a study's name (all its variants) or its folder")
    parser.add_argument("--results", metavar="DIR", type=place, help="results root (cass_tune.toml's, or results)")
    given = parser.parse_args(arguments)
    try:
        studies = find_study(given.study, given.results or default_root(Path.cwd()))
        texts = [action(study, published_of(study)) for study in studies]
    except UsageError as error:
        print(error, file=sys.stderr)
        return ending.USAGE
    except StorageError as error:
        print(error, file=sys.stderr)
        return ending.AWAY
    print("\n\n".join(texts))
    return ending.DONE


def published_of(study: StudyFolder) -> Mapping[str, object]:
    """Return which published rows the study's page names; none when there is no such page."""
    name = read_plans(study)[-1]["study"]
    if not name.isidentifier():
        return {}
    try:
        page = importlib.import_module(f"studies.{name}")
    except ModuleNotFoundError as error:
        if error.name not in ("studies", f"studies.{name}"):
            raise
        return {}
    return getattr(getattr(page, "STUDY", None), "published", None) or {}
