"""What a study shows while it runs: a live view on a terminal, one line per event in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

PIPE_INTERVAL_S = 15.0


class Console:
    """Writes lines for people.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout

    @property
    def is_terminal(self) -> bool:
        return self.stream.isatty()

    def say(self, *lines: str) -> None:
        """Write lines."""
        self.stream.write("".join(f"{line}\n" for line in lines))
        self.stream.flush()

    def counter(self, what: str) -> Counter:
        """Return a progress callback for something that is counted."""
        return Counter(self, what)


class Counter:
    """Progress of a counted task: rewritten in place on a terminal, at most every 15 s in a pipe; silent when quick."""

    def __init__(self, console: Console, what: str) -> None:
        self._console = console
        self._what = what
        self._started = time.monotonic()
        self._shown = self._started
        self._open = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        interval = 0.5 if self._console.is_terminal else PIPE_INTERVAL_S
        if done == total and self._open:
            self._console.stream.write("\r\033[K" if self._console.is_terminal else "")
            self._open = False
        elif now - self._shown >= interval:
            left = (now - self._started) / max(1, done) * (total - done)
            text = f"{self._what}: {done} of {total}, about {duration(left)} left"
            self._console.stream.write(f"\r\033[K{text}" if self._console.is_terminal else f"{text}\n")
            self._console.stream.flush()
            self._shown, self._open = now, True


def duration(seconds: float) -> str:
    """Return for example ``42 s``, ``3 min 20 s`` or ``7 h 11 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass
class Work:
    """One trial's work, counted in images passed through one network.

    Args:
        name: readable name of the trial.
        phases: images per epoch and epochs, by phase.
        shared: epochs of these that other trials compute, by phase.
        done: finished epochs by phase, reused ones included.
        computed: images that were passed in this run.
    """

    name: str
    phases: Mapping[str, tuple[float, int]]
    shared: Mapping[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    computed: float = 0.0
    started: float | None = None
    now: str = "starting"
    state: str = "waiting"

    def total(self) -> float:
        return sum(images * (epochs - self.shared.get(phase, 0)) for phase, (images, epochs) in self.phases.items())

    def passed(self) -> float:
        return sum(
            self.phases[phase][0] * max(0, epochs - self.shared.get(phase, 0)) for phase, epochs in self.done.items()
        )


class Progress:
    """Follows the trials of one run.

    Args:
        console: where to show it.
        works: by trial digest.
        finished: trials of the study that were finished before.
    """

    def __init__(self, console: Console, works: Mapping[str, Work], finished: int = 0) -> None:
        self._console = console
        self._works = dict(works)
        self._finished = finished
        self._started = time.monotonic()
        self._computing_since: float | None = None
        self._shown = self._started
        self._live: Any = None
        self._is_waiting = False

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the view until the block ends."""
        if not self._console.is_terminal:
            yield
            return
        from rich.console import Console as RichConsole
        from rich.live import Live

        screen = RichConsole(file=self._console.stream)
        with Live(get_renderable=self._render, console=screen, refresh_per_second=2) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def start(self, digest: str) -> None:
        """Take note that a trial starts, for the first time or again."""
        work = self._works[digest]
        if work.state != "running":
            work.started, work.state = time.monotonic(), "running"
            self._is_waiting = False
            self._event(f"started  {work.name}")

    def resume(self, digest: str, where: str) -> None:
        """Take note that a trial goes on from a checkpoint."""
        self._event(f"resumed  {self._works[digest].name}  from {where}")

    def interrupt(self, digest: str, why: str) -> None:
        """Take note that a trial left and will be run again."""
        work = self._works[digest]
        if work.state == "running":
            work.state = "waiting"
            self._event(f"left     {work.name}  {why}")

    def waiting(self) -> None:
        """Take note, once, that other processes compute all that is left."""
        if not self._is_waiting:
            self._is_waiting = True
            self._event("waiting  other processes compute what is left (--status shows them)")

    def stopping(self, reason: str) -> None:
        """Take note that the study is being stopped."""
        self._event(f"stopping ({reason}): running trials save their state; once more to leave at once")

    def row(self, digest: str, row: Mapping[str, Any]) -> None:
        """Take note of an epoch's row."""
        work, phase = self._works[digest], row["phase"]
        if phase not in work.phases:  # Ray's rows about a trial that leaves
            return
        self.start(digest)
        work.done[phase] = max(work.done.get(phase, 0), int(row["epoch"]))
        if row["reused"] is not True:
            work.computed += work.phases[phase][0]
            self._computing_since = self._computing_since or time.monotonic() - row["seconds"]
        work.now = f"{phase} {int(row['epoch'])}/{int(row['epochs'])}"
        self._tick()

    def finish(self, digest: str, result: str) -> None:
        """Take note of a finished trial."""
        work = self._works[digest]
        work.state = "done"
        for phase, (_, epochs) in work.phases.items():
            work.done[phase] = epochs
        seconds = time.monotonic() - (work.started or time.monotonic())
        self._event(f"done     {work.name}  {result}  in {duration(seconds)}")

    def add(self, digest: str, work: Work) -> None:
        """Take note of a trial that has been added to the run, or is to be run once more."""
        self._works[digest] = work

    def fail(self, digest: str, reason: str) -> None:
        """Take note of a failed trial."""
        self._works[digest].state = "failed"
        self._event(f"FAILED   {self._works[digest].name}  {reason}")

    def prune(self, digest: str, reason: str) -> None:
        """Take note of a trial that was stopped early."""
        self._works[digest].state = "pruned"
        self._event(f"pruned   {self._works[digest].name}  {reason}")

    def has_settled(self, digests: Iterable[str]) -> bool:
        """Return whether all these trials are done, pruned or failed; after an interruption some are not."""
        return all(self._works[digest].state in ("done", "pruned", "failed") for digest in digests)

    def summary(self) -> str:
        """Return counts, time so far and time left."""
        states = [work.state for work in self._works.values()]
        done = self._finished + states.count("done")
        text = f"{done} of {self._finished + len(states)} done, {states.count('running')} running"
        others = "".join(f", {states.count(name)} {name}" for name in ("pruned", "failed") if name in states)
        return f"{text}{others}, {duration(time.monotonic() - self._started)}{self._time_left()}"

    def _time_left(self) -> str:
        open_works = [work for work in self._works.values() if work.state in ("waiting", "running")]
        computed = sum(work.computed for work in self._works.values())
        if not computed or not open_works or self._computing_since is None:
            return ""
        left = sum(work.total() - work.passed() for work in open_works)
        return f", about {duration(left * (time.monotonic() - self._computing_since) / computed)} left"

    def _event(self, text: str) -> None:
        line = f"  {text}"
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self._console.say(f"{line}  ({self.summary()})")
            self._shown = time.monotonic()

    def _tick(self) -> None:
        if self._live is None and time.monotonic() - self._shown >= PIPE_INTERVAL_S:
            running = [f"{work.name}: {work.now}" for work in self._works.values() if work.state == "running"]
            self._console.say(f"  {self.summary()}; {'; '.join(running)}")
            self._shown = time.monotonic()

    def _render(self) -> RenderableType:
        from rich.text import Text

        running = [work for work in self._works.values() if work.state == "running"]
        lines = [f"  running  {work.name}  {work.now}{_left(work)}" for work in running]
        return Text("\n".join([*lines, f"  {self.summary()}"]))


def _left(work: Work) -> str:
    if not work.computed or work.started is None:
        return ""
    rate = (time.monotonic() - work.started) / work.computed
    return f", about {duration(rate * (work.total() - work.passed()))} left"
