"""A search on disk as numbers: its trials, the front of two objectives, and which parameters matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cass_tune.config import ARMS
from cass_tune.results import Record, StudyFolder
from cass_tune.search.history import DIRECTIONS, frozen, study

LEAST_TRIALS = 4
"""Complete trials without which nothing is said of parameters."""

PARAMETER = "param_"
"""Before the name of a parameter in a column."""


def is_search(plans: Sequence[Record]) -> bool:
    """Return whether what was asked for last is a search."""
    return bool(plans) and "search" in plans[-1]


def search_table(folder: StudyFolder, plan: Record) -> pd.DataFrame:
    """Return one row per suggestion, in order.

    Args:
        folder: of the study.
        plan: the search that was asked for.

    Returns:
        number, trial_id, digest, state (complete, pruned, failed, open), why, the objectives (of a pruned trial its
        last value), finetune_epochs (that were compared), repeats (the number of an earlier suggestion of the same
        trial), parent (in a population: the number of the suggestion that it went on from), best (whether it is the
        winner), front (whether no other is better in every objective), of tested trials test_macro_f1 by arm, and the
        parameters as ``param_<name>``.
    """
    search = folder.search(plan["search"]["id"])
    suggestions, outcomes = search.suggestions()[: plan["search"]["trials"]], search.outcomes()
    objectives = plan["search"]["objectives"]
    names = list(dict.fromkeys(name for record in suggestions for name in record["params"]))
    seen: dict[str, int] = {}
    rows = []
    for record in suggestions:
        digest, outcome = record["trial"]["digest"], outcomes.get(record["number"], {})
        values = outcome.get("values") or [None] * len(objectives)
        curve = outcome.get("curve") or {}
        result = folder.results.trial(digest).result() or {"arms": {}}
        rows.append(
            {
                "number": record["number"],
                "trial_id": folder.results.trial(digest).id,
                "digest": digest,
                "state": outcome.get("state", "open"),
                "why": outcome.get("why", ""),
                **{name: values[n] if n < len(values) else None for n, name in enumerate(objectives)},
                "finetune_epochs": max(map(int, curve), default=0),
                "repeats": seen.get(digest),
                "parent": record.get("population", {}).get("parent"),
                **{f"test_macro_f1_{arm}": _test(result, arm) for arm in ARMS},
                **{f"{PARAMETER}{name}": record["params"].get(name) for name in names},
            }
        )
        seen.setdefault(digest, record["number"])
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    table = table.astype({"repeats": "Int64", "parent": "Int64"})
    floats = [*objectives, *(f"test_macro_f1_{arm}" for arm in ARMS)]
    table[floats] = table[floats].astype("float64")
    complete = {row["number"]: [row[name] for name in objectives] for row in rows if row["state"] == "complete"}
    winner = max(complete, key=lambda number: complete[number][0], default=None)
    table["best"] = table["number"] == winner
    front = [n for n, own in complete.items() if not any(_dominates(other, own) for other in complete.values())]
    table["front"] = table["number"].isin(front)
    return table


def _test(result: Mapping[str, Any], arm: str) -> float | None:
    return result["arms"].get(arm, {}).get("test", {}).get("macro_f1")


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether one is at least as good in every objective, and better in one."""
    signs = [1 if direction == "maximize" else -1 for direction in DIRECTIONS]
    gains = [sign * (a - b) for sign, a, b in zip(signs, one, other, strict=False)]
    return min(gains) >= 0 and max(gains) > 0


def importance(folder: StudyFolder, plan: Record) -> pd.DataFrame:
    """Return which share of the variance of each objective each parameter explains (fANOVA; Hutter et al., 2014).

    A random forest is fitted to the complete trials; parameters that not all of them have (conditional ones) cannot be
    compared and are left out, as Optuna does.

    Returns:
        objective, parameter, importance (they sum to 1), trials (that it was fitted to); no rows with fewer than
        `LEAST_TRIALS` complete trials, or none that differ.
    """
    import optuna

    search = folder.search(plan["search"]["id"])
    outcomes, objectives = search.outcomes(), plan["search"]["objectives"]
    suggestions = search.suggestions()[: plan["search"]["trials"]]
    ended = [frozen(r, outcomes[r["number"]]) for r in suggestions if r["number"] in outcomes]
    complete = [trial for trial in ended if trial.state == optuna.trial.TrialState.COMPLETE]
    rows: list[Record] = []
    for number, objective in enumerate(objectives):
        values = [trial.values[number] for trial in complete]
        if len(complete) < LEAST_TRIALS or len(set(values)) < 2:
            continue
        found = optuna.importance.get_param_importances(
            study(len(objectives), complete),
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
            target=lambda trial, number=number: trial.values[number],
        )
        rows += [
            {"objective": objective, "parameter": name, "importance": value, "trials": len(complete)}
            for name, value in found.items()
        ]
    return pd.DataFrame(rows, columns=["objective", "parameter", "importance", "trials"])
