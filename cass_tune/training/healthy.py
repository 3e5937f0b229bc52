"""When a pretraining counts as collapsed: the numbers, known without torch, so that a plot can show them."""

from __future__ import annotations

from cass_tune.config import METHODS

COLLAPSED_BELOW = 0.1
"""Feature std, as a share of its healthy value, below which an arm counts as collapsed."""

HEALTHY_STD = 1.0
"""Feature std of outputs that are well (`cass_tune.training.collapse.feature_std`)."""

SUPERVISED_STD = 0.5
"""The same of features: no loss takes the offset away that all share, and an untrained transformer has 0.1."""


def collapsed_below(method: str) -> float | None:
    """Return the feature std below which a pretraining counts as collapsed, or None: a method of your own says it.

    Args:
        method: ``pretrain.method`` of a trial.
    """
    if method not in METHODS or method == "none":
        return None
    return COLLAPSED_BELOW * (SUPERVISED_STD if method == "supervised" else HEALTHY_STD)
