"""The closed form is torch's scheduler stepped every batch (D12 is the method's own and stays)."""

from __future__ import annotations

import pytest
import torch

from cass_tune.training.schedules import cosine


@pytest.mark.parametrize(("highest", "lowest", "t_max"), [(1e-3, 1e-6, 16), (3e-4, 1e-6, 16), (0.1, 0.01, 7)])
def test_equals_torch_stepped_every_batch(highest: float, lowest: float, t_max: int) -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=highest)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=t_max, eta_min=lowest)
    for step in range(100):
        assert cosine(step, highest, lowest, t_max) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-9)
        optimiser.step()
        scheduler.step()


@pytest.mark.parametrize(("batches", "epoch", "logged"), [(297, 1, 1.2133e-4), (297, 2, 1.238e-5), (286, 1, 2.886e-4)])
def test_gives_the_learning_rates_of_the_published_logs(batches: int, epoch: int, logged: float) -> None:
    """The released notebook's log (297 batches an epoch) and a reproduction's (286)."""
    assert cosine(epoch * batches, 3e-4, 1e-6, 16) == pytest.approx(logged, rel=1e-3)
