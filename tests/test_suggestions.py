"""Which trials a search suggests: the same ones whatever the timing and however often it is killed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cass_tune.config import Trial, with_field
from cass_tune.console import Console
from cass_tune.errors import UsageError
from cass_tune.options import parse
from cass_tune.results import Results
from cass_tune.search.sampling import random_draws
from cass_tune.search.settings import SearchSettings
from cass_tune.search.space import apply
from studies.hyperparameter_search import STUDY
from tests import small
from tests.simulated import BEST, EPOCHS, GAMMAS, RATES, Driver, score

if TYPE_CHECKING:
    import optuna

ALL = {"trials": 20, "startup_trials": 8, "parallel": 3}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    driver = Driver(tmp_path_factory.mktemp("undisturbed"), options=ALL)
    driver.run()
    return driver


@pytest.mark.parametrize("seed", range(2))
def test_neither_timing_nor_kills_change_a_search(undisturbed: Driver, tmp_path: Path, seed: int) -> None:
    driver = Driver(tmp_path, chance=random.Random(seed), kill=4, options=ALL)
    assert driver.run() == undisturbed.history()
    assert driver.epochs == undisturbed.epochs, "what had ended is never computed again"
    assert driver.tested == undisturbed.tested and len(driver.tested) == 1
    assert driver.most_at_once <= ALL["parallel"]


def test_the_better_half_is_found_with_at_most_half_the_epochs_of_the_grid(undisturbed: Driver) -> None:
    scores = sorted(_score(rate, gamma) for rate in RATES for gamma in GAMMAS)
    median = scores[len(scores) // 2]
    learned = [record for record in undisturbed.history() if record["number"] >= ALL["startup_trials"]]
    better = [record for record in learned if _score(**record["params"]) >= median]
    assert undisturbed.epochs <= len(scores) * 2 * EPOCHS / 2
    assert len(better) > len(learned) / 2
    winner = undisturbed.suggestions().winner()
    assert winner is not None and _score(**winner["params"]) >= scores[-8]


def _score(rate: float, gamma: float) -> float:
    from cass_tune.config import Finetune

    return score(Trial(finetune=Finetune(learning_rate=rate, focal_gamma=gamma)))


def test_states_and_prunings_are_recorded(undisturbed: Driver) -> None:
    history = undisturbed.history()
    states = Counter(record["became"]["state"] for record in history)
    assert set(states) == {"complete", "pruned"} and states["pruned"] > 3
    for record in history:
        complete = record["became"]["state"] == "complete"
        (value,), curve = record["became"]["values"], record["became"]["curve"]
        assert value == pytest.approx(curve[str(max(map(int, curve)))])
        assert (max(map(int, curve)) == 2 * EPOCHS) is complete


def test_more_trials_go_on_with_the_same_search(undisturbed: Driver, tmp_path: Path) -> None:
    shorter = Driver(tmp_path, options={**ALL, "trials": 10})
    first = shorter.run()
    longer = Driver(tmp_path, options=ALL)
    assert longer.run()[:10] == first and longer.history() == undisturbed.history()


def test_no_trial_is_computed_twice(undisturbed: Driver) -> None:
    history = undisturbed.history()
    trained = {record["trial"]["digest"]: record["became"]["curve"] for record in history}
    assert len(trained) < len(history), "this space is so small that suggestions return"
    assert undisturbed.epochs == sum(map(len, trained.values()))


def test_another_seed_is_another_search(undisturbed: Driver, tmp_path: Path) -> None:
    other = Driver(tmp_path, options={**ALL, "search_seed": 1})
    assert [r["params"] for r in other.run()] != [r["params"] for r in undisturbed.history()]


def test_two_objectives(tmp_path: Path) -> None:
    driver = Driver(tmp_path, options={**ALL, "objectives": ("macro_f1", "gpu_hours")})
    history = driver.run()
    assert {record["became"]["state"] for record in history} == {"complete"}, "nothing is pruned"
    for record in history:
        f1, hours = record["became"]["values"]
        assert f1 > 0 and hours == pytest.approx(0.5 * record["params"]["rate"] / BEST[0] + 0.5)
    assert driver.folder.journal.exists()


@pytest.mark.parametrize("objectives", [("macro_f1",), ("macro_f1", "gpu_hours")])
@pytest.mark.parametrize("kind", ["Collapsed", "DivergedError", "OSError"])
def test_what_failed_does_not_stop_the_search(tmp_path: Path, kind: str, objectives: tuple[str, ...]) -> None:
    def broken(trial: optuna.Trial) -> Mapping[str, Any]:
        return {"finetune.learning_rate": trial.suggest_categorical("rate", RATES)}

    class Failing(Driver):
        def _train(self, item: Any) -> None:
            if item.trial.finetune.learning_rate >= RATES[4]:
                Results(self.root).trial(item.digest).fail(kind, "too high\nmore", "")
            else:
                super()._train(item)

    driver = Failing(tmp_path, space=broken, options={**ALL, "trials": 16, "objectives": objectives})
    states = Counter(record["became"]["state"] for record in driver.run() if record["params"]["rate"] >= RATES[4])
    assert set(states) == ({"failed"} if kind == "OSError" else {"pruned"})
    assert {r["became"]["why"] for r in driver.history() if r["params"]["rate"] >= RATES[4]} == {f"{kind}: too high"}


def test_the_journal_is_optunas_and_grows_at_its_end(tmp_path: Path) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    driver = Driver(tmp_path, options={**ALL, "trials": 10})
    history = driver.run()
    before = driver.folder.journal.read_bytes()
    storage = JournalStorage(JournalFileBackend(str(driver.folder.journal)))
    study = optuna.load_study(study_name="simulated", storage=storage)
    assert [trial.params for trial in study.trials] == [record["params"] for record in history]
    assert [trial.state.name.lower() for trial in study.trials] == [r["became"]["state"] for r in history]
    winner = driver.suggestions().winner()
    assert winner is not None and study.best_trial.number == winner["number"]
    Driver(tmp_path, options=ALL).run()
    assert driver.folder.journal.read_bytes().startswith(before)


def test_draws_for_the_plan_are_those_of_the_space(tmp_path: Path) -> None:
    design = Driver(tmp_path, options=ALL).design
    draws = random_draws(design, 20)
    assert {draw.trial.finetune.learning_rate for draw in draws} <= set(RATES)
    assert [draw.fields for draw in draws] == [draw.fields for draw in random_draws(design, 20)]


def _empty(trial: optuna.Trial) -> Mapping[str, Any]:
    return {}


def _constant(trial: optuna.Trial) -> Mapping[str, Any]:
    return {"finetune.learning_rate": 1e-3}


def _nothing(trial: optuna.Trial) -> Any:
    trial.suggest_float("rate", 0.1, 0.2)


def _unknown(trial: optuna.Trial) -> Mapping[str, Any]:
    return {"finetune.learning_rat": trial.suggest_float("rate", 0.1, 0.2)}


def _reversed(trial: optuna.Trial) -> Mapping[str, Any]:
    return {"finetune.learning_rate": trial.suggest_float("rate", 0.2, 0.1)}


def _contradictory(trial: optuna.Trial) -> Mapping[str, Any]:
    return {"finetune.weight_decay": trial.suggest_float("decay", 0.1, 0.2)}


def _of_another_type(trial: optuna.Trial) -> Mapping[str, Any]:
    return {"finetune.epochs": trial.suggest_float("epochs", 1.5, 2.5)}


@pytest.mark.parametrize(
    ("space", "texts"),
    [
        (_empty, ["space of the search is empty: it returns {}", "trial.suggest_float"]),
        (_constant, ["space of the search is empty: it asks for no parameter"]),
        (_nothing, ["space of the search is empty: it returns None"]),
        (_unknown, ["'finetune.learning_rat': no such field. Did you mean 'finetune.learning_rate'"]),
        (_reversed, ["space of the search fails: ValueError", "test_suggestions.py, line", "0.2"]),
        (_contradictory, ["--finetune.weight-decay must be 0 with --finetune.optimiser adam", "decay=0.1"]),
        (_of_another_type, ["--finetune.epochs must be a whole number", "epochs=", "Change the space"]),
    ],
)
def test_a_space_that_makes_no_trials(tmp_path: Path, space: Any, texts: list[str]) -> None:
    driver = Driver(tmp_path, space=space, options=ALL)
    for ask in (driver.run, lambda: random_draws(driver.design, 1)):
        with pytest.raises(UsageError) as caught:
            ask()
        assert all(text in str(caught.value) for text in texts), str(caught.value)
    assert not (tmp_path / "search").exists()


def test_a_method_brings_its_own_values_unless_the_space_or_the_user_sets_them() -> None:
    rate = {"pretrain.learning_rate": 0.01}
    trial = apply(Trial(), {"pretrain.method": "dino", **rate}, {})
    assert trial.pretrain.schedule == "cosine_to_end" and trial.pretrain.learning_rate == 0.01
    base = with_field(Trial(), "pretrain.clip_norm", 1.0)
    trial = apply(base, {"pretrain.method": "dino"}, {}, ["pretrain.clip_norm"])
    assert (trial.pretrain.clip_norm, trial.pretrain.weight_decay_end) == (1.0, 0.4)


def test_the_base_of_a_search_has_every_section_that_was_given(tmp_path: Path) -> None:
    line = ["--pretrain.method", "dino", "--dino.outputs", "64", "--seeds", "3"]
    given = parse(line, prog="x", description="x", axes={}, folder=tmp_path, kind=SearchSettings)
    trial = STUDY.command(given, Console(), small.report)._base_trial()
    assert (trial.dino.outputs, trial.seed, trial.pretrain.optimiser) == (64, 3, "adamw")
