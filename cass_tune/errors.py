"""Errors that a user can act on; the command line shows their text alone and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Wrong input: the rule, the value it got, what is allowed, what to do next.

    Args:
        problems: every mistake found, one text each, so that all are shown at once.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class Damaged(UsageError):
    """A record that cannot be understood."""


class Terminated(BaseException):
    """The run was ended by SIGTERM, in good order; like KeyboardInterrupt no error, and not caught as one."""


class Interrupted(Exception):
    """A trial that saved its state and left because it was asked to; the text says why."""


class FailedElsewhere(Exception):
    """A trial that another process has run, and failed, since this command began; the text is its error."""


class Collapsed(Exception):
    """A pretraining whose outputs became constant, under ``--on-collapse stop``."""


class Pruned(Exception):
    """A trial of a search that was stopped because others were better at the same point; the text says where."""


class Held(Exception):
    """A folder that another process is computing.

    Args:
        folder: the part's folder.
        holder: who holds it, for people.
    """

    def __init__(self, folder: str, holder: str) -> None:
        self.folder = folder
        self.holder = holder
        super().__init__(folder, holder)

    def __str__(self) -> str:
        return f"{self.folder} is held by {self.holder}"


class HoldLost(Exception):
    """A folder that this process no longer holds: what it computes for it is not to be written.

    Args:
        folder: the part's folder.
        holder: who holds it now, for people.
    """

    def __init__(self, folder: str, holder: str) -> None:
        self.folder = folder
        self.holder = holder
        super().__init__(folder, holder)

    def __str__(self) -> str:
        return f"{self.folder} is no longer held by this process; its holder is now {self.holder}"


class StorageError(OSError):
    """Records that cannot be written or read: the place, the reason, what to do.

    Args:
        errno: the system's error number; None when an object store failed.
        strerror: the whole text.
    """

    def __str__(self) -> str:
        return str(self.strerror)


def did_you_mean(word: str, known: Iterable[str], limit: int = 3) -> str:
    """Return a hint such as ``" Did you mean 'resnet50'?"``, or an empty text when nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=limit, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
