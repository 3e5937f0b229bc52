"""Python's garbage collector, which need not look at what is imported and stays.

It would look again and again while torch and its like are imported, and in every full collection afterwards.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import sys


def import_spared(module: str) -> None:
    """Import a module without collecting, and let the collector pass over all that is there then; once in a process.

    Args:
        module: its full name; what is wanted of it is imported as usual afterwards.
    """
    if module in sys.modules:
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module(module)
    finally:
        spare()
        if was_enabled:
            gc.enable()


def spare() -> None:
    """Let the collector pass over all that is there by now, garbage included: it stays."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # some extensions complain of what is left at the end
