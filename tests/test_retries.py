"""What becomes of a trial whose process ended: a lost machine is no failure, dying without progress is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cass_tune.checkpoints import Checkpoints
from cass_tune.identity import Segment
from cass_tune.plan import Wanted
from cass_tune.results import Results, TrialFolder
from cass_tune.runner.retries import MOST_DEATHS, Retries
from cass_tune.runner.trainable import FAILED, HELD, LEFT, RETRIED
from cass_tune.training.state import State
from tests import tiny

DIGEST, STAGE = "a" * 64, "b" * 64
SEGMENTS = (Segment(stage=STAGE, start=0, end=2),)
WANTED = Wanted(trial=tiny.BASE, name="seed=0", inputs=None, digest=DIGEST, segments=SEGMENTS)


class Tune:
    """Ray Tune's part: it tries a trial again while its number of failures is not above `max_failures`."""

    def __init__(self, retries: Retries) -> None:
        self.retries = retries
        self.trial: Any = SimpleNamespace(max_failures=-1, run_metadata=SimpleNamespace(num_failures=0))

    def report(self, phase: str) -> None:
        self.retries.reported(self.trial, WANTED, phase)

    def dies(self) -> bool:
        """Return whether the trial is tried again."""
        self.trial.run_metadata.num_failures += 1
        most = self.trial.max_failures
        if most == -1 or self.trial.run_metadata.num_failures <= most:
            self.retries.recovered(self.trial, WANTED)
            return True
        self.retries.gave_up(WANTED, "the actor died")
        return False


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path)


@pytest.fixture
def tune(results: Results) -> Tune:
    return Tune(Retries(results, max_failures=2))


@pytest.fixture
def folder(results: Results) -> TrialFolder:
    return results.trial(DIGEST)


def save(folder: Any) -> None:
    Checkpoints(folder.checkpoints).write(State())


def test_three_deaths_without_a_checkpoint_fail_the_trial(tune: Tune, folder: TrialFolder) -> None:
    assert [tune.dies() for _ in range(MOST_DEATHS)] == [True, True, False]
    failure = folder.failure()
    assert failure is not None and failure["type"] == "DiesWithoutProgress"
    assert failure["message"].startswith("dies without progress: its process died 3 times without a new checkpoint")


@pytest.mark.parametrize("where", ["trial", "stage"])
def test_a_checkpoint_between_two_deaths_counts_as_progress(
    tune: Tune, results: Results, folder: TrialFolder, where: str
) -> None:
    place = folder if where == "trial" else results.stage(STAGE)
    for _ in range(10):
        assert tune.dies()
        save(place)
        if tune.retries.is_on_last_chance(WANTED):
            tune.retries.look_for_progress(tune.trial, WANTED)
    assert folder.failure() is None


def test_progress_on_the_last_chance_gives_new_ones(tune: Tune, folder: TrialFolder) -> None:
    assert tune.dies() and tune.dies() and tune.retries.is_on_last_chance(WANTED)
    save(folder)
    tune.retries.look_for_progress(tune.trial, WANTED)
    assert [tune.dies() for _ in range(MOST_DEATHS)] == [True, True, False]


@pytest.mark.parametrize("phase", [HELD, LEFT])
def test_leaving_is_no_death(tune: Tune, folder: TrialFolder, phase: str) -> None:
    for _ in range(10):
        tune.report(phase)
        assert tune.dies()
    assert folder.failure() is None


def test_an_error_is_tried_again_so_often(tune: Tune, folder: TrialFolder) -> None:
    outcomes = []
    for _ in range(3):
        tune.report(RETRIED)
        outcomes.append(tune.dies())
    assert outcomes == [True, True, False]
    failure = folder.failure()
    assert failure is not None and failure["type"] == "NotRecorded"


def test_a_final_failure_is_not_tried_again_and_stays_as_the_trial_recorded_it(tune: Tune, folder: TrialFolder) -> None:
    tune.report("pretrain")
    folder.fail("DivergedError", "the loss is nan", "Traceback")
    tune.report(FAILED)
    assert not tune.dies()
    failure = folder.failure()
    assert failure is not None and failure["type"] == "DivergedError"


def test_epochs_between_errors_do_not_make_a_death_of_them(tune: Tune, folder: TrialFolder) -> None:
    tune.report(RETRIED)
    assert tune.dies()
    tune.report("pretrain")
    assert tune.dies() and tune.dies()
    assert not tune.dies(), "three deaths, the error aside"
    failure = folder.failure()
    assert failure is not None and failure["type"] == "DiesWithoutProgress"


def test_epochs_that_are_told_again_are_no_progress(tune: Tune, folder: TrialFolder) -> None:
    """Every attempt first reports the stored rows of its pretraining."""
    outcomes = []
    for _ in range(MOST_DEATHS):
        tune.report("pretrain")
        outcomes.append(tune.dies())
    assert outcomes == [True, True, False]
    failure = folder.failure()
    assert failure is not None and failure["type"] == "DiesWithoutProgress"


def test_leaving_on_the_last_chance_does_not_give_new_ones(tune: Tune, folder: TrialFolder) -> None:
    assert tune.dies() and tune.dies()
    tune.report(LEFT)
    assert tune.dies()
    tune.report("pretrain")
    assert not tune.dies()
