"""Measuring, before the first trial runs, what is not known of the trials yet, and saying what they will take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from cass_tune.config import Trial, to_json
from cass_tune.console import Console, duration
from cass_tune.errors import StorageError
from cass_tune.fitting import Fitter, main_phase, phases_of
from cass_tune.options import Settings
from cass_tune.overview import time_lines
from cass_tune.pace import Kind, kind
from cass_tune.plan import Wanted
from cass_tune.run import Run

if TYPE_CHECKING:
    from cass_tune.probe import Measured
    from cass_tune.runner import Together


class Measuring:
    """Measures what is not known of the trials yet: time and memory of their steps, and their speed on a shared card.

    Args:
        settings: of the run.
        console: where it is said.
        run: the trials.
        fitter: knows the memory of steps, and the speed of trials that share a card.
    """

    def __init__(self, settings: Settings, console: Console, run: Run, fitter: Fitter) -> None:
        self._settings = settings
        self._console = console
        self._run = run
        self._fitter = fitter

    def alone(self, device: str, probe: Callable[..., Measured], card: str | None = None) -> Mapping[Kind, float]:
        """Measure what is not known of the trials yet, and say what they will take; a failure is only said.

        Args:
            device: ``cpu`` or ``cuda``.
            probe: `cass_tune.probe.probe`, here or where trials run.
            card: kind of GPU on which it measures.

        Returns:
            Seconds per image and network, by kind of step, as far as they were measured.
        """
        run, fitter = self._run, self._fitter
        assumed, run.estimator.device = run.estimator.device, device
        per_image: Mapping[Kind, float] = {}
        if not run.missing:
            return per_image
        unknown = run.estimator.unknown_kinds(run.missing, run.own)
        unknown |= _unknown_memory(run.missing, fitter, card) if card else {}
        is_probed = bool(unknown and self._settings.probe_seconds)
        if is_probed:
            settings = {name: getattr(self._settings, name) for name in ("threads", "workers")}
            settings["modes"] = fitter.modes
            try:
                found = probe(list(unknown.values()), device=device, limit_s=self._settings.probe_seconds, **settings)
            except Exception as error:  # trials can run without it
                self._console.say(f"probe: {type(error).__name__}: {error}")
            else:
                per_image = found.per_image
                run.estimator.measured(per_image, f"by a probe of {duration(found.took_s)}")
                if found.card:
                    with suppress(StorageError):  # known to this process all the same
                        fitter.footprints.add(found.card, found.readings)
                self._console.say(*(f"probe: {text}" for text in found.problems))
        if is_probed or device != assumed:
            self._console.say(*time_lines(run.estimator.times(run.missing, run.own), self._settings.price))
        return per_image

    def together(self, nodes: Mapping[str, str]) -> None:
        """Measure on every kind of card how fast trials are that share it, where that is not known.

        Args:
            nodes: a machine for every kind of card.
        """
        from cass_tune import runner

        if self._settings.gpus_per_trial != "auto" or not self._settings.probe_seconds:
            return
        for card, node in nodes.items():
            places = runner.places_on_a_card(node, self._fitter.host.cpus)
            kinds = _not_tried_together(self._run.missing, self._fitter, card, places)
            if not kinds:
                continue
            found = runner.probe_together(
                list(kinds.values()),
                node=node,
                limit_s=self._settings.probe_seconds,
                device="cuda",
                **asdict(self._fitter.host),
            )
            for one, rates in zip(kinds.values(), found, strict=True):
                with suppress(StorageError):
                    self._fitter.learn_rates(one.trial, card, rates, checkpointing=one.checkpointing)


def _unknown_memory(missing: Sequence[Wanted], fitter: Fitter, card: str) -> dict[Kind, tuple[Trial, str]]:
    """Return one trial and phase for every kind of step whose memory on a card is not known."""
    found: dict[Kind, tuple[Trial, str]] = {}
    for item in missing:
        for phase in phases_of(item.trial):
            if not fitter.is_known(item.trial, phase, card):
                found.setdefault(kind(to_json(item.trial), phase), (item.trial, phase))
    return found


def _not_tried_together(missing: Sequence[Wanted], fitter: Fitter, card: str, places: int) -> dict[Kind, Together]:
    """Return a trial for every kind that may share a card with cores for some, and whose speed there is not known."""
    from cass_tune.runner import Together

    found: dict[Kind, Together] = {}
    for item in missing:
        if fitter.refusals([item], [card]):
            continue
        checkpointing, phase = fitter.checkpointing(item.trial, card), main_phase(item.trial)
        most = min(places, fitter.most_together(item.trial, card, checkpointing=checkpointing))
        if most > 1 and not fitter.knows_rates(item.trial, card, checkpointing=checkpointing, places=places):
            of = Together(trial=item.trial, phase=phase, checkpointing=checkpointing, most=most)
            found.setdefault(kind(to_json(item.trial), phase), of)
    return found
