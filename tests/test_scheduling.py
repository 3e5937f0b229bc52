"""Trials on a real Ray cluster: its machines are processes on this one, with logical cards of several kinds."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cass_tune.plan import Wanted
from tests import tiny
from tests.sleeping import Study

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STORE = 150 * 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without a card, and a machine with four cards of kind A."""
    import ray
    from ray.cluster_utils import Cluster

    from cass_tune.runner.session import quiet

    quiet()
    head = {"num_cpus": 2, "num_gpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=8, num_gpus=4, resources={"accelerator_type:A": 1}, object_store_memory=STORE)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def items(count: int, epochs: int = 1) -> list[Wanted]:
    """Return trials without pretraining."""
    trial = tiny.trial({"pretrain.method": "none", "finetune.epochs": epochs})
    return [Wanted(trial=trial, name=f"t{n}", inputs=None, digest=f"{n:064x}") for n in range(count)]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.1)


def in_background(study: Study, **options: Any) -> threading.Thread:
    thread = threading.Thread(target=study.run, kwargs=options, daemon=True)
    thread.start()
    return thread


def test_quarters_are_spread_over_the_cards_and_what_only_probes_needs_none(cluster: Any, tmp_path: Path) -> None:
    """All wait for one another, so that they are there at once; two of them are ready when four others have begun."""
    wanted = items(8)
    probed = [str(item.digest) for item in wanted[6:]]
    study = Study(tmp_path, wanted, lambda config, phase: 0.1)

    def is_ready(item: Wanted) -> bool:
        return item.name not in ("t4", "t5") or {"t0", "t1", "t2", "t3"} <= {slept.name for slept in study.attempts()}

    study.run(0.25, probed=probed, is_ready=is_ready, together=8)
    attempts = {slept.name: slept for slept in study.attempts()}
    assert len(study.attempts()) == len(attempts) == 8
    cards = [attempts[f"t{n}"] for n in range(6)]
    assert len({slept.cards for slept in cards[:4]}) == 4, "idle cards first"
    assert sorted(Counter(slept.cards for slept in cards).values()) == [1, 1, 2, 2]
    assert {(slept.kind, slept.device) for slept in cards} == {("A", "cuda")}
    assert {(s.kind, s.device, s.cards) for s in (attempts["t6"], attempts["t7"])} == {("cpu", "cpu", ())}


def test_a_machine_is_lost_and_another_one_comes(cluster: Any, tmp_path: Path) -> None:
    """Six trials for five cards. A machine goes with its trial; a new one, of a kind of its own, is used at once."""
    lost = cluster.add_node(num_cpus=1, num_gpus=1, resources={"accelerator_type:B": 1}, object_store_memory=STORE)
    study = Study(tmp_path, items(6, epochs=12), lambda config, phase: 1.0)
    thread = in_background(study)
    wait_for(lambda: any(slept.kind == "B" for slept in study.attempts()))
    wait_for(lambda: len(study.attempts()) == 5)
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(num_cpus=2, num_gpus=2, labels={"ray.io/accelerator-type": "C"}, object_store_memory=STORE)
    thread.join(180)
    assert not thread.is_alive()
    attempts = study.attempts()
    assert {slept.name for slept in attempts if slept.end} == {f"t{n}" for n in range(6)}
    (cut_off,) = (slept for slept in attempts if slept.end is None)
    assert cut_off.kind == "B"
    assert [slept.kind for slept in attempts if slept.name == cut_off.name][1:] in (["A"], ["C"])
    assert any(slept.kind == "C" for slept in attempts)
    assert study.marks() == 6 * 2 * 12


def test_the_process_of_a_card_is_used_again(cluster: Any, tmp_path: Path) -> None:
    study = Study(tmp_path, items(9), lambda config, phase: 0.2)
    study.run(1.0)
    by_card: dict[object, set[int]] = {}
    for slept in study.attempts():
        by_card.setdefault((slept.node, slept.cards), set()).add(slept.process)
    assert len(study.attempts()) == 9
    assert all(len(processes) == 1 for processes in by_card.values())
