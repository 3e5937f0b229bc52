"""Population based training: which trials continue which, and that nothing but the search's own outcomes decides."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from analysis import tables
from analysis.frames import records
from analysis.results import load
from analysis.search import search_table
from analysis.spending import spending_table
from analysis.tables import render
from cass_tune.config import ARMS, Change, Trial, from_json, to_json, with_field
from cass_tune.errors import UsageError
from cass_tune.finetune_ends import shorter_by
from cass_tune.pruning import Goal
from cass_tune.randomness import generator
from cass_tune.results import Record, Results
from cass_tune.search import Search, SearchSettings
from cass_tune.search.design import Design, Draw
from cass_tune.search.population import FACTORS, PATHS, check, continued, first, selected
from cass_tune.search.sampling import random_draws
from cass_tune.study import Study
from tests import simulated, toy_search

if TYPE_CHECKING:
    import optuna

REPOSITORY = Path(__file__).parents[1]
SIZE, EPOCHS = 8, 3
SETTINGS: dict[str, Any] = {"algorithm": "pbt", "parallel": SIZE, "trials": SIZE * 6, "interval_epochs": EPOCHS}
BASE = with_field(with_field(Trial(), "finetune.epochs", EPOCHS), "finetune.optimiser", "adamw")
BEST_RATE = 1e-3


def space(trial: optuna.Trial) -> Mapping[str, Any]:
    """Return two numbers that may change, and of each other kind of parameter one that may not."""
    decay = trial.suggest_float("decay", 0.01, 0.3)
    return {
        "finetune.learning_rate": trial.suggest_float("rate", 1e-6, 1e-2, log=True),
        "finetune.weight_decay": decay,
        "finetune.clip_norm": trial.suggest_float("clip", 0.5, 5.0, step=0.5),
        "finetune.batch_size": trial.suggest_int("batch", 8, 32),
        "finetune.focal_gamma": trial.suggest_float("gamma", 0.0, 3.0),
        "finetune.select_by": trial.suggest_categorical("select", ["macro_f1"]),
    }


def design(asks: Any = space, base: Trial = BASE, **options: Any) -> Design:
    return Design(name="population", space=asks, base=base, settings=SearchSettings(**{**SETTINGS, **options}))


# Selection


def outcomes(*values: float | None, start: int = 0) -> dict[int, Record]:
    """Return what became of a generation; None has failed."""
    states = {True: {"state": "failed", "values": None}, False: {"state": "complete"}}
    return {
        start + n: {**states[value is None], **({} if value is None else {"values": [value]})}
        for n, value in enumerate(values)
    }


def chosen(size: int, became: Mapping[int, Record], seed: int = 0) -> list[tuple[int | None, bool]]:
    start = max(became) + 1
    return [selected(n, size, became, generator(seed, "test", n)) for n in range(start, start + size)]


def test_the_worst_quarter_goes_on_from_the_best_quarter() -> None:
    became = outcomes(0.8, 0.1, 0.5, 0.9, 0.4, 0.3, 0.2, 0.6, start=SIZE)
    found = chosen(SIZE, became)
    assert [slot for slot, (_, explores) in enumerate(found) if explores] == [1, 6]
    assert all(number == SIZE + slot for slot, (number, explores) in enumerate(found) if not explores)
    parents = {number for seed in range(20) for number, explores in chosen(SIZE, became, seed) if explores}
    assert parents == {SIZE + 0, SIZE + 3}, "chance chooses among the best"


@pytest.mark.parametrize(("size", "replaced"), [(2, 1), (3, 1), (4, 1), (7, 1), (8, 2), (12, 3)])
def test_how_many_are_replaced(size: int, replaced: int) -> None:
    found = chosen(size, outcomes(*(number / size for number in range(size))))
    assert [slot for slot, (_, explores) in enumerate(found) if explores] == list(range(replaced))
    assert {number for number, explores in found if explores} <= set(range(size - replaced, size))


def test_what_has_no_value_is_among_the_worst() -> None:
    found = chosen(4, outcomes(None, 0.5, None, 0.1))
    assert [explores for _, explores in found] == [True, False, True, False]
    assert [number for number, _ in found] == [1, 1, 1, 3]
    assert chosen(2, outcomes(None, 0.1)) == [(1, True), (1, False)]
    assert chosen(4, outcomes(None, None, None, None)) == [(None, False)] * 4


def test_of_equal_values_the_later_is_worse() -> None:
    assert [explores for _, explores in chosen(4, outcomes(0.5, 0.5, 0.5, 0.5))] == [False, False, False, True]


# Exploration


def record_of(draw: Draw, number: int) -> Record:
    trial = {"config": json.loads(json.dumps(to_json(draw.trial))), "digest": str(number)}
    fields = {"fields": dict(draw.fields), "population": draw.lineage}
    return {"number": number, **draw.asked, **fields, "trial": trial}


def generation(seed: int = 0, members: int = SIZE) -> tuple[Design, list[Record], dict[int, Record], list[Draw]]:
    """Return a search, its first generation, what became of it, and some members of the second, the worst first."""
    of = design(search_seed=seed)
    before = [record_of(draw, n) for n, draw in enumerate(random_draws(of, SIZE))]
    became = outcomes(*(n / SIZE for n in range(SIZE)))
    after = [continued(of, n, before, became) for n in range(SIZE, SIZE + members)]
    assert None not in after
    return of, before, became, [draw for draw in after if draw]


def test_only_numbers_of_the_finetuning_change_and_only_in_those_that_explore() -> None:
    changed: set[str] = set()
    for seed in range(10):
        _, before, _, after = generation(seed)
        for slot, draw in enumerate(after):
            assert draw.lineage and draw.trial.finetune.epochs == 2 * EPOCHS
            parent = before[draw.lineage["parent"]]
            differing = {name for name, value in draw.asked["params"].items() if parent["params"][name] != value}
            assert sorted(differing) == draw.lineage["changed"]
            changed |= differing
            shorter = shorter_by(draw.trial, EPOCHS)
            assert shorter and to_json(shorter) == from_recorded(parent)
            assert bool(differing) == bool(draw.trial.finetune.changes) and (slot < 2) >= bool(differing)
            in_force = draw.trial.finetune.in_force(EPOCHS)
            assert {path: getattr(in_force, path.partition(".")[2]) for path in PATHS if path in draw.fields} == {
                path: value for path, value in draw.fields.items() if path in PATHS
            }
            assert in_force.batch_size == parent["params"]["batch"]
    assert changed == {"rate", "decay", "clip"}


def from_recorded(record: Record) -> Record:
    return to_json(from_json(json.dumps(record["trial"]["config"])))


def test_a_number_is_multiplied_or_drawn_anew_within_its_bounds() -> None:
    factors: list[float] = []
    for seed in range(60):
        _, before, _, after = generation(seed, members=2)
        for draw in after:
            assert draw.lineage
            params, old = draw.asked["params"], before[draw.lineage["parent"]]["params"]
            assert 1e-6 <= params["rate"] <= 1e-2 and 0.01 <= params["decay"] <= 0.3 and 0.5 <= params["clip"] <= 5
            assert params["clip"] % 0.5 == 0
            factors.append(params["rate"] / old["rate"])
    by_factor = [sum(factor == pytest.approx(each) for factor in factors) / len(factors) for each in FACTORS]
    assert all(0.25 < share < 0.5 for share in by_factor), "three quarters, half of them each"
    assert 0.12 < 1 - sum(by_factor) < 0.4


def test_a_suggestion_is_a_function_of_seed_and_outcomes() -> None:
    def numbers(seed: int, became: Mapping[int, Record] | None = None) -> list[Any]:
        of, before, own, _ = generation(seed)
        found = [continued(of, n, before, became or own) for n in range(SIZE, 2 * SIZE)]
        return [(draw.asked["params"], draw.lineage) for draw in found if draw]

    assert numbers(0) == numbers(0) != numbers(1)
    assert numbers(0) != numbers(0, outcomes(*(-n / SIZE for n in range(SIZE))))


def test_where_nothing_is_complete_the_generation_is_drawn_anew() -> None:
    of, before, _, _ = generation()
    assert continued(of, SIZE, before, outcomes(*[None] * SIZE)) is None
    drawn = first(random_draws(of, 1)[0], SIZE, of)
    assert drawn.trial.finetune.epochs == 2 * EPOCHS
    assert drawn.lineage == {"generation": 1, "parent": None, "changed": []}


# A space that does not fit


def _fixed(trial: optuna.Trial) -> Mapping[str, Any]:
    return {"finetune.batch_size": trial.suggest_int("batch", 8, 32)}


def _categorical(trial: optuna.Trial) -> Mapping[str, Any]:
    return {"finetune.learning_rate": trial.suggest_categorical("rate", [1e-4, 1e-3])}


def _joined(trial: optuna.Trial) -> Mapping[str, Any]:
    rate = trial.suggest_float("rate", 1e-4, 1e-3)
    return {"finetune.learning_rate": rate, "pretrain.learning_rate": rate}


def _long(trial: optuna.Trial) -> Mapping[str, Any]:
    return {**space(trial), "finetune.epochs": trial.suggest_int("epochs", 2, 4)}


def _patient(trial: optuna.Trial) -> Mapping[str, Any]:
    return {**space(trial), "finetune.patience": 3}


def _to_end(trial: optuna.Trial) -> Mapping[str, Any]:
    return {**space(trial), "finetune.schedule": "cosine_to_end"}


@pytest.mark.parametrize(
    ("asks", "texts"),
    [
        (_fixed, ["of this space none can", "finetune.learning_rate", "finetune.clip_norm", "--algorithm tpe"]),
        (_categorical, ["of this space none can", "suggest_float"]),
        (_joined, ["of this space none can", "and nothing else"]),
        (_long, ["--finetune.epochs is set by --algorithm pbt", "(3)", "also of the space"]),
        (_patient, ["--finetune.patience 0", "has cosine and 3"]),
        (_to_end, ["--finetune.schedule cosine, which does not depend", "has cosine_to_end and 0"]),
    ],
)
def test_a_space_that_makes_no_population(asks: Any, texts: list[str]) -> None:
    of = design(asks)
    with pytest.raises(UsageError) as caught:
        check(of, random_draws(of, SIZE))
    assert all(text in str(caught.value) for text in texts), str(caught.value)
    check(design(), random_draws(design(), SIZE))


OPTIONS = ["--algorithm", "pbt", "--parallel", "2", "--trials", "6", "--interval-epochs", "1"]


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("--trials 7", ["--trials must be a multiple of --parallel 2", "got 7", "Give 8"]),
        ("--parallel 1", ["--parallel, the size of the population", "at least 2, but got 1"]),
        ("--interval-epochs 0", ["--interval-epochs must be at least 1, but got 0"]),
        ("--objectives macro_f1 gpu_hours", ["--algorithm pbt ranks by one number, but --objectives is macro_f1 gpu"]),
        ("--pruner asha", ["--pruner asha stops trials, and --algorithm pbt lets its worst go on from the best"]),
        ("--finetune.epochs 4", ["--finetune.epochs is set by --algorithm pbt", "--interval-epochs (1)"]),
        ("--finetune.patience 4", ["--finetune.patience 0, but", "has cosine and 4"]),
        ("--recipe corrected --interval-epochs 2 --pretrain.epochs 4", ["has cosine_to_end and 10"]),
        ("--algorithm tpe", ["--interval-epochs 1 is a part of --algorithm pbt"]),
        ("--finetune.changes 3", ["Unknown option --finetune.changes"]),
    ],
)
def test_wrong_options(line: str, texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = line.split()
    own = [pair for pair in zip(OPTIONS[::2], OPTIONS[1::2], strict=True) if pair[0] not in words]
    options = [*(word for pair in own for word in pair), *words, "--local"]
    assert toy_search.run(*options, search=toy_search.POPULATION, results=tmp_path / "results") == 2
    err = capsys.readouterr().err
    assert all(text in err for text in texts), err
    assert not (tmp_path / "results").exists()


# A simulated search


def gain(trial: Trial, epoch: int) -> float:
    """Return what an epoch adds: the less, the further its learning rate is from the best."""
    import math

    return max(0.0, 0.04 - 0.02 * abs(math.log10(trial.finetune.in_force(epoch).learning_rate / BEST_RATE)))


def rows(trial: Trial, arm: str) -> list[Record]:
    """Return an arm's epochs."""
    gains = [gain(trial, epoch) for epoch in range(trial.finetune.epochs)]
    values = [0.1 + sum(gains[: n + 1]) for n in range(len(gains))]
    return [{"phase": f"finetune_{arm}", "epoch": n, "macro_f1": value} for n, value in enumerate(values, 1)]


@dataclass
class Driver(simulated.Driver):
    """Runs a simulated population."""

    computed: int = 0
    """Epochs of both arms that were not there from the generation before."""

    @property
    def design(self) -> Design:
        base = with_field(BASE, "finetune.select_by", "macro_f1")
        return design(self.space, base, **self.options)

    def _train(self, item: Any) -> None:
        folder = Results(self.root).trial(str(item.digest))
        folder.write_config({})
        done = [row for arm in ARMS for row in rows(item.trial, arm)]
        value = rows(item.trial, "cnn")[-1]["macro_f1"]
        result = {"arms": {arm: {"validation": {"macro_f1": value}} for arm in ARMS}, "seconds": {}}
        if item.is_tested:
            self.tested.append(item.name)
            folder.finish(result)
            return
        shorter = shorter_by(item.trial, item.generation_epochs)
        parent = Results(self.root).trial(str(simulated.resolve(shorter, "").digest)) if shorter else None
        is_there = parent is not None and all(parent.end(arm).exists() for arm in ARMS)
        self.computed += len(ARMS) * (item.generation_epochs if is_there else item.trial.finetune.epochs)
        for arm in ARMS:
            folder.end(arm).mkdir(parents=True, exist_ok=True)  # type: ignore[union-attr]
        simulated._write(folder, done)
        folder.leave_untested(result)

    def ends(self) -> int:
        """Return how many trials have kept ends."""
        return len(list(self.root.glob("trials/*/ends")))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    driver = Driver(tmp_path_factory.mktemp("population"), space=space, options=SETTINGS)
    driver.run()
    return driver


def best_of(history: list[Record], number: int) -> float:
    members = [record for record in history if record["population"]["generation"] == number]
    assert len(members) == SIZE
    return max(record["became"]["values"][0] for record in members)


def test_the_best_of_a_generation_gains_more_than_the_first_ever_would(undisturbed: Driver) -> None:
    history = undisturbed.history()
    started = [(best_of(history, 0) - 0.1) / EPOCHS * epochs + 0.1 for epochs in range(EPOCHS, 7 * EPOCHS, EPOCHS)]
    assert best_of(history, 5) > started[5], "the best of the first, if it had gone on as it began"
    winner = undisturbed.suggestions().winner()
    assert winner is not None and len(undisturbed.tested) == 1
    rate = undisturbed.suggestions().trial(winner).finetune.in_force(6 * EPOCHS).learning_rate
    assert abs(rate - BEST_RATE) < abs(min(r["params"]["rate"] for r in history[:SIZE]) - BEST_RATE)


def test_an_epoch_is_computed_once_and_two_generations_are_kept(undisturbed: Driver) -> None:
    history = undisturbed.history()
    trials = {record["trial"]["digest"] for record in history}
    assert undisturbed.computed == len(trials) * len(ARMS) * EPOCHS
    last = {record["trial"]["digest"] for record in history[-SIZE:]}
    assert undisturbed.ends() == len(last), "of the generation that a longer search goes on from"


@pytest.mark.parametrize("seed", range(2))
def test_neither_timing_nor_kills_change_a_population(undisturbed: Driver, tmp_path: Path, seed: int) -> None:
    driver = Driver(tmp_path, chance=random.Random(seed), kill=4, space=space, options=SETTINGS)
    assert driver.run() == undisturbed.history()
    assert (driver.tested, driver.computed) == (undisturbed.tested, undisturbed.computed)
    assert driver.most_at_once <= SIZE and driver.ends() == undisturbed.ends()


def test_more_trials_are_more_generations(undisturbed: Driver, tmp_path: Path) -> None:
    shorter = Driver(tmp_path, space=space, options={**SETTINGS, "trials": 2 * SIZE})
    first_two = shorter.run()
    longer = Driver(tmp_path, space=space, options=SETTINGS)
    assert longer.run()[: 2 * SIZE] == first_two and longer.history() == undisturbed.history()
    assert shorter.computed + longer.computed == undisturbed.computed


def test_the_interval_is_part_of_the_search() -> None:
    one, other = (design(interval_epochs=epochs).record("0") for epochs in (1, 2))
    assert one != other
    tpe = Design(name="x", space=space, base=BASE, settings=SearchSettings())
    assert "generation_epochs" not in tpe.record("0"), "searches that are not populations keep their identity"
    assert Goal(metric="macro_f1", arms=ARMS) == design().goal


# A real search


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every machine look like one without a GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def run(*more: str, results: Path) -> int:
    return toy_search.run(*OPTIONS, *more, search=toy_search.POPULATION, results=results)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "results"
    assert run("--local", results=root) == 0
    return root


def computed(root: Path) -> int:
    """Return how many epochs of finetuning were computed."""
    digests = (json.loads(path.read_text())["digest"] for path in root.glob("trials/*/config.json"))
    return sum(not row["reused"] for digest in digests for row in Results(root).trial(digest).rows())


def test_three_generations_of_two(finished: Path) -> None:
    found = toy_search.records(finished).suggestions()
    assert [record["population"]["generation"] for record in found] == [0, 0, 1, 1, 2, 2]
    finetunings = {r["trial"]["digest"]: r["trial"]["config"]["finetune"]["epochs"] for r in found}
    assert set(finetunings.values()) == {1, 2, 3}
    assert computed(finished) == len(ARMS) * len(finetunings) < len(ARMS) * sum(finetunings.values())
    history = toy_search.history(finished)
    best = [max(r["values"][0] for r in history[start : start + 2]) for start in (0, 2, 4)]
    assert max(best) >= best[0]
    states = [Results(finished).trial(digest).status() for digest in finetunings]
    assert states.count("done") == 1 and states.count("untested") == len(states) - 1


def test_the_table_shows_the_parents(finished: Path) -> None:
    folder = toy_search.folder(finished)
    table = search_table(folder, folder.plans()[-1])
    parents = [record["population"]["parent"] for record in toy_search.records(finished).suggestions()]
    assert [None if value != value else int(value) for value in table["parent"].astype("float")] == parents
    text = render(folder)
    assert "#   of" in text and "of: the trial that it went on from" in text
    assert "winner (*)" in text and ("after epoch" in text or "--finetune.epochs" in text)


def test_what_was_reused_is_not_spent(finished: Path) -> None:
    folder = toy_search.folder(finished)
    (account,) = records(spending_table(folder))
    own = {record["trial"]["digest"] for record in toy_search.records(finished).suggestions()}
    tuned = [row for digest in own for row in Results(finished).trial(digest).rows()]
    reused = sum(row["seconds"] for row in tuned if row["reused"])
    (stage,) = (json.loads(path.read_text())["digest"] for path in finished.glob("stages/*/config.json"))
    pretraining = sum(row["seconds"] for row in Results(finished).stage(stage).rows())
    assert reused > 0
    assert account["spent_seconds"] == pytest.approx(pretraining + sum(row["seconds"] for row in tuned) - reused)
    alone = len(own) * pretraining + sum(row["seconds"] for row in tuned)
    assert account["alone_seconds"] == pytest.approx(alone)


def test_dry_run_status_and_budget(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["8" if word == "6" else word for word in OPTIONS]
    search = toy_search.POPULATION
    assert toy_search.run(*options, "--dry-run", search=search, results=finished) == 0
    out = capsys.readouterr().out
    assert "8 trials by pbt in generations of 2, each of 1 more epochs of finetuning" in out and "not pruned" in out
    assert "6 suggested, 6 of them ended; 2 to be suggested" in out and "for the ends of two generations" in out
    images = 2 * len(ARMS) * 64
    assert f"samples: {images}" in out, "the epochs before are not computed again"
    assert toy_search.run("--status", search=search, results=finished) == 0
    assert "untested" in capsys.readouterr().out
    assert run("--local", "--budget-hours", "1e-7", results=tmp_path / "results") == 1
    assert "would not finish within --budget-hours" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.slow
def test_killed_and_resumed_in_ray_it_ends_with_the_same_trials(finished: Path, tmp_path: Path) -> None:
    """The search that nothing disturbed ran in one process."""
    toy_search.kill_and_resume(tmp_path, OPTIONS, after=3, of=6)
    assert toy_search.history(tmp_path / "results") == toy_search.history(finished)


def test_a_study_trains_with_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = (Change(epoch=1, learning_rate=1e-3),)
    study = Study(name="changes", title="Changes", axes={"finetune.changes": ((), changes)})
    options = ("--finetune.epochs", "2", "--local", "--seeds", "0")
    assert toy_search.run_study(study, *options, results=tmp_path) == 0
    out = capsys.readouterr().out
    assert f"changes={changes[0]} seed=0" in out and "changes=none seed=0" in out
    (folder,) = Results(tmp_path).studies()
    frame = load(folder)
    assert set(frame["finetune_changes"]) == {"none", str(changes[0])} and set(frame["status"]) == {"done"}
    assert tables.report(folder, {}) and len(folder.plans()) == 1
    assert toy_search.run_study(study, *options, results=tmp_path) == 0
    assert len(folder.plans()) == 1, "the same plan, read back"


def _other(trial: optuna.Trial) -> Mapping[str, Any]:
    return {**toy_search.continuous_space(trial), "finetune.focal_gamma": 1.0}


def test_a_space_that_has_changed(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = Search(name="toy", title="Changed", space=_other)
    own = [word for pair in toy_search.DEFAULTS.items() if pair[0] != "--finetune.epochs" for word in pair]
    line = [*own, *OPTIONS, "--results", str(finished), "--dry-run"]
    assert search.main(toy_search.report, line) == 2
    assert "The space of toy has changed since its suggestion 0" in capsys.readouterr().err
