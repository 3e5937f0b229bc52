"""Fixtures shared by all tests."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cass_tune import lines, patience
from cass_tune import object_store as store
from cass_tune.objects import ObjectPath
from cass_tune.storage import AnyPath, place
from tests.objects import OTHER_SETTINGS, ObjectStore, free_port

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
    store._connection.cache_clear()
    yield _object_server
    _object_server.resume()
    store._connection.cache_clear()


@pytest.fixture
def bucket(object_store: ObjectStore) -> ObjectPath:
    """An empty bucket."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    object_store.make_bucket(name)
    path = place(f"s3://{name}")
    assert isinstance(path, ObjectPath)
    return path


@pytest.fixture(params=["local", "object store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    """A results root of either kind, not made yet."""
    return (tmp_path if request.param == "local" else request.getfixturevalue("bucket")) / "results"


@pytest.fixture
def quick(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every request once, do not wait long for an answer, and try again soon."""
    monkeypatch.setattr(store, "_REQUESTS", 1)
    monkeypatch.setattr(store, "_ANSWER_S", 1.0)
    monkeypatch.setattr(patience, "_FIRST_DELAY_S", 0.01)


@pytest.fixture
def impatient(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after one try."""
    for module in (patience, lines):
        monkeypatch.setattr(module, "PATIENCE_S", 0.0)


@pytest.fixture
def away(impatient: None, monkeypatch: pytest.MonkeyPatch) -> ObjectPath:
    """A bucket whose store cannot be reached."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    return ObjectPath((f"away-{uuid.uuid4().hex[:12]}",))


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what has been logged so far of an object store, and of the lines that are kept there."""
    caplog.set_level(logging.INFO, store.logger.name)
    loggers = (store.logger.name, lines.logger.name)
    return lambda: [record.getMessage() for record in caplog.records if record.name in loggers]


@pytest.fixture(scope="module")
def one_gpu() -> Iterator[None]:
    """A Ray session with two CPUs and one GPU that is only counted, which two trials may share."""
    with _ray_with(num_cpus=2, num_gpus=1):
        yield


@pytest.fixture(scope="module")
def one_cpu() -> Iterator[None]:
    """A Ray session in which trials run one after the other in one process, because each takes seconds to start."""
    with _ray_with(num_cpus=1):
        yield


@contextmanager
def _ray_with(**resources: Any) -> Iterator[None]:
    import ray

    from cass_tune.runner.session import quiet

    quiet()
    ray.init("local", **resources, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    yield
    ray.shutdown()
