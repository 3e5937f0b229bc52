"""A study as a journal of Optuna, so that ``optuna-dashboard`` shows it beside searches.

Run it with ``python -m analysis.optuna_journal STUDY [--results DIR]``, then ``optuna-dashboard journal.log``. The
value of a trial is its macro-F1 on the validation images, mean of the arms; its parameters are the axes, the method
and the seed. A search writes its own journal while it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from analysis.command import run
from analysis.epochs import load_epochs
from analysis.frames import Values, by, first, plain, records, where
from analysis.results import column, load, read_plans, study_axes
from analysis.search import is_search
from cass_tune.errors import UsageError
from cass_tune.results import Record, Results, StudyFolder
from cass_tune.storage import AnyPath

_STATES = {"done": "complete", "untested": "complete", "failed": "failed", "pruned": "pruned", "collapsed": "pruned"}


def write_journal(study: StudyFolder) -> AnyPath:
    """Write the journal of a study's trials that have ended, in the order in which they were asked for.

    Args:
        study: its folder.

    Returns:
        The path of the journal.

    Raises:
        UsageError: it is a search, which has one of its own, or nothing was asked for.
    """
    from cass_tune.search import history

    plans = read_plans(study)
    if is_search(plans):
        own = study.search(plans[-1]["search"]["id"]).journal
        raise UsageError(f"{study.path} is a search, which writes a journal of its own: optuna-dashboard {own}.")
    found = list(_trials(study, study_axes(plans)))
    suggestions = [{**suggestion, "number": number} for number, (suggestion, _) in enumerate(found)]
    outcomes = {number: outcome for number, (_, outcome) in enumerate(found)}
    history.write_journal(study.journal, plans[-1]["study"], 1, suggestions, outcomes)
    return study.journal


def _trials(study: StudyFolder, axes: Sequence[str]) -> Iterator[tuple[Record, Record]]:
    """Yield what was asked of every trial that has ended, and what became of it, as a search records them."""
    frame, epochs = load(study), load_epochs(study)
    names = [*map(column, axes), "pretrain_method", "seed"]
    choices = {name: sorted(filter(_is_known, frame[name].unique().tolist()), key=_rank) for name in names}
    for rows in by(frame, ["digest"]):
        row = first(rows)
        state = _STATES.get(row["status"])
        if state is not None:
            params = {name: row[name] for name in choices if row[name] is not None}
            start, end = _times(study.results, row["digest"])
            asked = {"params": params, "distributions": _distributions(params, choices), "time": start}
            curve = _curve(where(epochs, {"digest": row["digest"]}))
            scores = [arm["validation_macro_f1"] for arm in records(rows)]
            value = [sum(scores) / len(scores)] if state == "complete" and None not in scores else None
            known = state if value is not None or state != "complete" else "failed"
            yield {**asked, "trial": row}, {"state": known, "values": value, "curve": curve, "time": end}


def _is_known(value: object) -> bool:
    return plain(value) is not None


def _rank(value: object) -> tuple[bool, object]:
    return isinstance(value, str), value


def _distributions(params: Values, choices: Mapping[str, list[object]]) -> dict[str, str]:
    from optuna.distributions import CategoricalDistribution, distribution_to_json

    plains = {name: [plain(value) for value in choices[name]] for name in params}
    return {name: distribution_to_json(CategoricalDistribution(values)) for name, values in plains.items()}


def _times(results: Results, digest: str) -> tuple[str, str]:
    """Return when a trial began and when it ended."""
    attempts = results.trial(digest).attempts()
    if not attempts:
        return "1970-01-01T00:00:00+00:00", "1970-01-01T00:00:00+00:00"
    ends = [attempt["ended"]["time"] for attempt in attempts if attempt["ended"]]
    return attempts[0]["started"], (ends or [attempts[-1]["started"]])[-1]


def _curve(epochs: pd.DataFrame) -> dict[str, float]:
    """Return macro-F1 on the validation images by epoch of finetuning, one arm after the other."""
    rows = epochs.loc[epochs["phase"].str.startswith("finetune")]
    return {str(number): float(value) for number, value in enumerate(rows["macro_f1"], 1) if _is_known(value)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the journal of a study."""

    def action(study: StudyFolder, published: Mapping[str, object]) -> str:
        return f"optuna-dashboard {write_journal(study)}"

    return run("Write a study as a journal of Optuna, for optuna-dashboard.", action, arguments)


if __name__ == "__main__":
    sys.exit(main())
