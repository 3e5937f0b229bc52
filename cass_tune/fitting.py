"""Which part of a GPU a trial takes: as much memory as it was measured to need, as many together as do most work."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cass_tune.config import Trial, to_json
from cass_tune.errors import UsageError
from cass_tune.memory import CONTEXT_GIB, ONE_CORE, Card, Footprint, Footprints, Host, section_of, shape
from cass_tune.options import option
from cass_tune.pace import PHASES
from cass_tune.plan import Wanted

MOST_TOGETHER = 8
MARGIN = 0.1
"""Part of its measured memory that a trial may need more of, where it shares a card: fragments, larger last batches."""
LEAST_GAIN = 1.05
"""So many times the work per second more trials on a card must do."""
_PART = 10_000
"""Ray counts GPUs in parts of this size."""

Mode = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Fit:
    """How a trial is placed on a kind of card.

    Args:
        share: part of one card that it takes: 1/k where k trials share a card, at most 1; 0 on the CPU.
        cap: part of the card's memory that its process may take, above 0 and at most 1.
        checkpointing: whether activations are computed again in the backward pass instead of being kept.
    """

    share: float = 1.0
    cap: float = 1.0
    checkpointing: bool = False


Fitting = Callable[[Wanted, str], Fit]
"""Returns the fit of a trial on a kind of card (`cass_tune.memory.Card.kind`), or on ``cpu``."""


def part(trials: int) -> float:
    """Return the share of a card that so many trials can have each, as Ray counts."""
    return math.floor(_PART / trials) / _PART


def most_together(need_gib: float, card_gib: float) -> int:
    """Return how many trials a card has memory for, at least 1 and at most `MOST_TOGETHER`.

    Args:
        need_gib: measured memory of one.
        card_gib: memory of the card.
    """
    each = need_gib * (1 + MARGIN) + CONTEXT_GIB
    return max(1, min(MOST_TOGETHER, int(card_gib / each)))


def numbers_to_try(most: int) -> list[int]:
    """Return the numbers of trials together that are worth a measurement: powers of two, and the most that fit."""
    return [*(count for count in (1, 2, 4, 8) if count < most), most]


def best_together(rates: Mapping[int, float], most: int) -> int:
    """Return the number of trials after which more do not bring `LEAST_GAIN` times the work.

    Args:
        rates: images per second, of all together, by number of trials.
        most: that the card has memory for.
    """
    best = 1
    for count in sorted(count for count in rates if 1 < count <= most):
        if rates[count] < LEAST_GAIN * rates.get(best, math.inf):
            break
        best = count
    return best


def is_enough(rates: Mapping[int, float], most: int) -> bool:
    """Return whether more trials on a card need no measurement: the last ones gained too little, or no more fit.

    Args:
        rates: images per second, of all together, by number of trials.
        most: that the card has memory for.
    """
    last = max(rates, default=0)
    return last >= most or best_together(rates, most) < last


def largest_batch(gib: Mapping[int, float | None], room_gib: float) -> int | None:
    """Return the largest batch that fits, about: by a straight line through what was measured, or None.

    Args:
        gib: measured memory by images per batch; None: more than there is.
        room_gib: memory that there is.
    """
    known = [(batch, value) for batch, value in sorted(gib.items()) if value is not None]
    if len(known) < 2:
        return None
    (few, least), (many, most) = known[0], known[-1]
    slope = (most - least) / (many - few)
    if slope <= 0:
        return None
    batch = int(few + (room_gib / (1 + MARGIN) - least) / slope)
    too_large = min((batch for batch, value in gib.items() if value is None), default=batch + 1)
    return max(0, min(batch, too_large - 1))


class Fitter:
    """Fits trials by what was measured; without a measurement a trial gets a whole card.

    Args:
        footprints: the measurements.
        share: of every trial, or ``auto``.
        mode: whether activations are computed again.
        host: of each trial.
    """

    def __init__(
        self,
        footprints: Footprints,
        share: float | Literal["auto"] = "auto",
        mode: Mode = "auto",
        host: Host = ONE_CORE,
    ) -> None:
        self.footprints = footprints
        self.host = host
        self._share = share
        self._mode: Mode = mode

    def __call__(self, wanted: Wanted, device_kind: str) -> Fit:
        """Return the fit of a trial.

        Args:
            wanted: the trial.
            device_kind: kind of card, or ``cpu``.

        Raises:
            UsageError: a batch of the trial does not fit there.
        """
        if device_kind == "cpu":
            return Fit(share=0.0, checkpointing=self._mode == "on")
        checkpointing = self.checkpointing(wanted.trial, device_kind)
        if not isinstance(self._share, str):
            return Fit(self._share, self._share, checkpointing)
        count = self._together(wanted.trial, device_kind, checkpointing=checkpointing)
        return Fit(part(count), 1 / count, checkpointing)

    def refusals(self, wanted: Iterable[Wanted], cards: Sequence[str]) -> list[str]:
        """Return why trials can run on none of the kinds of card, one text for each batch that is too large.

        Args:
            wanted: the trials.
            cards: the kinds that there are.
        """
        found: list[str] = []
        for item in wanted:
            problems = [self._problems(item.trial, card) for card in cards]
            if problems and all(problems):
                found += [text for texts in problems for text in texts]
        return list(dict.fromkeys(found))

    def _problems(self, trial: Trial, card: str) -> list[str]:
        try:
            self.checkpointing(trial, card)
        except UsageError as error:
            return list(error.problems)
        return []

    @property
    def alone(self) -> Fit:
        """How a trial runs again that ran out of memory: with a whole card and as little memory as may be."""
        return Fit(checkpointing=self.modes[-1])

    @property
    def modes(self) -> list[bool]:
        """Without and with activation checkpointing, as far as it may be used, in the order of preference."""
        return {"auto": [False, True], "off": [False], "on": [True]}[self._mode]

    def checkpointing(self, trial: Trial, card: str) -> bool:
        """Return whether a trial needs activation checkpointing, or has it anyway.

        Args:
            trial: the trial.
            card: the kind.

        Raises:
            UsageError: it does not fit either way.
        """
        for checkpointing in self.modes:
            if not self._too_large(trial, card, checkpointing=checkpointing):
                return checkpointing
        too_large = self._too_large(trial, card, checkpointing=self.modes[-1])
        raise UsageError(*(self._refusal(trial, phase, card) for phase in too_large))

    def is_known(self, trial: Trial, phase: str, card: str) -> bool:
        """Return whether it is known how, or that not, a phase of a trial fits on a kind of card."""
        return any(
            gib is not None or checkpointing == self.modes[-1]
            for checkpointing in self.modes
            for gib in self._readings(trial, phase, card, checkpointing=checkpointing)
        )

    def need_gib(self, trial: Trial, card: str, *, checkpointing: bool) -> float | None:
        """Return the most memory of any phase, or None: not all are known."""
        found = [
            reading
            for phase in phases_of(trial)
            for reading in self._readings(trial, phase, card, checkpointing=checkpointing) or [None]
        ]
        known = [gib for gib in found if gib is not None]
        return max(known) if len(known) == len(found) else None

    def footprint(self, trial: Trial, phase: str, card: str, *, checkpointing: bool) -> Footprint:
        """Return what is known of a phase of a trial on a kind of card."""
        return self.footprints.of(card, shape(to_json(trial), phase), checkpointing=checkpointing)

    def _readings(self, trial: Trial, phase: str, card: str, *, checkpointing: bool) -> list[float | None]:
        """Return the reading of the very batch size of a phase: one, or none."""
        gib, batch = self.footprint(trial, phase, card, checkpointing=checkpointing).gib, batch_size(trial, phase)
        return [gib[batch]] if batch in gib else []

    def _too_large(self, trial: Trial, card: str, *, checkpointing: bool) -> list[str]:
        """Return the phases that are known not to fit into the trial's share of a card."""
        found: list[str] = []
        for phase in phases_of(trial):
            total = self.footprint(trial, phase, card, checkpointing=checkpointing).card
            for gib in self._readings(trial, phase, card, checkpointing=checkpointing):
                if gib is None or (total and gib > self._room_gib(total)):
                    found.append(phase)
        return found

    def _room_gib(self, card: Card) -> float:
        """Return what a trial may allocate of a card; what was measured on a whole card fits on one."""
        if isinstance(self._share, str) or self._share >= 1:
            return card.total_gib
        return (self._share * card.total_gib - CONTEXT_GIB) / (1 + MARGIN)

    def most_together(self, trial: Trial, card: str, *, checkpointing: bool) -> int:
        """Return how many trials like this one a card has memory for; 1 before that is measured."""
        need = self.need_gib(trial, card, checkpointing=checkpointing)
        total = self.footprint(trial, main_phase(trial), card, checkpointing=checkpointing).card
        return most_together(need, total.total_gib) if need is not None and total else 1

    def knows_rates(self, trial: Trial, card: str, *, checkpointing: bool, places: float = math.inf) -> bool:
        """Return whether it was measured how fast trials like this one are together, see `is_enough`.

        Args:
            trial: the trial.
            card: the kind.
            checkpointing: whether activations are computed again.
            places: for which the machine has cores.
        """
        phase = main_phase(trial)
        rates = self.footprint(trial, phase, card, checkpointing=checkpointing).rates(self.host)
        most = min(places, self.most_together(trial, card, checkpointing=checkpointing))
        return is_enough(rates.get(batch_size(trial, phase), {}), int(most))

    def learn_rates(self, trial: Trial, card: str, rates: Mapping[int, float], *, checkpointing: bool) -> None:
        """Remember how fast trials like this one are together, if anything was measured.

        Raises:
            StorageError: as for `Footprints.add`.
        """
        phase = main_phase(trial)
        known = self.footprint(trial, phase, card, checkpointing=checkpointing).card
        if known and rates:
            of, batch = shape(to_json(trial), phase), batch_size(trial, phase)
            self.footprints.add_rates(known, of, batch, rates, host=self.host, checkpointing=checkpointing)

    def _together(self, trial: Trial, card: str, *, checkpointing: bool) -> int:
        """Return how many trials like this one share a card; its batch size has the speed of the nearest measured."""
        phase = main_phase(trial)
        rates = self.footprint(trial, phase, card, checkpointing=checkpointing).rates(self.host)
        batch = batch_size(trial, phase)
        if not rates:
            return 1
        nearest = min(rates, key=lambda measured: abs(measured - batch))
        return best_together(rates[nearest], self.most_together(trial, card, checkpointing=checkpointing))

    def _refusal(self, trial: Trial, phase: str, card: str) -> str:
        footprint = self.footprint(trial, phase, card, checkpointing=self.modes[-1])
        assert footprint.card is not None
        name, size = option(f"{section_of(phase)}.batch_size"), batch_size(trial, phase)
        room = footprint.card.total_gib - CONTEXT_GIB
        where, advice = card, "a card with more memory"
        if not isinstance(self._share, str) and self._share < 1:
            room = self._room_gib(footprint.card) * (1 + MARGIN)
            where = f"--gpus-per-trial {self._share:g} of {where}"
            advice = "a larger --gpus-per-trial"
        if self._mode == "off":
            advice = f"--activation-checkpointing auto, or {advice}"
        both = " with activation checkpointing" if self.modes[-1] else ""
        largest = largest_batch(footprint.gib, room)
        smaller = f"{name} {largest} (about the largest that fits)" if largest else f"a smaller {name}"
        what = f"{name} {size} at {trial.data.image_size_px} px"
        return f"{what} does not fit on {where}{both}. Give {smaller}, or {advice}."


def phases_of(trial: Trial) -> tuple[str, ...]:
    """Return the phases that a trial has."""
    return PHASES[1:] if trial.pretrain.method == "none" else PHASES


def main_phase(trial: Trial) -> str:
    """Return the phase by whose speed trials are packed: the pretraining, or the larger network's finetuning."""
    return "pretrain" if trial.pretrain.method != "none" else "finetune_vit"


def batch_size(trial: Trial, phase: str) -> int:
    """Return the images per batch of a phase."""
    return getattr(trial, section_of(phase)).batch_size
