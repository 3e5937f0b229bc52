"""How much memory of a card training steps take, and how many together do most work: measured, and remembered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cass_tune.identity import digest
from cass_tune.pace import kind
from cass_tune.results import Record, Results

CONTEXT_GIB = 0.6
"""What a process takes of a card beside torch's allocations: CUDA's context and the kernels that are loaded."""

Shape = tuple[Any, ...]
"""What the memory of a step depends on beside the batch size: phase, image size, networks, method, precision."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A kind of GPU.

    Args:
        name: torch's, for example ``NVIDIA H200``.
        total_gib: its memory.
    """

    name: str
    total_gib: float

    @property
    def kind(self) -> str:
        """What tells it from other kinds: cards of one name may have different memory."""
        return f"{self.name} ({self.total_gib:.0f} GiB)"


@dataclass(frozen=True, kw_only=True)
class Host:
    """What a trial has of its machine beside the card.

    Args:
        cpus: that Ray counts for it.
        threads: CPU threads of one operation.
        workers: processes that load images.
    """

    cpus: float = 1.0
    threads: int = 1
    workers: int = 0

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs, {self.threads} threads, {self.workers} workers"


ONE_CORE = Host()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a probe has read of one kind of step.

    Args:
        shape: of the step.
        batch_size: images per batch.
        checkpointing: whether activations were computed again.
        gib: most memory that was allocated at once, evaluation and optimiser included; None: more than there is.
    """

    shape: Shape
    batch_size: int
    checkpointing: bool
    gib: float | None


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What is known of steps of one shape on a card.

    Args:
        card: which one; None: nothing is known.
        gib: memory by images per batch; None: more than there is.
        together: images per second of all trials on one card, by `Host` (its text), images per batch and number of
            trials.
    """

    card: Card | None = None
    gib: Mapping[int, float | None] = field(default_factory=dict)
    together: Mapping[str, Mapping[int, Mapping[int, float]]] = field(default_factory=dict)

    def rates(self, host: Host) -> Mapping[int, Mapping[int, float]]:
        """Return the images per second of trials with a host, by images per batch and number of trials."""
        return self.together.get(str(host), {})


def shape(config: Mapping[str, Any], phase: str) -> Shape:
    """Return the shape of a trial's steps.

    Args:
        config: the trial as JSON (`cass_tune.config.to_json`).
        phase: ``pretrain``, or ``finetune_`` and the arm.
    """
    section = section_of(phase)
    return kind({**config, section: {**config[section], "batch_size": None}}, phase)


def section_of(phase: str) -> str:
    """Return the trial's section that describes a phase."""
    return "pretrain" if phase == "pretrain" else "finetune"


class Footprints:
    """The measurements below a results root.

    Args:
        results: the root.
    """

    def __init__(self, results: Results) -> None:
        self._results = results
        self._known: dict[str, Footprint] = {}

    def of(self, card: str, of: Shape, *, checkpointing: bool) -> Footprint:
        """Return what is known of steps of one shape.

        Args:
            card: kind of card (`Card.kind`).
            of: the shape.
            checkpointing: whether activations are computed again.
        """
        key = _key(card, of, checkpointing)
        if key not in self._known:
            self._known[key] = _footprint(self._results.footprint(key))
        return self._known[key]

    def add(self, card: Card, readings: Iterable[Reading]) -> None:
        """Remember readings; a later one of the same step takes the place of an earlier one.

        Raises:
            StorageError: it cannot be written; it is known for this process all the same.
        """
        for reading in readings:
            self._change(
                card, reading.shape, checkpointing=reading.checkpointing, gib={reading.batch_size: reading.gib}
            )

    def add_rates(
        self, card: Card, of: Shape, batch_size: int, rates: Mapping[int, float], *, host: Host, checkpointing: bool
    ) -> None:
        """Remember how fast trials together are.

        Args:
            card: on which they were.
            of: shape of the steps.
            batch_size: images per batch.
            rates: images per second, of all together, by number of trials.
            host: of each.
            checkpointing: whether activations were computed again.

        Raises:
            StorageError: as for `add`.
        """
        before = self.of(card.kind, of, checkpointing=checkpointing).rates(host)
        together = {str(host): {**before, batch_size: dict(rates)}}
        self._change(card, of, checkpointing=checkpointing, together=together)

    def _change(
        self,
        card: Card,
        of: Shape,
        *,
        checkpointing: bool,
        gib: Mapping[int, float | None] | None = None,
        together: Mapping[str, Mapping[int, Mapping[int, float]]] | None = None,
    ) -> None:
        before, key = self.of(card.kind, of, checkpointing=checkpointing), _key(card.kind, of, checkpointing)
        after = Footprint(
            card=card, gib={**before.gib, **(gib or {})}, together={**before.together, **(together or {})}
        )
        self._known[key] = after
        self._results.keep_footprint(key, {**asdict(after), "shape": list(of), "checkpointing": checkpointing})


def _key(card: str, of: Shape, checkpointing: bool) -> str:
    return digest({"card": card, "shape": list(of), "checkpointing": checkpointing})


def _footprint(record: Record | None) -> Footprint:
    if record is None:
        return Footprint()
    return Footprint(
        card=Card(**record["card"]),
        gib={int(batch): gib for batch, gib in record["gib"].items()},
        together={host: _numbered(by_batch) for host, by_batch in record.get("together", {}).items()},
    )


def _numbered(by_batch: Mapping[str, Mapping[str, float]]) -> dict[int, dict[int, float]]:
    return {int(batch): {int(count): rate for count, rate in rates.items()} for batch, rates in by_batch.items()}
