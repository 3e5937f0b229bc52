"""What a search has found, in words and tables."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pandas as pd

from analysis.format import WIDTH, aligned, wrap
from analysis.frames import Values, records
from analysis.notes import heading, subject, unfinished
from analysis.results import read_plans, study_axes
from analysis.search import PARAMETER, importance, search_table
from analysis.sheet import Sheet
from analysis.time_sheets import account
from cass_tune.config import ARMS, Finetune
from cass_tune.results import Record, StudyFolder

SHOWN = 15
"""So many trials are shown in the terminal; the files have all."""

EXPLANATION = (
    "Values are those of the validation images, each arm with the weights of its best epoch, mean of the arms that"
    " count. ft epochs: epochs of finetuning of these arms. A pruned trial was not among the best third of those that"
    " had ended when it was suggested; its value is the last, of the networks that were finetuned by then. collapsed:"
    " the outputs of its pretraining became constant. Only the winner is tested, because the best of many looks too"
    " good on the images by which it was chosen; another test stems from another study, or from the same search when it"
    " had fewer trials."
)
POPULATION = (
    "of: the trial that it went on from, with the same parameters or changed ones; the epochs before are the same."
)
IMPORTANCE = (
    "importance: share of the variance of the complete trials' values that a parameter explains alone (fANOVA); few or"
    " pruned trials make it uncertain, and conditional parameters are not compared."
)


def render(study: StudyFolder, found: list[Sheet], frame: pd.DataFrame) -> str:
    """Return what a search has found as text.

    Args:
        study: its folder.
        found: of `sheets`.
        frame: of `analysis.results.load`.
    """
    plan = read_plans(study)[-1]
    journal = study.search(plan["search"]["id"]).journal
    return f"{_render(study, plan, frame, found)}\n\nOptuna's journal: {journal}"


def sheets(study: StudyFolder, frame: pd.DataFrame) -> list[Sheet]:
    """Return the tables of a search: its trials, the importance of the parameters, and what was spent."""
    return _sheets(study, read_plans(study)[-1], frame)


def _sheets(study: StudyFolder, plan: Record, frame: pd.DataFrame) -> list[Sheet]:
    table, shares = search_table(study, plan), importance(study, plan)
    make = partial(Sheet, subject=subject(plan), head=heading(plan, frame, study_axes([plan])))
    complete = table.loc[table["state"] == "complete", "trial_id"].tolist() if len(table) else []
    return [
        make(
            name=_file_name(plan, "search"),
            title="Trials of the search",
            numbers=table,
            rows=_rows(table, plan, _parameters(table)),
            notes=[EXPLANATION, *([POPULATION] if _has_parents(table) else [])],
            trials=[row["trial_id"] for row in _ranked(table, plan)],
            is_empty=table.empty,
        ),
        make(
            name=_file_name(plan, "importance"),
            title="Importance of the parameters",
            numbers=shares.assign(trial_ids=" ".join(complete)),
            rows=_shares(shares),
            notes=[IMPORTANCE],
            trials=[" ".join(complete)] * len(shares),
            is_empty=shares.empty,
        ),
        account(make, study, plan),
    ]


def _file_name(plan: Record, stem: str) -> str:
    return f"DEMO_{stem}" if plan["demo"] else stem


def _render(study: StudyFolder, plan: Record, frame: pd.DataFrame, found: list[Sheet]) -> str:
    trials, shares, spending = found
    table = trials.numbers
    if table.empty:
        return f"{plan['title']}: nothing has been suggested yet."
    states = Counter(table["state"].tolist())
    counts = ", ".join(
        f"{states[state]} {state}" for state in ("complete", "pruned", "failed", "open") if states[state]
    )
    of = f"{plan['search']['algorithm']}, {' and '.join(plan['search']['objectives'])}"
    first = f"search {plan['search']['id']} ({of}): {len(table)} of {plan['search']['trials']} trials: {counts}"
    blocks = [
        [*heading(plan, frame, study_axes([plan])), wrap(first)],
        _shown(table, plan),
        [wrap(EXPLANATION), *([wrap(POPULATION)] if _has_parents(table) else [])],
        _winner(study, plan, table),
        ["importance: too few complete trials" if shares.is_empty else shares.text()],
        [] if spending.is_empty else [spending.text()],
        [line for line in unfinished(frame) if not line.startswith(("untested", "pruned", "collapsed"))],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _shown(table: pd.DataFrame, plan: Record) -> list[str]:
    """Return the best trials for a terminal; parameters that do not fit into the table stand below it."""
    best = pd.DataFrame(_ranked(table, plan)[:SHOWN], columns=table.columns)
    whole = aligned(_rows(best, plan, _parameters(table)))
    if max(map(len, whole.splitlines())) <= WIDTH:
        return [whole]
    names = {name: name.removeprefix(PARAMETER) for name in _parameters(table)}
    lines = []
    for row in records(best):
        known = (f"{short}={_parameter(row[name])}" for name, short in names.items() if row[name] is not None)
        lines.append(wrap(f"#{row['number']}: {' '.join(known)}"))
    return [aligned(_rows(best, plan, [])), "", *lines]


def _parameters(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table.columns if str(name).startswith(PARAMETER)]


def _ranked(table: pd.DataFrame, plan: Record) -> list[Values]:
    """Return the trials, complete ones by their first value, then the others."""
    return sorted(records(table), key=lambda row: _rank(row, plan["search"]["objectives"][0]))


def _rows(table: pd.DataFrame, plan: Record, parameters: list[str]) -> list[list[str]]:
    """Return trials as text, see `_ranked`, with some of their parameters."""
    objectives = plan["search"]["objectives"]
    names = [name.removeprefix(PARAMETER) for name in parameters]
    has_front, has_parents = len(objectives) > 1, _has_parents(table)
    stem = ["of"] if has_parents else []
    header = ["#", *stem, "trial", "state", *objectives, "ft epochs", *(f"test {arm}" for arm in ARMS), *names]
    rows = [
        [
            f"{row['number']}{'*' if row['best'] else ''}{'+' if has_front and row['front'] else ''}",
            *(["-" if row["parent"] is None else str(row["parent"])] if has_parents else []),
            row["trial_id"],
            _state(row),
            *(_number(row[name]) for name in objectives),
            str(row["finetune_epochs"]),
            *(_number(row[f"test_macro_f1_{arm}"]) for arm in ARMS),
            *(_parameter(row[name]) for name in parameters),
        ]
        for row in _ranked(table, plan)
    ]
    return [header, *rows]


def _has_parents(table: pd.DataFrame) -> bool:
    return bool(table["parent"].notna().any())


def _state(row: Values) -> str:
    state = "collapsed" if row["why"].startswith("Collapsed") else row["state"]
    return state if row["repeats"] is None else f"{state}, as #{row['repeats']}"


def _rank(row: Values, objective: str) -> tuple[int, float]:
    order = ("complete", "pruned", "failed", "open")
    return order.index(row["state"]), -(row[objective] or 0.0)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _parameter(value: object) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def verdict(study: StudyFolder) -> list[str]:
    """Return which trial of a search is the best, and how to run it in a study."""
    plan = read_plans(study)[-1]
    return [" ".join(line.split()) for line in _winner(study, plan, search_table(study, plan))]


def _winner(study: StudyFolder, plan: Record, table: pd.DataFrame) -> list[str]:
    best = [row for row in records(table) if row["best"]]
    if not best:
        return ["no winner: no trial is complete"]
    (row,) = best
    record = study.search(plan["search"]["id"]).suggestions()[row["number"]]
    tested = ", ".join(f"{arm} {_number(row[f'test_macro_f1_{arm}'])}" for arm in ARMS)
    objective = plan["search"]["objectives"][0]
    return [
        f"winner (*): #{row['number']}, validation {objective} {_number(row[objective])}, test macro-F1 {tested}",
        wrap(_how_to_run(record)),
    ]


def _how_to_run(record: Record) -> str:
    """Return how a study makes the trial of a suggestion; options cannot change values on its way."""
    finetune = Finetune(**record["trial"]["config"]["finetune"])
    if finetune.changes:
        changes = "; ".join(map(str, finetune.changes))
        return f"its finetuning of {finetune.epochs} epochs (finetune.changes of its config.json): {changes}"
    fields = {**record["fields"], **({"finetune.epochs": finetune.epochs} if "population" in record else {})}
    options = " ".join(f"--{path.replace('_', '-')} {value}" for path, value in fields.items() if value is not None)
    return f"to run it in a study, with several seeds: {options}"


def _shares(shares: pd.DataFrame) -> list[list[str]]:
    rows = [[row["objective"], row["parameter"], f"{row['importance']:.2f}"] for row in records(shares)]
    return [["objective", "parameter", "importance"], *rows]
