"""How a command line ends whatever happens in it: one message and an exit code (`cass_tune.ending`)."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

from cass_tune import ending
from cass_tune.console import Console
from cass_tune.errors import StorageError, Terminated, UsageError
from cass_tune.notices import ended_by_signals


def guarded(work: Callable[[], int], console: Console) -> int:
    """Return the exit code of a command, or the one of what ended it, after saying what that was.

    Args:
        work: the command; returns its exit code.
        console: where an interruption is told; errors go to standard error.
    """
    try:
        with ended_by_signals():
            return work()
    except UsageError as error:
        Console(sys.stderr).say(*(f"error: {text}" for text in error.problems))
        return ending.USAGE
    except StorageError as error:
        Console(sys.stderr).say(f"error: {error}")
        return ending.AWAY
    except BrokenPipeError:  # whoever read what this prints, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ending.PIPE
    except Exception:
        traceback.print_exc()
        Console(sys.stderr).say("This is a mistake of the program. What is saved is kept; please report it.")
        return ending.ERROR
    except KeyboardInterrupt:
        console.say(ending.last_line(ending.INTERRUPTED))
        return ending.INTERRUPTED
    except Terminated:
        console.say(ending.last_line(ending.TERMINATED))
        return ending.TERMINATED
