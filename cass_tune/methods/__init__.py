"""Pretraining methods, by the name that ``pretrain.method`` gives; ``none`` has no steps and is not here."""

from __future__ import annotations

import importlib

from cass_tune.data.loader import Views
from cass_tune.errors import UsageError
from cass_tune.methods.base import Method, Progress, View
from cass_tune.training.precision import in_float32

__all__ = ["Method", "Progress", "View", "Views", "in_float32", "method_class"]

METHODS = {
    "cass": "cass_tune.methods.cass:Cass",
    "dino": "cass_tune.methods.dino:DinoMethod",
    "supervised": "cass_tune.methods.supervised:Supervised",
}
"""Class by name, as ``module:Class``."""


def method_class(name: str) -> type[Method]:
    """Return the class of a method.

    Args:
        name: a key of `METHODS`, or your own class as ``module:Class``, in a module that every machine can import.

    Raises:
        UsageError: there is no such class.
    """
    place = METHODS.get(name, name)
    module, _, attribute = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # your own module may raise anything
        raise UsageError(
            f"--pretrain.method {name} cannot be imported ({type(error).__name__}: {error}). Give module:Class of a "
            "module that Python can import here and on every machine of the study (the working folder, or PYTHONPATH)."
        ) from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UsageError(f"--pretrain.method {name} must be a class derived from cass_tune.methods.Method.")
    return found
