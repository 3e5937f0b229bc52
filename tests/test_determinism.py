"""Settings of torch for a trial."""

from __future__ import annotations

import torch

from cass_tune.training.determinism import seed_torch


def test_seeding_for_a_device_draws_what_torchs_own_seeding_draws() -> None:
    torch.manual_seed(2**59 + 7)
    expected = torch.rand(5)
    torch.rand(3)
    seed_torch(2**59 + 7, torch.device("cpu"))
    assert torch.equal(torch.rand(5), expected)
    seed_torch(2**59 + 8, torch.device("cpu"))
    assert not torch.equal(torch.rand(5), expected)
