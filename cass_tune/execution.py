"""Running the missing trials of a study: by Ray, or one after the other in this process."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from cass_tune import ending
from cass_tune.budget import Budget, Gate
from cass_tune.checks import Checks
from cass_tune.collector import import_spared
from cass_tune.console import Console, Progress, Work
from cass_tune.data.listing import Listing
from cass_tune.durations import Durations
from cass_tune.environment import commit
from cass_tune.errors import UsageError
from cass_tune.estimate import Estimator
from cass_tune.events import TrialEvents
from cass_tune.fitting import Fit, Fitter
from cass_tune.keeping import Keeping
from cass_tune.measuring import Measuring
from cass_tune.memory import Footprints, Host
from cass_tune.notices import INTERRUPTED, TERMINATED, Stop, command_source, watched
from cass_tune.one_by_one import OneByOne
from cass_tune.options import Settings
from cass_tune.overview import room_lines, share_line, work
from cass_tune.plan import Wanted
from cass_tune.readiness import Readiness
from cass_tune.results import Record, Results, new_attempt
from cass_tune.run import NothingMore, Run, Supply
from cass_tune.run_options import RunOptions

if TYPE_CHECKING:
    from cass_tune.probe import Measured
    from cass_tune.runner import Demand, Machine


ROUNDS = 10
"""How often Ray Tune is given the trials that it ended without a result or a failure."""


class Execution:
    """Runs trials as the settings say.

    Args:
        settings: of the run.
        results: root of all records.
        console: where the progress is shown.
        study: name of the study.
        preset: name of the preset; `paper` needs a GPU or an explicit ``--device cpu``.
    """

    def __init__(self, settings: Settings, results: Results, console: Console, *, study: str, preset: str) -> None:
        self.settings = settings
        self.results = results
        self.console = console
        self.study = study
        self.checks = Checks(settings, preset)
        self.keeping = Keeping(results, settings.keep_stages)
        self.run_name = new_attempt()
        self.stop = Stop()
        self.common_failure: Record | None = None
        self.failed: set[str] = set()
        self.left = 0
        """Trials that were not started, because they do not fit into the budget."""
        self.left_to_others = 0
        """Trials that still wait for another process when nothing else fits into the budget."""
        self._started = time.monotonic()
        self.known_failures: dict[str, str | None] = {}

    def run(
        self,
        missing: Sequence[Wanted],
        listing: Listing,
        estimator: Estimator,
        *,
        done: int,
        late: Sequence[Wanted] = (),
        supply: Supply | None = None,
    ) -> None:
        """Run trials; a failing one leaves the others running.

        Args:
            missing: trials to run, in order.
            late: finished trials that are only probed, after the others.
            listing: their data.
            estimator: has judged them.
            done: trials of the study that are finished already, for the progress.
            supply: further trials.
        """
        every = [*missing, *late]
        if missing:
            self._say_room(missing, estimator)
        if not self.settings.address:
            self._resize_images(every, listing)
        self.known_failures = {str(item.digest): self._failure_of(item) for item in every}
        own = estimator.own_epochs(missing)
        works = {w: work(item, estimator.sizes(item.trial), own[w]) for item in missing for w in [str(item.digest)]}
        works |= {str(item.digest): Work(name=f"probes of {item.name}", phases={}) for item in late}
        progress = Progress(self.console, works, finished=done)
        budget = self._budget(every, estimator)
        durations = Durations(estimator, missing, own)
        all_of_them = list(missing)
        events = TrialEvents(self.results, progress, self.stop, self._tidy_after(all_of_them, late), budget)
        run = Run(
            missing=all_of_them,
            late=late,
            own=own,
            estimator=estimator,
            progress=progress,
            events=events,
            gate=Gate(self.results, budget, Readiness(self.results, self._redo, events.has_pretrained)),
            durations=durations,
            supply=supply or NothingMore(),
            added=partial(self._add, estimator, progress, durations, budget),
            stop=self.stop,
        )
        try:
            if self.settings.local:
                self._run_here(run)
            else:
                self._run_by_ray(run)
        finally:
            self.common_failure, self.failed = events.common_failure, events.failed_digests
        if run.errors:
            raise run.errors[0]
        if budget and self.stop.reason is None:
            rest = run.rest()
            self.left_to_others = run.gate.waiting_for_others(rest)
            self.left = len(rest) - self.left_to_others

    def _add(
        self, estimator: Estimator, progress: Progress, durations: Durations, budget: Budget | None, item: Wanted
    ) -> None:
        """Take a further trial into a run."""
        digest = str(item.digest)
        own = estimator.own_epochs([item])[digest]
        progress.add(digest, work(item, estimator.sizes(item.trial), own))
        durations.add(item, own)
        self.known_failures[digest] = self._failure_of(item)
        if budget:
            budget.add(item)

    def _budget(self, missing: Sequence[Wanted], estimator: Estimator) -> Budget | None:
        hours = self.settings.budget_hours
        if hours is None:
            return None
        return Budget(hours, self._started, estimator, self.results, missing, redo=self._redo)

    @property
    def _redo(self) -> str | None:
        """Name of this run if it computes every trial anew, otherwise None."""
        return self.run_name if self.settings.redo == "all" else None

    def _say_room(self, missing: Sequence[Wanted], estimator: Estimator) -> None:
        """Say how much room will be taken, if that is known only now that the networks have been built."""
        if estimator.room(missing) is None:
            estimator.parameters.update(self.checks.parameters)
            estimator.state_bytes.update(self.checks.state_bytes)
            self.console.say(*room_lines(estimator.room(missing)))

    def _resize_images(self, missing: Sequence[Wanted], listing: Listing) -> None:
        """Fill the cache of pixels once, before several trials would do it side by side."""
        from cass_tune.data.pixels import load_pixels

        for size in sorted({item.trial.data.image_size_px for item in missing}):
            load_pixels(listing, size, self.console.counter(f"resizing images to {size} px"))

    def _tidy_after(self, missing: Sequence[Wanted], late: Sequence[Wanted] = ()) -> Callable[[str], object]:
        """Return what makes room after each trial, where only unfinished ones keep their pretrainings."""
        if self.settings.keep_stages != "unfinished":
            return lambda digest: None
        over: set[str] = set()

        def tidy(digest: str) -> None:
            over.add(digest)
            every = [*missing, *late]
            stages = [segment.stage for item in every if item.digest == digest for segment in item.segments]
            self.keeping.tidy(stages, {str(item.digest) for item in every} - over)

        return tidy

    def _failure_of(self, item: Wanted) -> str | None:
        """Return the identity of a trial's recorded failure, which this run tries again."""
        failure = self.results.trial(str(item.digest)).failure()
        return failure["id"] if failure else None

    def _options(self, device: str) -> RunOptions:
        names = (
            "threads",
            "workers",
            "on_collapse",
            "keep_weights",
            "checkpoint_every_minutes",
            "max_failures",
            "preemption_command",
            "probe_every",
        )
        chosen = {name: getattr(self.settings, name) for name in names}
        chosen |= {"activation_checkpointing": self.settings.activation_checkpointing == "on"}
        chosen |= {"probes": self.settings.chosen_probes, "redo": self._redo is not None}
        return RunOptions(device=device, commit=commit(), run=self.run_name, **chosen)

    def _run_here(self, run: Run) -> None:
        """Run trials one after the other, of those that no other process computes always the first in line."""
        import torch

        from cass_tune.training.card_memory import card

        device = self.checks.device(torch.cuda.is_available())
        fitter = Fitter(Footprints(self.results), mode=self.settings.activation_checkpointing)
        kinds = [card().kind] if device == "cuda" else []
        Measuring(self.settings, self.console, run, fitter).alone(device, _probe_here, *kinds)
        self._refuse_too_large(run.missing, fitter, kinds)
        OneByOne(run, self.results, self._options(device), fitter, kinds, self.known_failures)()

    def _refuse_too_large(self, missing: Sequence[Wanted], fitter: Fitter, kinds: Sequence[str]) -> None:
        """Raise a UsageError when a batch fits on none of the kinds of GPU."""
        problems = fitter.refusals(missing, kinds)
        if problems:
            raise UsageError(*problems)

    def _run_by_ray(self, run: Run) -> None:
        import_spared("cass_tune.runner")
        from cass_tune import runner

        self.console.say(f"Ray runs the trials; its own records are in {self.results.ray(self.study)}.")
        with runner.ray_session(self.settings.address, self._ray_is_gone) as is_own_ray, self._watched():
            gpus = runner.cluster_gpus()
            self.checks.refuse_paper_without_gpu(gpus > 0)
            device = self.checks.device(gpus > 0)
            asked = self.settings.gpus_per_trial
            gpu = float(device == "cuda") if isinstance(asked, str) else asked
            resources = {"cpu": float(self.settings.cpus_per_trial), "gpu": gpu}
            runner.check_resources(resources["cpu"], resources["gpu"])
            if self.settings.address:
                self.checks.check_precisions([item.trial for item in (*run.missing, *run.late)])
                self.console.say("Every node that could run a trial is asked whether it sees the same inputs.")
            runner.check_inputs((*run.missing, *run.late), resources)
            share = self.settings.gpus_per_trial
            host = Host(cpus=resources["cpu"], threads=self.settings.threads, workers=self.settings.workers)
            fitter = Fitter(Footprints(self.results), share, self.settings.activation_checkpointing, host)
            machines = runner.machines() if device == "cuda" else []
            self.console.say(*runner.mixed_lines(machines))
            cards = runner.one_of_each(machines)
            measuring = Measuring(self.settings, self.console, run, fitter)
            for card, machine in cards.items() or [(None, None)]:
                per_image = measuring.alone(device, self._probe(device, resources, machine), card)
                if card:
                    run.durations.measured(card, per_image)
            self._refuse_too_large(run.missing, fitter, list(cards))
            measuring.together({card: machine.node for card, machine in cards.items() if not machine.is_mixed})
            self._say_shares(run.missing, fitter, list(cards))
            demand = runner.Demand(
                cpus=resources["cpu"],
                fitting=fitter,
                uses_cards=gpu > 0,
                may_grow=bool(self.settings.address),
                device=device,
                probed={str(item.digest) for item in run.late},
                alone=fitter.alone,
                kinds=runner.kinds_of(machines),
                is_own_ray=is_own_ray,
            )
            with run.progress.shown():
                self._rounds(run, demand, self._options(device))

    def _say_shares(self, missing: Sequence[Wanted], fitter: Fitter, cards: Sequence[str]) -> None:
        """Say how many trials share a card, and which compute their activations again."""
        for card in cards:
            fits = Counter(fitter(item, card) for item in missing if not fitter.refusals([item], [card]))
            self.console.say(*(share_line(card, fit, count) for fit, count in fits.items() if fit != Fit()))

    def _probe(self, device: str, resources: Mapping[str, float], machine: Machine | None) -> Callable[..., Measured]:
        """Return what probes where the trials will run: a task of Ray, or this process on the CPU of this machine."""
        if device == "cpu" and not self.settings.address:
            return _probe_here
        from cass_tune import runner

        if machine is None:
            return partial(runner.probe_there, resources=resources)
        return partial(runner.probe_there, resources=machine.needs(resources), node=machine.node)

    def _rounds(self, run: Run, demand: Demand, options: RunOptions) -> None:
        from cass_tune import runner

        rest = run.rest()
        for _ in range(ROUNDS):
            runner.run_trials(
                rest,
                self.results,
                options,
                study=self.study,
                demand=demand,
                durations=run.durations,
                events=run.events,
                stop=self.stop,
                gate=run.gate,
                leave=self._leave,
                failures=self.known_failures,
                supply=run,
                log_to=self.settings.log_to,
            )
            rest = run.rest()
            if self.stop.reason or (run.is_over() and not rest) or run.gate.is_closed(rest):
                return

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Stop the study when the only machine that it has will be taken away."""
        command = self.settings.preemption_command
        with watched(self.stop, [command_source(command)] if command and not self.settings.address else []):
            yield

    def _ray_is_gone(self) -> None:
        """End this process at once, because nothing more can be run; after a signal, as one that it came to as well."""
        if self.stop.reason in (INTERRUPTED, TERMINATED):
            self._leave(self.stop.reason == TERMINATED)
        self.console.say(
            "error: Ray's own processes have ended. What is saved is kept; the same command goes on from it."
        )
        os._exit(ending.AWAY)

    def _leave(self, is_terminated: bool) -> None:
        """End this process at once, with the line and the exit code of a run that was interrupted."""
        code = ending.TERMINATED if is_terminated else ending.INTERRUPTED
        self.console.say(ending.last_line(code))
        os._exit(code)


def _probe_here(*given: Any, **options: Any) -> Measured:
    """Run `cass_tune.probe.probe`, which is imported when there is something to measure."""
    from cass_tune.probe import probe

    return probe(*given, **options)
