"""Which kind of card each machine of a cluster has, as torch says there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cass_tune.config import to_json
from cass_tune.devices import Gpu
from cass_tune.fitting import Fitter
from cass_tune.memory import Card, Footprints, Reading, shape
from cass_tune.plan import Wanted
from cass_tune.results import Results
from cass_tune.runner import devices, kinds_of, machines, mixed_lines, one_of_each
from tests import tiny

A100_40 = Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 39.5)
A100_80 = Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 79.2)
T4 = Gpu("Tesla T4", (7, 5), 14.6)
SMALL, LARGE = "NVIDIA A100-SXM4-40GB (40 GiB)", "NVIDIA A100-SXM4-80GB (79 GiB)"


def cluster(monkeypatch: pytest.MonkeyPatch, **gpus: tuple[Gpu, ...]) -> None:
    """Let a cluster have machines whose cards Ray calls A100, or T4 where the first one is."""

    def answers(nodes: Iterable[Mapping[str, Any]], *question: Any, **options: Any) -> dict[str, tuple[Gpu, ...]]:
        return {devices.name_of(node): gpus[node["NodeID"]] for node in nodes}

    def node(name: str, found: tuple[Gpu, ...]) -> dict[str, Any]:
        label = "T4" if found[:1] == (T4,) else "A100"
        address = {"NodeManagerHostname": name, "NodeManagerAddress": name}
        return {"NodeID": name, **address, "Resources": {"GPU": 4.0, f"accelerator_type:{label}": 1.0}}

    monkeypatch.setattr(devices, "alive_nodes", lambda: [node(name, found) for name, found in gpus.items()])
    monkeypatch.setattr(devices, "answers", answers)


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_cards_with_one_label_and_different_memory_are_two_kinds(monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    """A machine that comes later, of which only the label is known, is taken to have the card with less memory."""
    gpus = {"a": (A100_40,), "b": (A100_80,)}
    cluster(monkeypatch, **{name: gpus[name] for name in names})
    assert kinds_of(machines()) == {"a": SMALL, "b": LARGE, "A100": SMALL}
    assert {kind: machine.node for kind, machine in one_of_each(machines()).items()} == {SMALL: "a", LARGE: "b"}
    assert mixed_lines(machines()) == []


def test_a_machine_with_several_models_counts_as_the_card_with_the_least_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster(monkeypatch, a=(A100_80, A100_40))
    (machine,) = machines()
    assert kinds_of([machine]) == {"a": SMALL, "A100": SMALL}
    assert machine.needs({"cpu": 1.0, "gpu": 0.25}) == {"cpu": 1.0, "gpu": 4.0}
    (line,) = mixed_lines([machine])
    assert line.endswith(f"has {SMALL}, {LARGE}: trials are fitted to {SMALL} on all of its cards.")


def test_a_kind_is_measured_on_a_machine_without_others_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, a=(T4,), b=(T4, A100_80), c=(A100_40,))
    found = one_of_each(machines())
    assert sorted(machine.node for machine in found.values()) == ["a", "c"]
    assert found[SMALL].needs({"cpu": 1.0, "gpu": 0.25}) == {"cpu": 1.0, "gpu": 0.25}


def test_cards_of_one_kind_whose_memory_differs_by_a_little_are_one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, a=(A100_40, Gpu(A100_40.name, (8, 0), 39.6)))
    assert not machines()[0].is_mixed


def test_cards_that_torch_does_not_see_leave_the_refusal_of_large_batches_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only what torch sees is a kind, by the name that the probe, too, knows it by: MIG's parts have their own."""
    part = Gpu("NVIDIA A100-SXM4-40GB MIG 1g.5gb", (8, 0), 4.75)
    cluster(monkeypatch, a=(part,), hidden=())
    kinds = list(one_of_each(machines()))
    known, wanted = Footprints(Results(tmp_path)), Wanted(trial=tiny.BASE, name="t", inputs=None, digest="a" * 64)
    of, batch = shape(to_json(tiny.BASE), "pretrain"), tiny.BASE.pretrain.batch_size
    readings = [Reading(shape=of, batch_size=batch, checkpointing=mode, gib=None) for mode in (False, True)]
    known.add(Card(name=part.name, total_gib=part.total_gib), readings)
    assert len(Fitter(known).refusals([wanted], kinds)) == 1
