"""Which factors of a full grid matter: the share of the variance of macro-F1 that each explains."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from analysis.anova import RESIDUAL, anova, complete_seeds
from analysis.figures import ARM_NAMES, COLUMN_IN, OKABE_ITO, new_figure
from analysis.format import short_name
from analysis.frames import where
from cass_tune.config import ARMS

_ONE_FACTOR = 3
"""Rows of an analysis of variance of one factor: the factor, the seeds and the total."""

COLUMNS = ("arm", "source", "name", "degrees", "eta_squared", "p", "seeds")
CAPTION = (
    "Share of the variance of test macro-F1 that each factor, each interaction of factors, and the seeds explain (eta "
    "squared, exact analysis of variance of the full grid, without the controls; {seeds} seeds that have every cell)."
)


def factors(frame: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """Return the record of the importance of factors.

    Args:
        frame: rows that may share a table (`analysis.groups.split`).
        axes: the study's axes, as ``section.field``.

    Returns:
        One row per arm and factor, interaction or residual: its name, degrees of freedom, eta squared (0 to 1), p
        (missing with one seed), and the number of seeds. Without a full grid, or any variance, no rows; nor of
        one factor with one seed.
    """
    trained = frame.loc[frame["pretrain_method"] != "none"]
    rows = [pd.DataFrame(columns=COLUMNS)]
    for arm in ARMS:
        own = where(trained, {"arm": arm})
        table = anova(own, axes)
        seeds = len(complete_seeds(own, axes)) if len(table) else 0
        if seeds == 1 and len(table) == _ONE_FACTOR:
            continue  # its share is 1, whatever it does
        shares = table.loc[table["source"] != "total"].assign(arm=arm, seeds=seeds)
        rows.append(shares.assign(name=[_name(source) for source in shares["source"]]))
    found = pd.concat(rows).reindex(columns=COLUMNS)
    return found.dropna(subset="eta_squared").reset_index(drop=True)


def _name(source: str) -> str:
    if source == RESIDUAL:
        return "Seeds (the rest)"
    name = " \N{MULTIPLICATION SIGN} ".join(short_name(axis) for axis in source.split(" x "))
    return f"{name[:1].upper()}{name[1:]}"


def factors_figure(record: pd.DataFrame, title: str) -> Figure:
    """Draw what `factors` computed: a bar per factor and arm."""
    names = list(dict.fromkeys(record["name"]))
    figure = new_figure(COLUMN_IN, 1.2 + 0.3 * len(names))
    panel = figure.subplots()
    for number, (arm, hatch) in enumerate(zip(ARMS, ("", "////"), strict=True)):
        own = where(record, {"arm": arm})
        places = [names.index(name) + (number - 0.5) * 0.38 for name in own["name"]]
        look = {"color": OKABE_ITO[5 - number], "hatch": hatch, "edgecolor": "white", "linewidth": 0.3}
        panel.barh(places, own["eta_squared"], height=0.36, label=ARM_NAMES[arm], **look)
        for place, share in zip(places, own["eta_squared"], strict=True):
            panel.annotate(f"{share:.2f}", (share, place), (2, 0), textcoords="offset points", va="center", fontsize=7)
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.set_xlim(0, 1.1)
    panel.set_xticks([0, 0.25, 0.5, 0.75, 1])
    panel.set_xlabel("Share of the variance of macro-F1")
    figure.suptitle(title, wrap=True)
    figure.legend(loc="outside lower center", ncols=len(ARMS), frameon=False)
    return figure


def seeds_of(record: pd.DataFrame) -> str:
    """Return the number of seeds that a record rests on, for example ``3``, or ``2 to 3`` where the arms differ."""
    counts = sorted({int(count) for count in record["seeds"]})
    return " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]]))) if counts else "0"
