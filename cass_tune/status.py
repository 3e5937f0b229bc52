"""What the trials of a study are doing, from the files of the results root alone: on any machine that sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cass_tune.config import ARMS
from cass_tune.console import duration
from cass_tune.errors import UsageError
from cass_tune.leases import EXPIRY_S, Holder, holder
from cass_tune.overview import failure_line, headline
from cass_tune.pace import Pace
from cass_tune.results import Record, Results, StageFolder, StudyFolder, TrialFolder

ORDER = ("running", "silent", "waiting", "failed", "collapsed", "pruned", "done", "untested", "missing")
"""The order of the counts; the holder of a silent trial has not renewed its record for a while."""


def status_lines(study: StudyFolder) -> list[str]:
    """Return counts and time left, then one line per trial that was asked for, the last asked for first.

    Args:
        study: the study's folder.

    Raises:
        UsageError: nothing was asked for.
    """
    plans = study.plans()
    if not plans:
        raise UsageError(f"Nothing has been asked for in {study.path} yet.")
    trials = list(_trials(study.results, plans))
    pace = Pace()
    for trial in trials:
        pace.learn(trial.config, trial.counts, trial.rows)
    counts = Counter(trial.state for trial in trials)
    shown = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])
    demo = "DEMO " if plans[-1]["demo"] else ""
    first = f"{demo}{plans[-1]['study']} ({study.path}): {len(trials)} trials: {shown}{_time_left(trials, pace)}"
    return [first, *(f"  {_line(trial, pace)}" for trial in trials)]


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """What is on disk of one trial.

    Args:
        wanted: what the plan says of it.
        counts: images in the data by part and class.
        folder: its folder.
        chain: stages of its pretraining, with the first and last epoch in each; none for a control.
        state: one of `ORDER`.
        holder: the process that computes the trial, or that computes the pretraining for which it waits.
        rows: of every finished epoch.
    """

    wanted: Record
    counts: Record
    folder: TrialFolder
    chain: Sequence[tuple[_Stage, int, int]]
    state: str
    holder: Holder | None
    rows: Sequence[Record]

    @property
    def config(self) -> Record:
        return self.wanted["config"]

    def remaining(self) -> dict[str, int]:
        """Return the epochs that are left, by phase."""
        if self.state not in ("running", "silent", "waiting", "missing"):
            return {}
        epochs = {"pretrain": self.config["pretrain"]["epochs"]} if self.chain else {}
        epochs |= {f"finetune_{arm}": self.config["finetune"]["epochs"] for arm in ARMS}
        done = Counter(row["phase"] for row in self.rows)
        for phase in [phase for phase in epochs if done[phase]][:-1]:
            done[phase] = epochs[phase]  # the next has begun: this one is finished, be it by patience
        done["pretrain"] = max([done["pretrain"], *(end for stage, _, end in self.chain if end in stage.ends)])
        return {phase: max(0, count - done[phase]) for phase, count in epochs.items()}

    @property
    def may_end_early(self) -> bool:
        """Whether patience may end a finetuning before its last epoch."""
        return bool(self.config["finetune"].get("patience"))

    def parts_left(self) -> Iterator[tuple[object, str, int]]:
        """Yield what is left as (what it is, phase, epochs); what trials share is the same thing for all of them."""
        for phase, epochs in self.remaining().items():
            if phase != "pretrain":
                yield (self.folder.digest, phase), phase, epochs
                continue
            done = self.config["pretrain"]["epochs"] - epochs
            for stage, start, end in self.chain:
                yield stage, phase, max(0, end - max(start, done))


class _Stage:
    """What is on disk of one pretraining, read once for all its trials."""

    def __init__(self, folder: StageFolder) -> None:
        self.rows = folder.rows()
        self.ends = set(folder.ends())
        self.holder = holder(folder.path) if folder.is_held() else None


def _trials(results: Results, plans: Sequence[Record]) -> Iterator[_Trial]:
    wanted: dict[str, tuple[Record, Record]] = {}
    for plan in reversed(plans):
        for trial in plan["trials"]:
            wanted.setdefault(trial["digest"], (trial, plan["data"]["counts"]))
    stages: dict[str, _Stage] = {}
    for digest, (record, counts) in wanted.items():
        folder, segments = results.trial(digest), record.get("segments", [])
        for segment in segments:
            if segment["stage"] not in stages:
                stages[segment["stage"]] = _Stage(results.stage(segment["stage"]))
        chain = [(stages[segment["stage"]], segment["start"], segment["end"]) for segment in segments]
        state = folder.status()
        at_work = holder(folder.path) if state == "running" else None
        held_by = next((stage.holder for stage, _, end in chain if stage.holder and end not in stage.ends), None)
        if state == "missing" and held_by:
            state, at_work = "waiting", held_by
        if at_work and _silent_s(at_work) > EXPIRY_S:
            state = "silent" if state == "running" else "missing"
        yield _Trial(
            wanted=record,
            counts=counts,
            folder=folder,
            chain=chain,
            state=state,
            holder=at_work,
            rows=[*_pretrain_rows(chain), *folder.rows()],
        )


def _pretrain_rows(chain: Sequence[tuple[_Stage, int, int]]) -> Iterable[Record]:
    return (row for stage, start, end in chain for row in stage.rows if start < row["epoch"] <= end)


def _silent_s(at_work: Holder) -> float:
    return (datetime.now(UTC) - at_work.heartbeat).total_seconds()


def _time_left(trials: Sequence[_Trial], pace: Pace) -> str:
    """Return the time left in words, when something runs and every epoch that is left can be judged by earlier ones."""
    running = sum(trial.state == "running" for trial in trials)
    left: dict[object, float] = {}
    for trial in trials:
        for key, phase, epochs in trial.parts_left():
            seconds = _seconds(trial, phase, epochs, pace)
            if seconds is None:
                return ""
            left[key] = max(left.get(key, 0.0), seconds)  # of a stage that trials share
    if not running:
        return ""
    at_once = f" ({running} at a time)" if running > 1 else ""
    about = _about(trial for trial in trials if any(trial.remaining().values()))
    return f"; {about} {duration(sum(left.values()) / running)} left{at_once}"


def _about(trials: Iterable[_Trial]) -> str:
    return "at most about" if any(trial.may_end_early for trial in trials) else "about"


def _seconds(trial: _Trial, phase: str, epochs: int, pace: Pace) -> float | None:
    if not epochs:
        return 0.0
    each = pace.seconds(trial.config, trial.counts, phase)
    return None if each is None else each * epochs


def _line(trial: _Trial, pace: Pace) -> str:
    details = {
        **dict.fromkeys(("done", "untested"), lambda: headline(trial.folder.outcome() or {"arms": {}})),
        "running": lambda: _running(trial, pace),
        "silent": lambda: _silent(trial),
        "waiting": lambda: f"for its pretraining, which {_where(trial.holder)} computes",
        "failed": lambda: failure_line(trial.folder.failure()),
        "collapsed": lambda: failure_line(trial.folder.failure()),
        "pruned": lambda: (trial.folder.failure() or {}).get("message", ""),
        "missing": lambda: _begun(trial),
    }[trial.state]()
    return f"{trial.folder.id}  {trial.state:9}  {trial.wanted['name']}  {details}".rstrip()


def _running(trial: _Trial, pace: Pace) -> str:
    left = [_seconds(trial, phase, epochs, pace) for phase, epochs in trial.remaining().items()]
    eta = "" if None in left else f", {_about([trial])} {duration(sum(seconds or 0.0 for seconds in left))} left"
    return f"{_where(trial.holder)}: {_place(trial)}{eta}{_shortage(trial)}"


def _silent(trial: _Trial) -> str:
    silence = f", not heard of for {duration(_silent_s(trial.holder))}" if trial.holder else ""
    return f"{_where(trial.holder)}{silence}: {_place(trial)}"


def _place(trial: _Trial) -> str:
    if not trial.rows:
        return "first epoch"
    row = trial.rows[-1]
    section = "pretrain" if row["phase"] == "pretrain" else "finetune"
    place = f"{row['phase']} {row['epoch']}/{trial.config[section]['epochs']}, {row['images_per_second']:.0f} images/s"
    return ", ".join([place, *_loads(row)])


def _loads(row: Record) -> Iterator[str]:
    """Yield the memory and the utilisation of an epoch, where its row tells them."""
    if row.get("peak_memory_gib") is not None:
        yield f"{row['peak_memory_gib']:.1f} GiB"
    if row.get("utilisation") is not None:
        yield f"{100 * row['utilisation']:.0f}% busy"


def _begun(trial: _Trial) -> str:
    return f"interrupted after {_place(trial)}{_shortage(trial)}" if trial.rows and trial.folder.attempts() else ""


def _shortage(trial: _Trial) -> str:
    """Return that the trial has run out of memory before, if it has."""
    short = any((attempt["ended"] or {}).get("out_of_memory") for attempt in trial.folder.attempts())
    return ", tried again after the GPU's memory was not enough" if short else ""


def _where(at_work: Holder | None) -> str:
    return at_work.describe() if at_work else "another process"
