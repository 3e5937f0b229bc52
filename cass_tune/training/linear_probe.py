"""The linear probe: logistic regression on a network's frozen features.

Everything is fitted on the labelled images alone; the validation images choose `C`, and their labels are never trained
on. It is a module of its own because scikit-learn takes a second to import.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from cass_tune.training.feature_probes import Between, Features, Record, evaluated, nothing, one_hot, probe_metrics

C_GRID = tuple(10.0**exponent for exponent in range(-5, 4))
"""Inverse strengths of the linear probe's regularisation, ascending."""
MAX_ITERATIONS = 1000
CONSTANT = 1e-6
"""Share of a feature's size below which its standard deviation is float32's rounding, and the feature constant."""


def linear_probe(
    parts: Mapping[str, Features], classes: int, *, is_balanced: bool = True, between: Between = nothing
) -> Record:
    """Return how well multinomial logistic regression on standardised features tells the classes apart.

    In a multi-label set, each label has a logistic regression of its own, all with the same `C`.

    Of `C_GRID` the value with the highest macro-F1 on the validation images is taken, of equal ones the smallest. It is
    not fitted again with the validation labels: how few labels there are is what a study varies. Protocol: Kornblith et
    al. 2019 (arXiv 1805.08974, appendix A.2), with standardised features, class weights and a coarser grid.

    Args:
        parts: features by ``labelled``, ``validation`` and ``test``.
        classes: number of classes; those without a labelled image get probability 0.
        is_balanced: weight every class equally, instead of every image.
        between: called between two fits.

    Returns:
        ``c`` (None when there is nothing to tell apart), whether that is an end of the grid, ``iterations``,
        ``converged``, and `METRICS` by ``validation`` and ``test``.
    """
    standardised = _standardised(parts)
    labelled, validation = standardised["labelled"], standardised["validation"]
    if len(np.unique(labelled.labels, axis=0)) == 1:
        only = one_hot(labelled.labels[:1], classes)
        return {"c": None, "at_grid_end": False, "iterations": 0, "converged": True} | evaluated(
            parts, lambda queries: np.repeat(only, len(queries), axis=0).astype(np.float64)
        )
    best: tuple[float, _Fit] | None = None
    with threadpool_limits(torch.get_num_threads()):
        for c in C_GRID:
            fit = _fit(labelled, c, classes, is_balanced)
            score = probe_metrics(fit.probabilities(validation.values), validation.labels)["macro_f1"]
            if best is None or score > best[0]:
                best = score, fit
            between()
        assert best is not None
        fit = best[1]
        found = {"c": fit.c, "at_grid_end": fit.c in (C_GRID[0], C_GRID[-1])}
        found |= {"iterations": fit.iterations, "converged": fit.converged}
        return found | evaluated(standardised, fit.probabilities)


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """Fitted logistic regressions.

    Args:
        c: inverse strength of the regularisation.
        models: one of all classes; or one per label, None for a label that all labelled images have, or none.
        labelled: targets of the labelled images, shape (images, classes).
        converged: whether all of them did.
    """

    c: float
    models: Sequence[LogisticRegression | None]
    labelled: np.ndarray
    converged: bool

    @property
    def iterations(self) -> int:
        return max(int(model.n_iter_.max()) for model in self.models if model is not None)

    def probabilities(self, values: np.ndarray) -> np.ndarray:
        found = np.repeat(self.labelled[:1], len(values), axis=0).astype(np.float64)
        if len(self.models) == 1 and (model := self.models[0]) is not None:
            found[:] = 0
            found[:, model.classes_] = model.predict_proba(values)
            return found
        for number, model in enumerate(self.models):
            if model is not None:
                found[:, number] = model.predict_proba(values)[:, 1]
        return found


def _fit(labelled: Features, c: float, classes: int, is_balanced: bool) -> _Fit:
    columns = [labelled.labels] if labelled.labels.ndim == 1 else list(labelled.labels.T)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        models = [_regression(labelled.values, labels, c, is_balanced) for labels in columns]
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return _Fit(c=c, models=models, labelled=one_hot(labelled.labels, classes), converged=converged)


def _regression(values: np.ndarray, labels: np.ndarray, c: float, is_balanced: bool) -> LogisticRegression | None:
    if len(np.unique(labels)) == 1:
        return None
    model = LogisticRegression(C=c, max_iter=MAX_ITERATIONS, class_weight="balanced" if is_balanced else None)
    return model.fit(values, labels)


def _standardised(parts: Mapping[str, Features]) -> dict[str, Features]:
    """Return the features by mean and standard deviation of the labelled images; constant ones become 0."""
    values = parts["labelled"].values
    mean, std = values.mean(axis=0), values.std(axis=0)
    scale = np.where(std > CONSTANT * np.abs(values).max(axis=0), std, np.inf)
    return {name: Features(values=(part.values - mean) / scale, labels=part.labels) for name, part in parts.items()}
