"""How the command line ends: its exit codes, and the last line of a run that was interrupted."""

from __future__ import annotations

DONE, FAILED, USAGE, STORAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 75, 130, 143
"""75 is sysexits' EX_TEMPFAIL: storage was away or full for too long; whoever restarts commands tries again."""


def last_line(code: int) -> str:
    """Return what the user reads last, with the code `INTERRUPTED` or `TERMINATED`."""
    how = {INTERRUPTED: "Interrupted", TERMINATED: "Terminated"}[code]
    return f"{how}. What is saved is kept; the same command goes on from it."
