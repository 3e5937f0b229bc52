"""How the command line ends: its exit codes, and the last line of a run that was interrupted."""

from __future__ import annotations

DONE, FAILED, USAGE, ERROR, AWAY, INTERRUPTED, TERMINATED = 0, 1, 2, 70, 75, 130, 143
"""70 is sysexits' EX_SOFTWARE; 75 is its EX_TEMPFAIL: storage, or Ray, was away or full for too long, and whoever runs
commands again does so."""


def last_line(code: int) -> str:
    """Return what the user reads last, with the code `INTERRUPTED` or `TERMINATED`."""
    how = {INTERRUPTED: "Interrupted", TERMINATED: "Terminated"}[code]
    return f"{how}. What is saved is kept; the same command goes on from it."
