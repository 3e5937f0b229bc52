"""Places as Ray sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import ray

from cass_tune.placement import CPU, Group, Place
from cass_tune.runner import ray_session
from cass_tune.runner.places import PlaceManager, PlaceRequest, nodes

pytestmark = pytest.mark.ray
OWN = "CASS_TUNE_TEST_OF_A_TRIALS_OWN_ENVIRONMENT"


@pytest.fixture(scope="module")
def is_own() -> Iterator[bool]:
    with ray_session(None) as is_own:
        yield is_own


class Trial:
    def own(self) -> str | None:
        return os.environ.get(OWN)


def test_a_session_of_the_callers_is_not_our_own(is_own: bool) -> None:
    with ray_session(None) as is_own_again:
        assert (is_own, is_own_again) == (True, False)


@pytest.mark.parametrize("are_plain", [True, False])
def test_a_trial_starts_in_a_process_with_rays_environment_where_that_is_enough(is_own: bool, are_plain: bool) -> None:
    manager = PlaceManager(are_plain=are_plain)
    (node,) = nodes()
    group = Group(node=node.name, kind=CPU, number=0, gpus=0.0, cpus=1.0)
    request = PlaceRequest(Place(group=group, gpus=0.0, cpus=1.0))
    manager.request_resources(request)
    ray.wait(manager.get_resource_futures(), timeout=60)
    acquired = manager.acquire_resources(request)
    assert acquired is not None
    [entity] = acquired.annotate_remote_entities([ray.remote(runtime_env={"env_vars": {OWN: "1"}})(Trial)])
    try:
        assert ray.get(entity.remote().own.remote(), timeout=120) == (None if are_plain else "1")
    finally:
        manager.clear()
