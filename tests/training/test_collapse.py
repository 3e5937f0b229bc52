"""The measures of collapse on outputs whose state is known."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from cass_tune.training import collapse
from cass_tune.training.collapse import HealthMonitor, effective_rank, feature_std

RNG = torch.Generator().manual_seed(0)
SPREAD = torch.randn(512, 64, generator=RNG)


def measure(cnn: torch.Tensor, vit: torch.Tensor) -> collapse.Health:
    monitor = HealthMonitor()
    monitor.add({"cnn": cnn, "vit": vit})
    return monitor.measure()


def test_spread_outputs_are_healthy() -> None:
    assert feature_std(SPREAD) == pytest.approx(1, abs=0.05)
    assert feature_std(1000 * SPREAD) == pytest.approx(feature_std(SPREAD), rel=1e-4)
    assert 55 < effective_rank(SPREAD) <= 64


def test_constant_outputs_are_collapsed() -> None:
    constant = torch.ones(32, 8) * torch.arange(8)
    assert feature_std(constant) == pytest.approx(0, abs=1e-6)
    assert effective_rank(constant) == 1.0
    health = measure(constant, constant + 1)
    assert health.collapsed
    assert health.agreement == pytest.approx(health.mismatched_agreement, abs=1e-6)


def test_one_collapsed_arm_is_enough() -> None:
    healthy = SPREAD[:32]
    assert not measure(healthy, healthy).collapsed
    assert measure(healthy, torch.ones(32, 64) + 0.01 * healthy).collapsed


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_rank_is_that_of_the_centred_outputs(rank: int) -> None:
    directions = torch.linalg.qr(torch.randn(512, rank, generator=RNG)).Q
    directions = torch.linalg.qr(directions - directions.mean(dim=0)).Q
    outputs = directions @ torch.linalg.qr(torch.randn(64, rank, generator=RNG)).Q.T
    assert effective_rank(outputs) == pytest.approx(rank, rel=1e-3)
    assert effective_rank(outputs + 5) == pytest.approx(rank, rel=1e-2)


def test_agreement_of_matched_and_mismatched_images() -> None:
    health = measure(SPREAD[:100], 2 * SPREAD[:100])
    cosines = F.normalize(SPREAD[:100], dim=1) @ F.normalize(SPREAD[:100], dim=1).T
    off = [float(cosines[i, j]) for i in range(100) for j in range(100) if i != j]
    assert health.agreement == pytest.approx(1, abs=1e-5)
    assert health.mismatched_agreement == pytest.approx(math.fsum(off) / len(off), abs=1e-5)
    assert measure(SPREAD[:50], -SPREAD[:50]).agreement == pytest.approx(-1, abs=1e-5)


def test_monitor_keeps_the_last_images_and_forgets_them_after_measuring() -> None:
    monitor = HealthMonitor()
    monitor.add({"cnn": torch.ones(400, 64), "vit": torch.ones(400, 64)})
    for start in range(0, 512, 128):
        monitor.add({"cnn": SPREAD[start : start + 128], "vit": SPREAD[start : start + 128]})
    health = monitor.measure()
    assert health.feature_std == {"cnn": feature_std(SPREAD), "vit": feature_std(SPREAD)}
    monitor.add({"cnn": SPREAD[:16], "vit": SPREAD[16:32]})
    assert monitor.measure().feature_std == {"cnn": feature_std(SPREAD[:16]), "vit": feature_std(SPREAD[16:32])}


def test_monitor_keeps_at_most_512_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(collapse, "feature_std", lambda outputs: seen.append(len(outputs)) or 1.0)
    monitor = HealthMonitor()
    for _ in range(40):
        monitor.add({"cnn": SPREAD[:100], "vit": SPREAD[:100]})
    monitor.measure()
    assert seen == [500, 500]


def test_outputs_are_kept_without_their_graph() -> None:
    outputs = torch.randn(4, 8, requires_grad=True) * 2
    monitor = HealthMonitor()
    monitor.add({"cnn": outputs, "vit": outputs})
    assert not any(t.requires_grad for batch in monitor._outputs for t in batch.values())


def test_row_has_the_columns_of_both_arms() -> None:
    row = measure(SPREAD[:8], SPREAD[8:16]).row()
    names = {"feature_std", "effective_rank"}
    assert row.keys() == {f"{arm}_{n}" for arm in ("cnn", "vit") for n in names} | {"agreement", "mismatched_agreement"}
