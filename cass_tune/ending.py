"""How the command line ends: its exit codes, and the last line of a run that did not do everything.

A run that starts no more trials because they do not fit into ``--budget-hours`` ends with `FAILED`, although the same
command goes on with them: whoever runs commands again on other codes would begin a new budget.
"""

from __future__ import annotations

DONE, FAILED, USAGE, ERROR, AWAY, INTERRUPTED, PIPE, TERMINATED = 0, 1, 2, 70, 75, 130, 141, 143
"""70 is sysexits' EX_SOFTWARE; 75 is its EX_TEMPFAIL: storage, or Ray, was away or full for too long, and whoever runs
commands again does so. 141 is what a shell says of a program whose reader has closed the pipe."""


def budget_line(left: int, hours: float, left_to_others: int = 0) -> str:
    """Return what the user reads last when trials were left for want of time.

    Args:
        left: trials that were not started, or not again.
        hours: of ``--budget-hours``.
        left_to_others: trials that another process computes, or the pretraining of which it computes.
    """
    texts: list[str] = []
    if left:
        what = "1 trial was not started, because it" if left == 1 else f"{left} trials were not started, because they"
        texts.append(f"{what} would not finish within --budget-hours {hours:g}.")
    if left_to_others:
        what = "1 trial waits" if left_to_others == 1 else f"{left_to_others} trials wait"
        texts.append(f"{what} for another process, for longer than --budget-hours {hours:g}.")
    return " ".join([*texts, "The same command goes on with what is left, with as many hours again."])


def last_line(code: int) -> str:
    """Return what the user reads last, with the code `INTERRUPTED` or `TERMINATED`."""
    how = {INTERRUPTED: "Interrupted", TERMINATED: "Terminated"}[code]
    return f"{how}. What is saved is kept; the same command goes on from it."
