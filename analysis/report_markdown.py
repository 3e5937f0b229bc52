"""A report as Markdown (GitHub's flavour), its figures beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from analysis.sheet_markdown import escape, table

if TYPE_CHECKING:
    from analysis.report import Report


DEMO = "DEMO: small networks and short training. These numbers show that everything works, not what a method is worth."
"""What stands above the numbers of a demonstration."""

PLACES = "Results are looked for in the root that cass_tune.toml names, or in results; --results DIR names another."
"""What stands above the commands."""


def render(report: Report) -> str:
    """Return the page.

    Args:
        report: of `analysis.report.gather`.
    """
    return "\n\n".join(part for part in _parts(report) if part) + "\n"


def _parts(report: Report) -> Iterator[str]:
    yield f"# {escape(report.question)}"
    yield escape(report.title)
    if report.is_demo:
        yield f"**{DEMO}**"
    yield "  \n".join(map(escape, report.facts))
    yield "## Verdict"
    yield "\n".join(f"> {escape(sentence)}" for sentence in report.verdict) or "There is nothing to compare."
    yield escape(f"{report.states}. {report.rule}".strip())
    yield from (f"**Warning:** {escape(warning)}" for warning in report.warnings)
    yield from _claims(report)
    yield "## Tables"
    yield from (sheet.markdown(is_alone=False) for sheet in report.sheets if not sheet.is_empty)
    if report.published:
        yield _fenced(report.published)
    yield "## Figures"
    yield from (f"![{escape(plot.title)}](plots/{plot.name}.png)\n\n{escape(plot.caption)}" for plot in report.plots)
    yield "## What failed, and what is missing"
    yield _fenced(report.unfinished) if report.unfinished else "Nothing: every trial is done."
    yield "## Environment"
    rows = [[escape(str(value)) for value in row] for row in report.environment.itertuples(index=False)]
    yield table([["What", "Value", "Trials"], *rows])
    yield "## The same again"
    yield PLACES
    yield _fenced([f"{command}    # {what}" for command, what in report.commands])
    yield "## Citation"
    yield _fenced(report.citations)


def _claims(report: Report) -> Iterator[str]:
    if not report.claims_summary:
        return
    yield "## Claims of the papers"
    yield escape(report.claims_summary)
    headers = ["Claim", "Here", "Estimate, 95 % interval", "n", "Rule", "Evidence", "Source"]
    rows = [
        [
            *(claim.text, claim.verdict, claim.estimate.text(signed=True), str(claim.estimate.n)),
            *(claim.rule, claim.evidence, claim.source),
        ]
        for claim in report.claims
    ]
    if rows:
        yield table([headers, *([escape(cell) for cell in row] for row in rows)])


def _fenced(lines: list[str]) -> str:
    return "```\n" + "\n".join(lines) + "\n```"
