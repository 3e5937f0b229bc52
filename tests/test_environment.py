"""What a trial ran on."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from cass_tune import environment
from cass_tune.environment import NUMERIC_PACKAGES, PACKAGES, commit, describe, device_name, processor, versions


def test_versions() -> None:
    found = versions(("numpy", "no-such-package"))
    assert set(found) == {"python", "numpy", "no-such-package"}
    assert found["no-such-package"] == "none" and found["numpy"][0].isdigit()
    assert set(versions()) == {"python", *PACKAGES}


def test_what_a_cluster_must_agree_in_is_recorded() -> None:
    assert set(NUMERIC_PACKAGES) <= set(PACKAGES)
    assert "none" not in versions(NUMERIC_PACKAGES).values(), "a misspelt package would agree everywhere"


def test_the_commit_is_one_or_unknown() -> None:
    found = commit()
    assert found is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", found)


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.CalledProcessError(128, "git")])
def test_outside_a_checkout_there_is_no_commit(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(environment.subprocess, "run", fail)
    assert commit.__wrapped__() is None


def test_the_device_names_processor_and_threads() -> None:
    assert processor()
    assert device_name("cpu", 1) == f"cpu ({processor()}, 1 thread)"
    assert device_name("cpu", 4).endswith(", 4 threads)")


def test_the_record_is_json_and_names_no_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hunter2")
    record = describe("cpu", 2, "abc")
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["devices"] == [device_name("cpu", 2)] and record["threads"] == 2
    assert record["versions"]["torch"] != "none" and record["commit"] == "abc"
    assert "hunter2" not in json.dumps(record), "no environment variable is recorded"
