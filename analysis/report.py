"""A study's report: one page of HTML that needs nothing else, and the same as Markdown.

Run it with ``python -m analysis.report STUDY [--results DIR]``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import figures, plots, report_html, report_markdown, search_report, tables
from analysis.citations import citations
from analysis.claims import Claim, claims, summary
from analysis.command import run
from analysis.comparison import comparison
from analysis.environments import environment_table, mixtures
from analysis.figures import Plot
from analysis.format import listing, wrap
from analysis.frames import once, records, where
from analysis.groups import Group, split
from analysis.notes import heading, subject, unfinished
from analysis.results import load, read_plans, save, study_axes
from analysis.search import is_search
from analysis.sheet import Sheet
from analysis.verdict import RULE, verdict
from cass_tune.results import Record, StudyFolder
from cass_tune.storage import write_text


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that a report says, before it is written in a format.

    Args:
        title: of the study.
        is_demo: whether its numbers are those of a demonstration.
        question: what it asks.
        facts: lines in which all its trials agree.
        verdict: sentences that answer the question.
        rule: by which.
        states: how many trials became what.
        warnings: what a reader must know before the numbers: collapse, mixed devices and code.
        claims: of the papers, with verdicts.
        claims_summary: how many of them are supported.
        sheets: its tables.
        plots: its figures.
        unfinished: trials that failed, collapsed, run or are missing, and what is missing of those that are done.
        published: the published numbers in words.
        environment: of `analysis.environments.environment_table`.
        commands: to get the same again, each with what it is for.
        citations: BibTeX entries.
    """

    title: str
    is_demo: bool
    question: str
    facts: list[str]
    verdict: list[str]
    rule: str
    states: str
    warnings: list[str]
    claims: list[Claim]
    claims_summary: str
    sheets: list[Sheet]
    plots: list[Plot]
    unfinished: list[str]
    published: list[str]
    environment: pd.DataFrame
    commands: list[tuple[str, str]]
    citations: list[str]


def gather(
    study: StudyFolder, published: Mapping[str, object] | None = None, frame: pd.DataFrame | None = None
) -> Report:
    """Return a study's report, writing nothing.

    Args:
        study: its folder; finished or not.
        published: which published rows lie beside it (`analysis.published.select`).
        frame: of `analysis.results.load`, where it is loaded already.

    Raises:
        UsageError: nothing was asked for, or a record is damaged.
    """
    plans = read_plans(study)
    plan, axes, searches = plans[-1], study_axes(plans), is_search(plans)
    frame = load(study) if frame is None else frame
    groups = [] if searches else split(frame, axes)
    on_claims = [claim for group in groups[:1] for claim in claims(group.frame, axes)]
    environment = environment_table(study)
    return Report(
        title=subject(plan),
        is_demo=plan["demo"],
        question=question(plan),
        facts=heading(plan, frame, axes)[1:],
        verdict=search_report.verdict(study) if searches else _verdict(groups, axes),
        rule="" if searches else RULE,
        states=_states(frame),
        warnings=[*_collapse(frame), *mixtures(environment)],
        claims=on_claims,
        claims_summary="" if searches else summary(on_claims),
        sheets=tables.sheets(study, published, frame),
        plots=list(plots.figures(study, published)),
        unfinished=[*unfinished(frame), *_without_predictions(study, frame)],
        published=[] if searches else comparison(frame, published or {}),
        environment=environment,
        commands=_commands(study, plan, frame, environment),
        citations=citations(frame["pretrain_method"].unique().tolist(), is_search=searches),
    )


def _verdict(groups: Sequence[Group], axes: list[str]) -> list[str]:
    """Return the verdict on what was asked for last, and that there is more."""
    found = [sentence for group in groups[:1] for sentence in verdict(group.frame, axes)]
    more = f"Verdict and claims are on table 1 of {len(groups)}, the last asked for; the other trials may not share it."
    return [*found, *[more] * (len(groups) > 1)]


def question(plan: Record) -> str:
    """Return what a study asks: the first sentence of its page in ``studies``, or its title."""
    try:
        page = importlib.import_module(f"studies.{plan['study']}")
    except (ModuleNotFoundError, ValueError):
        return plan["title"]
    first = (page.__doc__ or "").strip().partition("\n")[0]
    return first.partition("?")[0] + "?" if "?" in first else plan["title"]


def _states(frame: pd.DataFrame) -> str:
    trials = once(frame, ["digest"])
    counts = trials["status"].value_counts()
    return f"{len(trials)} trials: " + ", ".join(f"{count} {state}" for state, count in counts.items())


def _without_predictions(study: StudyFolder, frame: pd.DataFrame) -> list[str]:
    done = once(where(frame, {"status": "done"}), ["digest"])
    names = [row["name"] for row in records(done) if not study.results.trial(row["digest"]).predictions.exists()]
    what = "no predictions, so not in the tables of classes and images"
    return [wrap(f"{what} ({len(names)} of {len(done)} trials that are done): {listing(names)}")] if names else []


def _collapse(frame: pd.DataFrame) -> list[str]:
    pretrained = once(frame, ["digest"]).query("pretrain_method != 'none'")
    names = where(pretrained, {"collapsed": True})["name"].tolist()
    if not names:
        return []
    known = len(pretrained["collapsed"].dropna())
    text = "their features carry little that finetuning can use, and a comparison with them says little of the method"
    return [f"The outputs of the pretraining collapsed in {len(names)} of {known} trials: {text}. {listing(names)}."]


def _commands(
    study: StudyFolder, plan: Record, frame: pd.DataFrame, environment: pd.DataFrame
) -> list[tuple[str, str]]:
    codes = environment.loc[environment["what"] == "code", "value"].tolist()
    done = where(frame, {"status": "done"})
    name = f"{study.path.parent.name}/{study.path.name}"
    found = [(f"git checkout {code.removesuffix('+changes')}", _of_code(code)) for code in codes[:1]]
    if plan.get("command"):
        found.append((plan["command"], "all trials; those that are there are not run again"))
    if len(done):
        example = done["trial_id"].tolist()[0]
        found.append((f"python -m cass_tune.reproduce {example}", "one trial again, compared bit for bit"))
    found.append((f"python -m analysis.report {name}", "this page, from the records alone"))
    found.append((f"python -m analysis.bundle {name}", "all records in one file, for a reviewer"))
    return found


def _of_code(code: str) -> str:
    changed = code.endswith("+changes")
    return "the code, which had changes that are in no commit" if changed else "the code"


def write(study: StudyFolder, published: Mapping[str, object] | None = None) -> str:
    """Write everything that is derived from a study's records, its report last, and return its tables as text."""
    frame = save(study)
    found = gather(study, published, frame)
    tables.write(study, found.sheets)
    for plot in found.plots:
        figures.save(study, plot)
    write_text(study.report, report_html.render(found))
    write_text(study.report_markdown, report_markdown.render(found))
    places = [f"written to {study.tables}", f"written to {study.plots}", f"report: {study.report}"]
    return "\n\n".join([tables.text_of(study, found.sheets, frame, published), "\n".join(places)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of a study."""
    return run("Write the tables, plots and report of a study, finished or not.", write, arguments)


if __name__ == "__main__":
    sys.exit(main())
