"""The probe, where trials run: actors of Ray with a trial's resources."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from cass_tune.config import Trial
from cass_tune.fitting import batch_size, best_together, numbers_to_try, part

if TYPE_CHECKING:
    from cass_tune.probe import Measured

logger = logging.getLogger(__name__)

START_SHARE = 0.5
"""Part of the time in which the actor must have found a place and imported torch."""
END_SHARE = 0.1
"""Part of the remaining time that is left for a step that has begun."""


TOGETHER_S = 5.0
"""How long trials together are measured."""


@dataclass(frozen=True, kw_only=True)
class Together:
    """Trials that may share a card.

    Args:
        trial: one of them.
        phase: by whose speed they are packed.
        checkpointing: whether activations are computed again.
        most: that a card has memory for.
    """

    trial: Trial
    phase: str
    checkpointing: bool
    most: int


class _Prober:
    """Measures in a process of its own, which ends, and gives its memory back."""

    def begin(self) -> None:
        """Bring what the probe needs, and take the card with the least memory of those that it has."""
        if not ray.get_runtime_context().get_accelerator_ids()["GPU"]:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # as for trials
        import cass_tune.probe  # noqa: F401
        from cass_tune.training.card_memory import use_least_card

        use_least_card()

    def measure(self, wanted: Sequence[tuple[Trial, str]], options: Mapping[str, Any]) -> Measured:
        from cass_tune.probe import probe

        return probe(wanted, **options)

    def step_ends(self, kind: Together, options: Mapping[str, Any]) -> list[float]:
        from cass_tune.probe import step_ends

        return step_ends(kind.trial, kind.phase, checkpointing=kind.checkpointing, **options)


def probe_there(
    wanted: Sequence[tuple[Trial, str]],
    *,
    resources: Mapping[str, float],
    limit_s: float,
    node: str | None = None,
    **options: Any,
) -> Measured:
    """Run `cass_tune.probe.probe` where a trial would run; what fails, or finds no place in time, is a problem.

    Args:
        wanted: a trial and a phase for every kind of step.
        resources: ``cpu`` and ``gpu`` of one trial.
        limit_s: most seconds of everything: finding a place, starting and measuring.
        node: Ray's identity of the machine; any by default.
        **options: of the probe.
    """
    from cass_tune.probe import Measured

    deadline = time.monotonic() + limit_s
    needs: Any = {"num_cpus": resources["cpu"], "num_gpus": resources["gpu"], "max_restarts": 0}
    if node:
        needs["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
    prober: Any = ray.remote(**needs)(_Prober).remote()
    try:
        ray.get(prober.begin.remote(), timeout=limit_s * START_SHARE)
        left_s = deadline - time.monotonic()
        asked = prober.measure.remote(list(wanted), {**options, "limit_s": left_s * (1 - END_SHARE)})
        return ray.get(asked, timeout=left_s)
    except RayError as error:
        text = (str(error).strip().splitlines() or ["no answer"])[0][:200]
        return Measured(problems=[f"{type(error).__name__}: {text}"])
    finally:
        ray.kill(prober)


def places_on_a_card(node: str, cpus: float) -> int:
    """Return for how many trials on each card a machine has cores, at least 1.

    Args:
        node: Ray's identity of it.
        cpus: of each trial.
    """
    (there,) = (each["Resources"] for each in ray.nodes() if each["NodeID"] == node)
    return max(1, int(there.get("CPU", 0) / cpus / max(1.0, there.get("GPU", 1.0))))


def probe_together(
    kinds: Sequence[Together], *, cpus: float, node: str, limit_s: float, **options: Any
) -> list[dict[int, float]]:
    """Measure how fast trials are that share one card, more and more of them while that pays.

    Args:
        kinds: of trials.
        cpus: of each.
        node: Ray's identity of the machine.
        limit_s: most seconds of all together; kinds for which no time is left have no measurement.
        **options: device, threads and workers, as of `cass_tune.probe.step_ends`.

    Returns:
        Of each kind images per second of all together, by number of trials, the first number that gains too little
        included; it ends before, too, for want of time or CPUs, or by an error (`cass_tune.fitting.is_enough`).
    """
    deadline = time.monotonic() + limit_s
    (there,) = (each for each in ray.nodes() if each["NodeID"] == node)
    most = min(max((kind.most for kind in kinds), default=1), places_on_a_card(node, cpus))
    found: list[dict[int, float]] = [{} for _ in kinds]
    with _on_one_card(most, cpus, there, deadline) as probers:
        for kind, rates in zip(kinds, found, strict=True):
            for count in numbers_to_try(min(kind.most, len(probers))) if probers else ():
                if deadline - time.monotonic() < 2 * TOGETHER_S:
                    return found
                rate = _rate(probers[:count], kind, deadline, options)
                if rate is None:
                    break
                rates[count] = rate
                if best_together(rates, count) < count:
                    break
    return found


@contextmanager
def _on_one_card(most: int, cpus: float, node: Mapping[str, Any], deadline: float) -> Iterator[list[Any]]:
    """Start probers that share one card; none when there is no place, or no time."""
    here = {f"node:{node['NodeManagerAddress']}": 0.001}
    group = placement_group([{"GPU": 1.0, "CPU": most * cpus, **here}])
    probers: list[Any] = []
    try:
        if group.wait(max(0.0, deadline - time.monotonic()) * START_SHARE):
            where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
            needs: Any = {"num_cpus": cpus, "num_gpus": part(most), "max_restarts": 0, "scheduling_strategy": where}
            probers = [ray.remote(**needs)(_Prober).remote() for _ in range(most)]
        yield probers if _have_begun(probers, deadline) else []
    finally:
        for prober in probers:
            ray.kill(prober)
        remove_placement_group(group)


def _have_begun(probers: Sequence[Any], deadline: float) -> bool:
    try:
        ray.get([prober.begin.remote() for prober in probers], timeout=max(0.0, deadline - time.monotonic()))
    except RayError as error:
        logger.debug("trials together are not measured: %s", error)
        return False
    return True


def _rate(probers: Sequence[Any], kind: Together, deadline: float, options: Mapping[str, Any]) -> float | None:
    """Return images per second of all probers, while they all are at work, or None: it failed, or they never were."""
    asked = [prober.step_ends.remote(kind, {**options, "seconds": TOGETHER_S}) for prober in probers]
    try:
        ends = ray.get(asked, timeout=max(0.0, deadline - time.monotonic()))
    except RayError as error:  # memory that is not enough, too
        logger.debug("%d trials together: %s", len(probers), error)
        return None
    return batch_size(kind.trial, kind.phase) * steps_per_second(ends) or None


def steps_per_second(ends: Sequence[Sequence[float]]) -> float:
    """Return the steps per second of processes that work side by side, while all of them do.

    Args:
        ends: of each process the times at which its steps ended, in order.
    """
    begun, over = max(each[0] for each in ends), min(each[-1] for each in ends)
    if over <= begun:
        return 0.0
    return sum(begun < end <= over for each in ends for end in each) / (over - begun)
