"""Running the missing trials of a study: checks on this machine, then Ray, or one after the other in this process."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from cass_tune import ending
from cass_tune.budget import Budget, Gate
from cass_tune.config import ARMS, Trial, to_json
from cass_tune.console import Console, Progress, Work, duration
from cass_tune.data.listing import Listing
from cass_tune.devices import Gpu, check_precisions, gpus_here
from cass_tune.durations import Durations
from cass_tune.environment import commit
from cass_tune.errors import Held, HoldLost, Interrupted, StorageError, Terminated, UsageError
from cass_tune.estimate import NETWORKS_ALONE, Estimator, kept_with
from cass_tune.events import TrialEvents
from cass_tune.extras import needs
from cass_tune.fitting import Fit, Fitter, main_phase, phases_of
from cass_tune.keeping import Keeping
from cass_tune.memory import Footprints
from cass_tune.notices import INTERRUPTED, TERMINATED, Stop, command_source, stopped_by_signals, watched
from cass_tune.options import Settings
from cass_tune.overview import room_lines, share_line, time_lines, work
from cass_tune.pace import Kind, kind
from cass_tune.plan import Wanted
from cass_tune.readiness import Readiness
from cass_tune.results import Record, Results, new_attempt

if TYPE_CHECKING:
    from torch import nn

    from cass_tune.probe import Measured
    from cass_tune.runner import Demand, Together
    from cass_tune.trial import RunOptions


class Supply(Protocol):
    """Trials that are not known before others have ended."""

    def next(self, has_settled: Callable[[str], bool]) -> Wanted | None:
        """Return a trial to be run, or None: none at present; it does not wait.

        Args:
            has_settled: returns whether a trial of this run is over, by its identity.
        """
        ...

    def is_over(self) -> bool:
        """Return whether no trial will come any more."""
        ...


ROUNDS = 10
"""How often Ray Tune is given the trials that it ended without a result or a failure."""
ASK_EVERY_S = 2.0


class Further(Protocol):
    """The further trials of a run."""

    def next(self) -> Wanted | None:
        """Return a further trial, or None: none at present."""
        ...

    def is_over(self) -> bool:
        """Return whether no trial will come any more."""
        ...


class NothingMore:
    """The supply of a study whose trials are all known."""

    def next(self, has_settled: Callable[[str], bool]) -> Wanted | None:
        """Return None."""
        return None

    def is_over(self) -> bool:
        """Return True."""
        return True


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The trials of a run, and what follows them.

    Args:
        missing: trials to run, in order; those of the supply are added.
        late: finished trials that are only probed.
        own: epochs of pretraining that each computes itself, by its identity.
        estimator: judges them.
        progress: shows them.
        events: is told what they do.
        gate: says which may start.
        durations: how long they take on which kind of card.
        supply: further trials.
        added: is told about each of them.
        stop: asked to stop the run when the supply fails.
        errors: with which the supply failed.
    """

    missing: list[Wanted]
    late: Sequence[Wanted]
    own: Mapping[str, int]
    estimator: Estimator
    progress: Progress
    events: TrialEvents
    gate: Gate
    durations: Durations
    supply: Supply
    added: Callable[[Wanted], None]
    stop: Stop
    errors: list[Exception] = field(default_factory=list)

    def next(self) -> Wanted | None:
        """Return a further trial, which is part of the run from now on, or None: none at present."""
        if self.errors:
            return None
        try:
            item = self.supply.next(self.events.has_settled)
        except Exception as error:  # trials that run save their state first
            self.errors.append(error)
            self.stop.request("no further trial can be found")
            return None
        if item is not None:
            self.missing[:] = [*(other for other in self.missing if other.digest != item.digest), item]
            self.added(item)
        return item

    def is_over(self) -> bool:
        """Return whether no trial will come any more."""
        return self.supply.is_over()

    def rest(self) -> list[Wanted]:
        """Return the trials of this run that are neither done nor failed."""
        return [item for item in (*self.missing, *self.late) if not self.events.has_settled(str(item.digest))]


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
        self.preset = preset
        self.keeping = Keeping(results, settings.keep_stages)
        self.run_name = new_attempt()
        self.stop = Stop()
        self.common_failure: Record | None = None
        self.failed: set[str] = set()
        self.left = 0
        """Trials that were not started, because they do not fit into the budget."""
        self.left_to_others = 0
        """Trials that still wait for another process when nothing else fits into the budget."""
        self.parameters: dict[tuple[str, int, int], int] = {}
        """Of the networks that `check` has built, by timm name, image size and width of the output."""
        self.state_bytes: dict[object, int] = {}
        """Of an end of pretraining, where a method keeps more than both networks, by `cass_tune.estimate.kept_with`."""
        self._blank: dict[object, nn.Module] = {}
        """Networks that `check` has built, without their tensors' content, by `_arm_key`."""
        self._started = time.monotonic()
        self._short_of_memory: set[str] = set()
        """Trials that run out of memory in this process."""
        self.known_failures: dict[str, str | None] = {}

    def check(self, trials: Sequence[Trial], *, names_alone: bool = False) -> None:
        """Try once on this machine what would otherwise fail in every trial.

        Args:
            trials: to be run.
            names_alone: leave the networks unbuilt and their weights unfetched: there are other mistakes to mend first.

        Raises:
            UsageError: no such device, model or weights; every one is named.
        """
        import torch

        problems = _problems(self._check_device, torch.cuda.is_available())
        if not problems and not self.settings.address:
            problems += _problems(self._check_precisions, trials)
        for name in self.settings.log_to:
            problems += _problems(needs, name, "trackers", f"--log-to {name}")
        if any(trial.data.pipeline == "opencv-1" for trial in trials):
            problems += _problems(needs, "cv2", "opencv", "--data.pipeline opencv-1")
        names_alone = names_alone or bool(problems)
        for trial, arm in _distinct_arms(trials):
            checks = [_check_packages, _check_name] if names_alone else [_check_packages, self._build]
            problems += [problem for check in checks for problem in _problems(check, trial, arm)]
        if problems:
            raise UsageError(*dict.fromkeys(problems))
        if not names_alone:
            self._count_kept(trials)

    def _count_kept(self, trials: Sequence[Trial]) -> None:
        """Count what methods keep beside the networks; of your own it may remain unknown."""
        from cass_tune.training.pretrain import state_bytes

        for trial in {kept_with(trial): trial for trial in trials}.values():
            if trial.pretrain.method not in NETWORKS_ALONE:
                arms = {arm: self._blank[_arm_key(trial, arm)] for arm in ARMS}
                with suppress(Exception):  # a constructor may want what tensors without content do not have
                    self.state_bytes[kept_with(trial)] = state_bytes(trial, arms)

    def _build(self, trial: Trial, arm: str) -> None:
        from cass_tune.methods import method_class
        from cass_tune.training.activation_checkpointing import check_checkpointing
        from cass_tune.training.models import build_arm

        model: nn.Module = build_arm(trial, arm)
        if trial.pretrain.method != "none":
            method_class(trial.pretrain.method).check(trial, arm, model)
        if self.settings.activation_checkpointing == "on":
            check_checkpointing(model, f"--pretrain.{arm} {getattr(trial.pretrain, arm)}")
        key = (getattr(trial.pretrain, arm), trial.data.image_size_px, trial.pretrain.embedding_dim)
        self.parameters[key] = sum(parameter.numel() for parameter in model.parameters())
        self._blank[_arm_key(trial, arm)] = model.to("meta")

    def _resize_images(self, missing: Sequence[Wanted], listing: Listing) -> None:
        """Fill the cache of pixels once, before several trials would do it side by side."""
        from cass_tune.data.pixels import load_pixels

        for size in sorted({item.trial.data.image_size_px for item in missing}):
            load_pixels(listing, size, self.console.counter(f"resizing images to {size} px"))

    def _check_device(self, has_gpu: bool) -> None:
        if self.settings.address:
            return
        if self.settings.device == "cuda" and not has_gpu:
            raise UsageError("--device cuda, but torch sees no GPU on this machine. Give --device cpu, or auto.")
        self._refuse_paper_without_gpu(has_gpu)

    def gpus(self) -> tuple[Gpu, ...]:
        """Return the kinds of GPU that trials may run on, none where they run on the CPU; a cluster is asked.

        Raises:
            UsageError: it cannot be found out, or only by asking a cluster, which a dry run does not.
        """
        if self._device(True) == "cpu":
            return ()
        if not self.settings.address:
            return gpus_here()
        if self.settings.dry_run:
            raise UsageError(
                "--precision auto: a dry run does not ask the cluster at --address which GPUs it has. Give what it "
                "would become (--precision bf16, for example), or leave --dry-run out."
            )
        from cass_tune import runner

        return runner.gpus_of(self.settings.address)

    def _check_precisions(self, trials: Sequence[Trial]) -> None:
        """Raise a UsageError when the trials' precision is not there; without one, nobody is asked."""
        if any(phase.precision != "fp32" for trial in trials for phase in (trial.pretrain, trial.finetune)):
            check_precisions(trials, self.gpus())

    def _refuse_paper_without_gpu(self, has_gpu: bool) -> None:
        if self.preset == "paper" and self.settings.device == "auto" and not has_gpu:
            raise UsageError(
                "--preset paper trains ResNet-50 and ViT-B/16 at 384 px, and there is no GPU here. "
                "Give --device cpu to do it all the same, or --preset demo for small networks on the same data."
            )

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
        run = _Run(
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
            estimator.parameters.update(self.parameters)
            estimator.state_bytes.update(self.state_bytes)
            self.console.say(*room_lines(estimator.room(missing)))

    def _measure(
        self, run: _Run, device: str, probe: Callable[..., Measured], fitter: Fitter, card: str | None = None
    ) -> Mapping[Kind, float]:
        """Measure what is not known of the trials yet, and say what they will take; a failure is only said.

        Args:
            run: the trials.
            device: ``cpu`` or ``cuda``.
            probe: `cass_tune.probe.probe`, here or where trials run.
            fitter: says of which steps the memory is not known.
            card: kind of GPU on which it measures.

        Returns:
            Seconds per image and network, by kind of step, as far as they were measured.
        """
        assumed, run.estimator.device = run.estimator.device, device
        per_image: Mapping[Kind, float] = {}
        if not run.missing:
            return per_image
        unknown = run.estimator.unknown_kinds(run.missing, run.own)
        unknown |= _unknown_memory(run.missing, fitter, card) if card else {}
        is_probed = bool(unknown and self.settings.probe_seconds)
        if is_probed:
            settings = {name: getattr(self.settings, name) for name in ("threads", "workers")}
            settings["modes"] = fitter.modes
            try:
                found = probe(list(unknown.values()), device=device, limit_s=self.settings.probe_seconds, **settings)
            except Exception as error:  # trials can run without it
                self.console.say(f"probe: {type(error).__name__}: {error}")
            else:
                per_image = found.per_image
                run.estimator.measured(per_image, f"by a probe of {duration(found.took_s)}")
                if found.card:
                    with suppress(StorageError):  # known to this process all the same
                        fitter.footprints.add(found.card, found.readings)
                self.console.say(*(f"probe: {text}" for text in found.problems))
        if is_probed or device != assumed:
            self.console.say(*time_lines(run.estimator.times(run.missing, run.own), self.settings.price))
        return per_image

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
        from cass_tune.trial import RunOptions

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

    def _device(self, has_gpu: bool) -> str:
        if self.settings.device != "auto":
            return self.settings.device
        return "cuda" if has_gpu and self.settings.gpus_per_trial != 0 else "cpu"

    def _run_here(self, run: _Run) -> None:
        """Run trials one after the other, of those that no other process computes always the first in line."""
        import torch

        from cass_tune.probe import probe

        device = self._device(torch.cuda.is_available())
        fitter = Fitter(Footprints(self.results), mode=self.settings.activation_checkpointing)
        kinds = [torch.cuda.get_device_name()] if device == "cuda" else []
        self._measure(run, device, probe, fitter, *kinds)
        self._refuse_too_large(run.missing, fitter, kinds)
        options = self._options(device)
        line = run.rest()
        tries: Counter[str] = Counter()
        with run.progress.shown(), stopped_by_signals(self.stop) as came:
            while self.stop.reason is None:
                while (further := run.next()) is not None:
                    line.append(further)
                if not line:
                    break
                with run.gate.round():
                    item = next(filter(run.gate, line), None)
                if item is None and run.gate.is_closed(line):
                    break
                if item is None:
                    run.events.waiting()
                    time.sleep(ASK_EVERY_S)
                elif self._try_here(item, self._fitted(options, item, fitter, kinds), run.events, tries):
                    line = [other for other in line if not run.events.has_settled(str(other.digest))]
                else:
                    run.gate.hold_back(item)
                    line.sort(key=lambda other, last=item: other is last)
        if came and came[0] != signal.SIGINT:
            raise Terminated

    def _fitted(self, options: RunOptions, item: Wanted, fitter: Fitter, kinds: Sequence[str]) -> RunOptions:
        """Return the options of a trial as it fits on the GPU of this process, if there is one."""
        if str(item.digest) in self._short_of_memory or fitter.refusals([item], kinds):
            return replace(options, activation_checkpointing=fitter.alone.checkpointing)
        return replace(options, activation_checkpointing=fitter(item, kinds[0]).checkpointing) if kinds else options

    def _refuse_too_large(self, missing: Sequence[Wanted], fitter: Fitter, kinds: Sequence[str]) -> None:
        """Raise a UsageError when a batch fits on none of the kinds of GPU."""
        problems = fitter.refusals(missing, kinds)
        if problems:
            raise UsageError(*problems)

    def _try_here(self, item: Wanted, options: RunOptions, events: TrialEvents, tries: Counter[str]) -> bool:
        """Run one trial; return False when another process holds what it needs."""
        from cass_tune.training.card_memory import is_out_of_memory
        from cass_tune.trial import is_final, may_pass, run_trial

        digest, folder = str(item.digest), self.results.trial(str(item.digest))
        known = self.known_failures[digest]
        events.started(digest)
        try:
            rows = run_trial(
                item.trial,
                self.results,
                replace(options, test=item.is_tested, generation_epochs=item.generation_epochs),
                item.inputs,
                stop=self.stop,
                known_failure=known,
                pruning=item.pruning,
            )
            for row in rows:
                events.row(digest, row)
        except (Held, HoldLost) as error:
            events.left(digest, str(error))
            return False
        except Interrupted as error:
            events.left(digest, str(error))
            self.stop.request(str(error))  # of this machine, which all trials run on
        except StorageError as error:
            events.left(digest, str(error))
            raise
        except Exception as error:  # recorded by the trial where it can; the other trials go on
            if is_out_of_memory(error) and digest not in self._short_of_memory:
                self._short_of_memory.add(digest)
                events.left(digest, "the GPU's memory was not enough; it is tried again once")
                return True
            tries[digest] += 1
            if not is_final(error) and tries[digest] <= options.max_failures:
                events.left(digest, f"{type(error).__name__}: {error}")
                return True
            if folder.failure() is None:
                folder.fail(type(error).__name__, str(error), traceback.format_exc(), may_pass=may_pass(error))
            events.failed(digest)
        else:
            events.ended(digest)
        return True

    def _run_by_ray(self, run: _Run) -> None:
        from cass_tune import runner

        self.console.say(f"Ray runs the trials; its own records are in {self.results.ray(self.study)}.")
        with runner.ray_session(self.settings.address, self._ray_is_gone), self._watched():
            gpus = runner.cluster_gpus()
            self._refuse_paper_without_gpu(gpus > 0)
            device = self._device(gpus > 0)
            asked = self.settings.gpus_per_trial
            gpu = float(device == "cuda") if isinstance(asked, str) else asked
            resources = {"cpu": float(self.settings.cpus_per_trial), "gpu": gpu}
            runner.check_resources(resources["cpu"], resources["gpu"])
            if self.settings.address:
                self._check_precisions([item.trial for item in (*run.missing, *run.late)])
                self.console.say("Every node that could run a trial is asked whether it sees the same inputs.")
            runner.check_inputs((*run.missing, *run.late), resources)
            share = self.settings.gpus_per_trial
            fitter = Fitter(Footprints(self.results), share, self.settings.activation_checkpointing)
            cards = runner.cards() if device == "cuda" else {}
            names = runner.kinds_of(cards)
            for card, node in cards.items() or [(None, None)]:
                per_image = self._measure(run, device, self._probe(device, resources, node), fitter, card)
                for kind_of_card in (each for each, name in names.items() if name == card):
                    run.durations.measured(kind_of_card, per_image)
            self._refuse_too_large(run.missing, fitter, list(cards))
            self._measure_together(run, fitter, cards)
            self._say_shares(run.missing, fitter, list(cards))
            demand = runner.Demand(
                cpus=resources["cpu"],
                fitting=fitter,
                uses_cards=gpu > 0,
                device=device,
                probed={str(item.digest) for item in run.late},
                alone=fitter.alone,
                names=names,
            )
            with run.progress.shown():
                self._rounds(run, demand, self._options(device))

    def _measure_together(self, run: _Run, fitter: Fitter, nodes: Mapping[str, str]) -> None:
        """Measure on every kind of card how fast trials are that share it, where that is not known.

        Args:
            run: the trials.
            fitter: says which have memory for it.
            nodes: a machine for every kind of card.
        """
        from cass_tune import runner

        if self.settings.gpus_per_trial != "auto" or not self.settings.probe_seconds:
            return
        common = {name: getattr(self.settings, name) for name in ("threads", "workers")}
        for card, node in nodes.items():
            kinds = _not_tried_together(run.missing, fitter, card)
            if not kinds:
                continue
            found = runner.probe_together(
                list(kinds.values()),
                cpus=float(self.settings.cpus_per_trial),
                node=node,
                limit_s=self.settings.probe_seconds,
                device="cuda",
                **common,
            )
            for one, rates in zip(kinds.values(), found, strict=True):
                with suppress(StorageError):
                    fitter.learn_rates(one.trial, card, rates, checkpointing=one.checkpointing)

    def _say_shares(self, missing: Sequence[Wanted], fitter: Fitter, cards: Sequence[str]) -> None:
        """Say how many trials share a card, and which compute their activations again."""
        for card in cards:
            fits = Counter(fitter(item, card) for item in missing if not fitter.refusals([item], [card]))
            self.console.say(*(share_line(card, fit, count) for fit, count in fits.items() if fit != Fit()))

    def _probe(self, device: str, resources: Mapping[str, float], node: str | None) -> Callable[..., Measured]:
        """Return what probes where the trials will run: a task of Ray, or this process on the CPU of this machine."""
        if device == "cpu" and not self.settings.address:
            from cass_tune.probe import probe

            return probe
        from cass_tune import runner

        return partial(runner.probe_there, resources=resources, node=node)

    def _rounds(self, run: _Run, demand: Demand, options: RunOptions) -> None:
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


def _unknown_memory(missing: Sequence[Wanted], fitter: Fitter, card: str) -> dict[Kind, tuple[Trial, str]]:
    """Return one trial and phase for every kind of step whose memory on a card is not known."""
    found: dict[Kind, tuple[Trial, str]] = {}
    for item in missing:
        for phase in phases_of(item.trial):
            if not fitter.is_known(item.trial, phase, card):
                found.setdefault(kind(to_json(item.trial), phase), (item.trial, phase))
    return found


def _not_tried_together(missing: Sequence[Wanted], fitter: Fitter, card: str) -> dict[Kind, Together]:
    """Return a trial for every kind that may share a card, and whose speed there together is not known."""
    from cass_tune.runner import Together

    found: dict[Kind, Together] = {}
    for item in missing:
        if fitter.refusals([item], [card]):
            continue
        checkpointing, phase = fitter.checkpointing(item.trial, card), main_phase(item.trial)
        most = fitter.most_together(item.trial, card, checkpointing=checkpointing)
        if most > 1 and not fitter.knows_rates(item.trial, card, checkpointing=checkpointing):
            of = Together(trial=item.trial, phase=phase, checkpointing=checkpointing, most=most)
            found.setdefault(kind(to_json(item.trial), phase), of)
    return found


def _distinct_arms(trials: Sequence[Trial]) -> list[tuple[Trial, str]]:
    """Return one trial and arm for everything that `_arm_key` tells apart; a control's networks are those of others."""
    found: dict[object, tuple[Trial, str]] = {}
    networks: set[object] = set()
    for trial in sorted(trials, key=lambda trial: trial.pretrain.method == "none"):
        for arm in ARMS:
            network = _network_key(trial, arm)
            if trial.pretrain.method != "none" or network not in networks:
                found.setdefault(_arm_key(trial, arm), (trial, arm))
            networks.add(network)
    return list(found.values())


def _network_key(trial: Trial, arm: str) -> tuple[object, ...]:
    """Return what a network depends on."""
    pretrain = trial.pretrain
    size, width = trial.data.image_size_px, pretrain.embedding_dim
    return (arm, getattr(pretrain, arm), pretrain.weights_of(arm), size, width)


def _arm_key(trial: Trial, arm: str) -> tuple[object, ...]:
    """Return what a network, and whether the method can train it, depends on."""
    pretrain, dino = trial.pretrain, trial.dino
    crops = (dino.local_crops, dino.local_crop_px) if pretrain.method == "dino" else ()
    return (*_network_key(trial, arm), pretrain.method, pretrain.predictor, pretrain.variance_weight > 0, *crops)


def _check_packages(trial: Trial, arm: str) -> None:
    """Raise a UsageError when the method needs a package that is not installed."""
    from cass_tune.methods import method_class

    if trial.pretrain.method != "none":
        method_class(trial.pretrain.method).check(trial, arm, None)


def _check_name(trial: Trial, arm: str) -> None:
    from cass_tune.training.models import check_name

    weights = trial.pretrain.weights_of(arm)
    check_name(getattr(trial.pretrain, arm), arm, needs_weights=weights == "timm")


def _problems(function: Callable[..., None], *args: object) -> list[str]:
    """Return the texts of the UsageError that a function raises, or nothing."""
    try:
        function(*args)
    except UsageError as error:
        return list(error.problems)
    return []
