"""A report as one page of HTML: no scripts, and nothing that is fetched, so that it can be mailed and archived."""

from __future__ import annotations

import base64
import functools
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from analysis.report_markdown import DEMO, PLACES
from analysis.typeset import minus

if TYPE_CHECKING:
    from analysis.figures import Plot
    from analysis.report import Report


PX_PER_IN = 140
"""How large the page shows a figure that was made for print."""


def render(report: Report) -> str:
    """Return the page.

    Args:
        report: of `analysis.report.gather`.
    """
    return _template().render(
        report=report,
        sheets=[sheet for sheet in report.sheets if not sheet.is_empty],
        image=_image,
        width_px=_width_px,
        demo=DEMO,
        places=PLACES,
        environment=report.environment.to_dict("records"),
    )


@functools.cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["signs"] = _signs
    return environment.get_template("report.html.jinja")


def _signs(text: str) -> str:
    """Return text with the signs that numbers have in print."""
    return minus(text.replace("+-", "\N{PLUS-MINUS SIGN}"), "\N{MINUS SIGN}")


def _width_px(plot: Plot) -> int:
    return round(plot.figure.get_figwidth() * PX_PER_IN)


def _image(plot: Plot) -> str:
    """Return a figure as text that stands in the page itself."""
    return f"data:image/png;base64,{base64.b64encode(plot.png).decode()}"
