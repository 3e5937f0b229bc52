"""Packages that only some studies need, and the error that says how to get them."""

from __future__ import annotations

from importlib.util import find_spec

from cass_tune.errors import UsageError


def needs(package: str, extra: str, what: str) -> None:
    """Raise a UsageError when a package is missing.

    Args:
        package: to be imported.
        extra: of this project that brings it.
        what: needs it, as the user knows it.
    """
    if find_spec(package) is None:
        raise UsageError(
            f'{what} needs the package {package}, which is not installed: pip install "cass-tune[{extra}]".'
        )
