"""How much of their time cards idle: the paper's grid in miniature on a cluster of processes on this machine.

    python -m tests.benchmarks.scheduling

27 cells: 1, 10, 100 % of the labels, batch 8, 16, 32, and 2, 4, 8 epochs of pretraining in place of 50, 100, 200, with
2 of finetuning in place of 50; those of one batch size share their pretraining. Trials sleep as long as the images of
an epoch take on their kind of card: cards are logical, everything else (scheduler, places, Ray, Ray Tune, processes) is
what a study uses. Two machines with two cards each, the second's twice as fast; then the same with a third one, whose
processes are killed when a third of the time is over. Prints the time from the first trial's start to the last one's
end over the least possible: all epochs on all cards without a pause, each pretraining on one card, and a finetuning
after it. The start of a process on every card is part of it: the longer the trials, the less that counts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cass_tune.config import Trial, to_json, with_field
from cass_tune.pace import kind
from cass_tune.plan import Wanted, grid, resolve
from cass_tune.runner import session
from cass_tune.sharing import in_order
from tests.grids import INPUTS
from tests.schedules import SECONDS_PER_IMAGE, Grid, bound
from tests.sleeping import Study

AXES = {
    "data.label_fraction": (0.01, 0.1, 1.0),
    "pretrain.batch_size": (8, 16, 32),
    "pretrain.epochs": (2, 4, 8),
}
SPEEDS = {"slow": 1.0, "fast": 2.0, "spot": 1.0}
CARDS = {"slow": 2, "fast": 2}
STORE = 150 * 2**20


def cells() -> list[Wanted]:
    """Return the grid in the order in which it is asked for."""
    trials = list(grid(with_field(Trial(), "finetune.epochs", 2), AXES))
    return in_order(resolve(trials, dict.fromkeys(trials, INPUTS)))


def measure(cluster: Any, folder: Path, seconds: float, *, knows_speeds: bool, loses_a_machine: bool) -> float:
    """Run the grid and return the time that it took over the least possible one."""
    items = cells()
    reference = Grid(items, SPEEDS)
    scale = seconds * sum(_speeds()) / sum(reference.shared_s().values())
    study = Study(folder, items, lambda config, phase: scale * reference.epoch_s(config, phase), SPEEDS)
    if knows_speeds:
        what = kind(to_json(items[0].trial), "pretrain")
        for card, speed in SPEEDS.items():
            study.durations.measured(card, {what: scale * SECONDS_PER_IMAGE / speed})
    lost = _spot(cluster) if loses_a_machine else None
    thread = threading.Thread(target=study.run, daemon=True)
    thread.start()
    while not study.attempts():
        time.sleep(0.1)
    started, killed_s = study.attempts()[0].start, 0.0
    while thread.is_alive():
        time.sleep(0.2)
        if lost is not None and time.time() > started + seconds / 3:
            killed_s = time.time() - started
            cluster.remove_node(lost, allow_graceful=False)
            lost = None
    attempts = study.attempts()
    assert {slept.name for slept in attempts if slept.end} == {item.name for item in items}
    makespan = max(slept.end or 0.0 for slept in attempts) - started
    whole = (sum(reference.shared_s().values()) * scale - killed_s * SPEEDS["spot"]) / sum(_speeds())
    ever = [*_speeds(), *([SPEEDS["spot"]] if killed_s else [])]
    least = max(whole, bound(reference, [], ever) * scale)
    cut_off = sum(slept.end is None for slept in attempts)
    print(f"  {makespan:.1f} s, at least {least:.1f} s: {makespan / least:.3f} of that; {cut_off} attempts cut off")
    return makespan / least


def _speeds() -> list[float]:
    """Return the speed of every card that stays."""
    return [SPEEDS[name] for name, count in CARDS.items() for _ in range(count)]


def _spot(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, num_gpus=1, resources={"accelerator_type:spot": 1}, object_store_memory=STORE)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 0 when cards idle no more than 5 % of their time, with the speeds known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0, help="least time of one run, about")
    seconds = parser.parse_args(argv).seconds
    session.quiet()
    import ray
    from ray.cluster_utils import Cluster

    head: Mapping[str, Any] = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": STORE})
    for name, count in CARDS.items():
        cluster.add_node(
            num_cpus=count, num_gpus=count, resources={f"accelerator_type:{name}": 1}, object_store_memory=STORE
        )
    ray.init(address=cluster.address, log_to_driver=False)
    session._quieten()  # a machine that is lost brings pages of its log
    print(f"load average at the start: {os.getloadavg()[0]:.1f}")
    ratios = []
    try:
        for knows, loses in ((True, False), (False, False), (True, True)):
            print(
                f"speeds {'known' if knows else 'unknown'} at the start, {'a machine is lost' if loses else 'no loss'}:"
            )
            with tempfile.TemporaryDirectory() as folder:
                ratios.append(measure(cluster, Path(folder), seconds, knows_speeds=knows, loses_a_machine=loses))
    finally:
        ray.shutdown()
        cluster.shutdown()
    return int(ratios[0] > 1.05)


if __name__ == "__main__":
    raise SystemExit(main())
