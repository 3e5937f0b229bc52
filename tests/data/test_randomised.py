"""Other libraries' transforms draw what a generator says, and leave the process's own generators as they were."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from cass_tune.data.randomised import seeded
from cass_tune.methods import method_class
from tests import tiny
from tests.methods.variants import VARIANTS

IMAGE = np.random.default_rng(0).integers(0, 256, (tiny.SIZE_PX, tiny.SIZE_PX, 3), dtype=np.uint8)


def global_states() -> list[bytes]:
    """Return what torch, numpy and random would draw next, without drawing it."""
    return [
        torch.get_rng_state().numpy().tobytes(),
        np.random.get_state()[1].tobytes(),  # type: ignore[union-attr,index]
        repr(random.getstate()).encode(),
    ]


def drawn() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_draws_follow_from_the_generator_alone() -> None:
    found = []
    for seed, outside in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(outside)
        np.random.seed(outside)
        random.seed(outside)
        with seeded(np.random.default_rng(seed)):
            found.append(drawn())
    assert found[0] == found[1]
    assert all(one != other for one, other in zip(found[0], found[2], strict=True))


def test_it_takes_one_draw_so_that_blocks_differ() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(2):
        with seeded(rng):
            found.append(drawn())
    assert found[0] != found[1]


def test_the_global_generators_stay_as_they_were_also_after_an_error() -> None:
    before = global_states()
    with pytest.raises(ZeroDivisionError), seeded(np.random.default_rng(1)):
        drawn()
        raise ZeroDivisionError
    assert global_states() == before


@pytest.mark.parametrize("name", ["cass", "supervised", "dino"])
def test_views_of_every_method(name: str) -> None:
    """Equal generators give equal views whatever the process has drawn before, which goes on as if nothing had been."""
    described = tiny.trial(VARIANTS[name])
    make = method_class(described.pretrain.method).views(described)
    found = []
    for seed, outside in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(outside)
        np.random.seed(outside)
        random.seed(outside)
        before = global_states()
        found.append([np.asarray(view).tobytes() for view in make(IMAGE, np.random.default_rng(seed))])
        assert global_states() == before
    assert found[0] == found[1] != found[2]
