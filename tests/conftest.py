"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cass_tune import storage
from tests.objects import OTHER_SETTINGS, ObjectStore

TEST_DATA = "CASS_TUNE_TEST_DATA"


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's own cache out of the tests; one cache for the session, because pixels are costly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASS_TUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in an empty folder, where there is no cass_tune.toml and relative results do no harm."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real images; tests that use it carry the mark ``real_data``."""
    place = os.environ.get(TEST_DATA)
    if not place:
        pytest.skip(f"{TEST_DATA} is not set")
    return Path(place).absolute()


@pytest.fixture(scope="session")
def _object_server() -> Iterator[ObjectStore]:
    with ObjectStore() as server:
        yield server


@pytest.fixture
def object_store(_object_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """An object store on loopback, which the environment of this process names; a test may pause or kill it."""
    _object_server.start()
    for name in OTHER_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in _object_server.environment.items():
        monkeypatch.setenv(name, value)
    storage._connection.cache_clear()
    yield _object_server
    _object_server.resume()
    storage._connection.cache_clear()


@pytest.fixture(scope="module")
def one_gpu() -> Iterator[None]:
    """A Ray session with two CPUs and one GPU that is only counted, which two trials may share."""
    import ray

    from cass_tune.runner import ray_session

    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, _node_ip_address="127.0.0.1")
    with ray_session(None):
        yield
    ray.shutdown()
