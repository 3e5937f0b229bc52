"""What the papers of CASS claim, and whether a study supports it, does not, or cannot tell, and by what rule.

The claims are those of the abstracts of CASS (arXiv 2206.04170, 2301.12025, 2308.10064), their sizes those of
published.csv. A study tests a claim in its own setting (its data, networks and epochs), which may not be the papers'.
Each verdict is made from one 95 % interval over seeds: the paired differences of every seed, averaged over the networks
and settings that have both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd

from analysis.contrasts import differences, drops, evidence, ranges, ratios, together
from analysis.format import setting
from analysis.frames import where
from analysis.published import METRIC, read
from analysis.results import column
from analysis.statistics import Estimate, summarise

Verdict = Literal["supported", "not supported", "cannot tell"]

ABSTRACTS = "abstracts of arXiv 2206.04170, 2301.12025, 2308.10064"
COLUMNS = ("claim", "source", "rule", "verdict", "mean", "low", "high", "n", "evidence")

_DIRECTION = "supported: the interval of {what} lies above 0; not supported: below 0"
_SIZE = "supported: the interval of {what} lies above 0 and reaches {size}; not supported: it ends below {size}"
_ROBUST = "supported: the interval of {what} ends below {size}; not supported: it begins above {size}"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim, and what became of it.

    Args:
        text: the claim.
        source: where it is made.
        rule: by which the verdict is given.
        verdict: on the estimate.
        estimate: of what the rule speaks of, in its unit (a share, not percent).
        evidence: the parts of which the estimate is made, in words.
    """

    text: str
    source: str
    rule: str
    verdict: Verdict
    estimate: Estimate
    evidence: str


def claims(frame: pd.DataFrame, axes: Sequence[str]) -> list[Claim]:
    """Return every claim that a study can test.

    Args:
        frame: rows that may share a table (`analysis.groups.split`).
        axes: the study's axes, as ``section.field``.
    """
    cass = where(frame, {"pretrain_method": "cass"})
    if cass.empty:
        return []
    others = [name for name in frame["pretrain_method"].unique().tolist() if name != "cass"]
    return [
        *_gains(frame, list(axes), others),
        *_gains_by_labels(frame, list(axes), others),
        *_time(cass, where(frame, {"pretrain_method": "dino"})),
        *_robust(cass, list(axes)),
        *_more_robust(frame, list(axes), others),
    ]


def claims_table(found: Sequence[Claim]) -> pd.DataFrame:
    """Return claims as a table of `COLUMNS`."""
    rows = [
        (claim.text, claim.source, claim.rule, claim.verdict, *_numbers(claim.estimate), claim.evidence)
        for claim in found
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _numbers(estimate: Estimate) -> tuple[float, float, float, int]:
    return estimate.mean, estimate.low, estimate.high, estimate.n


# The rules


def direction(estimate: Estimate) -> Verdict:
    """Return the verdict on a claim that something is above 0."""
    if estimate.n < 2:
        return "cannot tell"
    return "supported" if estimate.low > 0 else "not supported" if estimate.high < 0 else "cannot tell"


def size(estimate: Estimate, claimed: float) -> Verdict:
    """Return the verdict on a claim that something is above 0 and as large as claimed."""
    if estimate.n < 2:
        return "cannot tell"
    return "not supported" if estimate.high < claimed else "supported" if estimate.low > 0 else "cannot tell"


def small(estimate: Estimate, margin: float) -> Verdict:
    """Return the verdict on a claim that something is no larger than a margin."""
    if estimate.n < 2:
        return "cannot tell"
    return "supported" if estimate.high < margin else "not supported" if estimate.low > margin else "cannot tell"


# The gain in F1


def _gains(frame: pd.DataFrame, axes: list[str], others: Sequence[str]) -> Iterator[Claim]:
    """Yield that CASS is better than each other method of the study."""
    for other in others:
        parts = differences(frame, axes, other)
        if parts:
            name = "finetuning without pretraining" if other == "none" else _name(other)
            rule = _DIRECTION.format(what=f"the difference in macro-F1 from {name}")
            estimate = together(parts)
            yield Claim(
                text=f"CASS is better than {name}",
                source=ABSTRACTS,
                rule=rule,
                verdict=direction(estimate),
                estimate=estimate,
                evidence=evidence(parts),
            )


def _gains_by_labels(frame: pd.DataFrame, axes: list[str], others: Sequence[str]) -> Iterator[Claim]:
    """Yield the claimed size of the gain over the best other method, by share of labels."""
    for row in read():
        fraction = row["label_fraction"]
        if row["metric"] != "average_gain_percent" or row["caveats"]:  # an older version of the paper says so there
            continue
        alike = where(frame, {"data_label_fraction": fraction})
        of_others = {other: differences(alike, axes, other) for other in others}
        known = {other: parts for other, parts in of_others.items() if parts}
        if known:
            estimates = {other: together(parts) for other, parts in known.items()}
            best = min(estimates, key=lambda other: (not estimates[other].n, estimates[other].mean))
            estimate, claimed = estimates[best], row["value"] / 100
            what = f"the difference in macro-F1 from the best other method here ({_name(best)})"
            labels = setting("data_label_fraction", fraction)
            yield Claim(
                text=f"with {labels} of the labels, CASS gains {row['value']:g} points on the best other method"
                f" ({row['dataset']})",
                source=row["source"],
                rule=_SIZE.format(what=what, size=f"{claimed:g}"),
                verdict=size(estimate, claimed),
                estimate=estimate,
                evidence=evidence(known[best]),
            )


def _name(method: str) -> str:
    return {"none": "no pretraining", "dino": "DINO", "supervised": "supervised pretraining"}.get(method, method)


# The time


def _time(cass: pd.DataFrame, dino: pd.DataFrame) -> Iterator[Claim]:
    """Yield the claimed reduction of the time of pretraining against DINO, both networks counted on both sides."""
    (row,) = (row for row in read() if row["metric"] == "time_reduction_percent")
    found = ratios(cass, dino)
    if found.empty:
        return
    estimate, claimed = summarise(1 - found), row["value"] / 100
    yield Claim(
        text=f"CASS takes {row['value']:g} % less time to pretrain than DINO",
        source=row["source"],
        rule=_SIZE.format(what="the share of DINO's time that is saved, both networks counted", size=f"{claimed:g}"),
        verdict=size(estimate, claimed),
        estimate=estimate,
        evidence=f"time of CASS over that of DINO {summarise(found).text()}, on the same kind of device",
    )


# The robustness


def _factors(axes: Sequence[str]) -> dict[str, str]:
    names = {"pretrain.batch_size": "batch size", "pretrain.epochs": "number of epochs"}
    return {axis: name for axis, name in names.items() if axis in axes}


def _robust(cass: pd.DataFrame, axes: list[str]) -> Iterator[Claim]:
    """Yield that CASS does not depend on batch size and epochs: no more than the spread that the paper itself shows.

    A network or setting of which nothing can be told counts as the one where the drop is largest.
    """
    for factor, name in _factors(axes).items():
        margin, parts = published_spread(factor), drops(cass, factor, axes)
        if margin is None or not parts or summarise(cass["macro_f1"]).n == 0:
            continue
        worst = max((summarise(values) for values in parts.values()), key=_end)
        what = "the drop in macro-F1 from the level with the highest mean to the lowest one, where it is largest,"
        yield Claim(
            text=f"CASS is robust to the {name} of the pretraining",
            source=ABSTRACTS,
            rule=_ROBUST.format(what=what, size=f"{margin:.3g} (the largest spread that the paper shows)"),
            verdict=small(worst, margin),
            estimate=worst,
            evidence=evidence(parts),
        )


def _end(estimate: Estimate) -> float:
    return estimate.high if estimate.n > 1 else math.inf


def published_spread(factor: str) -> float | None:
    """Return the largest difference over the levels of a factor that the paper shows for one network, or None.

    Args:
        factor: ``pretrain.batch_size`` or ``pretrain.epochs``.
    """
    fixed = {"pretrain.batch_size": "pretrain_epochs", "pretrain.epochs": "pretrain_batch_size"}[factor]
    spreads: dict[tuple[object, object], list[float]] = {}
    for row in read():
        if (row["origin"], row["method"], row["metric"]) == ("paper", "CASS", METRIC) and row[column(factor)]:
            spreads.setdefault((row["arm"], row[fixed]), []).append(row["value"])
    return max((max(values) - min(values) for values in spreads.values() if len(values) > 1), default=None)


def _more_robust(frame: pd.DataFrame, axes: list[str], others: Sequence[str]) -> Iterator[Claim]:
    """Yield that CASS depends less on batch size and epochs than the other methods that have them."""
    for factor, name in _factors(axes).items():
        own, *of_others = (
            ranges(where(frame, {"pretrain_method": method}), factor, axes) for method in ("cass", *others)
        )
        for other, beside in zip(others, of_others, strict=True):
            parts = {key: found for key in own if key in beside if len(found := beside[key].sub(own[key]).dropna())}
            if parts:
                estimate = together(parts)
                what = f"the range of {_name(other)} over the levels minus that of CASS"
                yield Claim(
                    text=f"CASS is more robust to the {name} than {_name(other)}",
                    source=ABSTRACTS,
                    rule=_DIRECTION.format(what=what),
                    verdict=direction(estimate),
                    estimate=estimate,
                    evidence=evidence(parts),
                )


def summary(found: Sequence[Claim]) -> str:
    """Return how many claims are supported, not supported, and neither, in a sentence."""
    if not found:
        return "This study can test no claim of the papers."
    counts = {verdict: sum(claim.verdict == verdict for claim in found) for verdict in get_args(Verdict)}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"Claims of the papers that this study tests, in its own setting: {len(found)}; {told}."
