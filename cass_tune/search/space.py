"""A space of trials, define-by-run: which fields a suggestion sets, and whether these make a trial."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from cass_tune.config import SECTIONS, Trial, from_json, options_of, to_json, with_fields
from cass_tune.errors import UsageError, did_you_mean
from cass_tune.presets import as_method

if TYPE_CHECKING:
    import optuna

Space = Callable[["optuna.Trial"], Mapping[str, Any]]
"""Asks a trial of Optuna for parameters and returns values by ``"section.field"``."""

FIELDS = tuple(f"{section}.{name}" for section, kind in SECTIONS.items() for name in options_of(kind))


def ask(space: Space, trial: optuna.Trial) -> dict[str, Any]:
    """Return the fields that a space sets.

    Raises:
        UsageError: it fails, asks for nothing, sets nothing, or sets what is no field of a trial.
    """
    try:
        fields = space(trial)
    except UsageError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = next((f for f in traceback.extract_tb(error.__traceback__)[1:]), place)
        text = (
            f"The space of the search fails: {type(error).__name__}: {error} ({where.filename}, line {where.lineno})."
        )
        raise UsageError(f"{text} It must return values by field for whatever the trial suggests.") from error
    if not isinstance(fields, Mapping) or not fields or not trial.params:
        got = "asks for no parameter" if isinstance(fields, Mapping) and fields else f"returns {fields!r}"
        raise UsageError(
            f"The space of the search is empty: it {got}. It must ask the trial for parameters (trial.suggest_float, "
            "trial.suggest_categorical, ...) and return the fields that they set, for example "
            '{"finetune.learning_rate": trial.suggest_float("rate", 1e-5, 1e-3, log=True)}.'
        )
    unknown = [path for path in fields if path not in FIELDS]
    if unknown:
        raise UsageError(*(f"The space sets {path!r}: no such field.{did_you_mean(path, FIELDS)}" for path in unknown))
    return dict(fields)


def apply(base: Trial, fields: Mapping[str, Any], params: Mapping[str, Any], given: Collection[str] = ()) -> Trial:
    """Return a trial with the fields of a suggestion, all set at once: rules may join several.

    A pretraining method brings its own values (`cass_tune.presets.of_method`), unless the space or the user sets them.

    Args:
        base: has all other values.
        fields: by ``"section.field"``.
        params: what Optuna suggested, for the message.
        given: fields that the user has set.

    Raises:
        UsageError: they contradict a rule; names it and the parameters.
    """
    try:
        trial = as_method(with_fields(base, fields), {*given, *fields})
        return from_json(json.dumps(to_json(trial)))
    except (UsageError, TypeError, ValueError) as error:
        problems = error.problems if isinstance(error, UsageError) else (str(error),)
        shown = ", ".join(f"{name}={value!r}" for name, value in params.items())
        advice = f"(it suggested {shown}). Change the space, or the fields that are given beside it."
        raise UsageError(*(f"The space contradicts a rule: {text} {advice}" for text in problems)) from error


def check_given(given: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Raise a UsageError for every field that was given although the space sets it."""
    both = [path for path in given if path in fields]
    if both:
        names = [f"--{path.replace('_', '-')}" for path in both]
        raise UsageError(
            *(f"{name} is set by the space of the search: leave it out, or change the space." for name in names)
        )


def label(number: int | None, params: Mapping[str, Any], seed: int) -> str:
    """Return a readable name for a suggestion: its number, what Optuna suggested, and the trial's seed."""
    values = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in params.values())
    words = [f"{name}={value}" for name, value in zip(params, values, strict=True)]
    return " ".join([*([] if number is None else [f"#{number}"]), *words, f"seed={seed}"])
