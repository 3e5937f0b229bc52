"""The short form of the fault campaign: every kind once, each study compared with an undisturbed one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.campaign import Campaign, scenes_here
from tests.faults.subject import ROWS

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STUDIES = {
    "local": ["SIGKILL in a write", "bit-flipped checkpoint", "notice by --preemption-command"],
    "local, several drivers": ["the same, one killed"],
    "ray": [
        "SIGKILL of a worker",
        "SIGTERM to a worker",
        "SIGTERM to the driver, Ray and all",
        "truncated checkpoint",
        "SIGINT to the driver",
    ],
    "cluster": ["drain of a node", "SIGKILL of a node's raylet"],
    "disk": ["no space for 5 s"],
    "objects": ["storage away for 20 s", "SIGKILL of the driver"],
}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with Campaign(tmp_path_factory.mktemp("faults"), seed=1) as campaign:
        yield campaign


@pytest.mark.parametrize("study", STUDIES)
def test_a_disturbed_study_ends_as_an_undisturbed_one(campaign: Campaign, study: str) -> None:
    scene = study.partition(",")[0]
    if scene not in scenes_here():
        pytest.skip("this user may not mount a disk")
    outcome = campaign.disturb(scene, STUDIES[study])
    assert outcome.is_fine, f"{outcome}\n{outcome.text}"
    assert sum(outcome.repeated) < ROWS * len(outcome.faults) / 2 + 1
    print(f"\n{campaign.table()}")


def test_so_many_faults_were_injected(campaign: Campaign) -> None:
    assert campaign.injected >= 12, campaign.table()


def test_the_results_root_is_as_small_as_that_of_an_undisturbed_study(campaign: Campaign) -> None:
    """No checkpoint, no half-written file and no record of a holder is left."""
    (undisturbed,) = campaign.folder.glob("*-undisturbed/results")
    for disturbed in campaign.folder.glob("*-local/results"):
        assert _kinds(disturbed) == _kinds(undisturbed)


def _kinds(root: Path) -> set[str]:
    paths = [path.relative_to(root) for part in ("trials", "stages") for path in (root / part).rglob("*")]
    left = {str(path) for path in paths if path.suffix not in (".jsonl",) and "attempts" not in path.parts}
    return {path for path in left if not path.endswith((".holder.lock", "log.txt"))}
