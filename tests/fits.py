"""Fittings for tests."""

from __future__ import annotations

from cass_tune.fitting import Fit, Fitting


def given(share: float) -> Fitting:
    """Return a fitting that gives every trial the same share of a card."""
    cap = share if 0 < share < 1 else 1.0
    return lambda wanted, device_kind: Fit(share, cap)
