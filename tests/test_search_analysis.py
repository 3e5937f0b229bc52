"""A search in numbers, plots and words, and the example of the page about searches."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis import tables
from analysis.frames import records
from analysis.search import importance, search_table
from analysis.search_plots import coordinates
from cass_tune.results import Record, SearchFolder, StudyFolder
from tests.simulated import BEST, EPOCHS, Driver

REPOSITORY = Path(__file__).parents[1]


class _Folder(StudyFolder):
    """A study's folder whose only search is the simulated one."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver.root / "simulated" / "none-demo")
        self._search = driver.folder

    def search(self, search_id: str) -> SearchFolder:
        return self._search


def plan(trials: int, *objectives: str) -> Record:
    return {"search": {"id": "any", "trials": trials, "objectives": list(objectives)}}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    driver = Driver(tmp_path_factory.mktemp("one"), options={"trials": 16, "startup_trials": 8, "parallel": 3})
    driver.run()
    return driver


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    options = {"trials": 14, "startup_trials": 8, "parallel": 3, "objectives": ("macro_f1", "gpu_hours")}
    driver = Driver(tmp_path_factory.mktemp("two"), options=options)
    driver.run()
    return driver


def test_the_table_has_a_row_per_suggestion(one: Driver) -> None:
    rows = records(search_table(_Folder(one), plan(16, "macro_f1")))
    assert [row["number"] for row in rows] == list(range(16))
    for row, record in zip(rows, one.history(), strict=True):
        assert row["state"] == record["became"]["state"]
        assert row["macro_f1"] == record["became"]["values"][0]
        assert (row["param_rate"], row["param_gamma"]) == (record["params"]["rate"], record["params"]["gamma"])
        assert (row["finetune_epochs"] == 2 * EPOCHS) is (row["state"] == "complete")
    first = {row["digest"]: row["number"] for row in reversed(rows)}
    assert [row["repeats"] for row in rows] == [
        None if first[row["digest"]] == row["number"] else first[row["digest"]] for row in rows
    ]
    (best,) = (row for row in rows if row["best"])
    assert best["macro_f1"] == max(row["macro_f1"] for row in rows if row["state"] == "complete")


def test_a_shorter_plan_and_one_without_suggestions(one: Driver, tmp_path: Path) -> None:
    assert len(search_table(_Folder(one), plan(5, "macro_f1"))) == 5
    assert search_table(_Folder(Driver(tmp_path)), plan(5, "macro_f1")).empty
    assert importance(_Folder(Driver(tmp_path)), plan(5, "macro_f1")).empty


def test_nothing_on_the_front_is_beaten_in_both(two: Driver) -> None:
    rows = records(search_table(_Folder(two), plan(14, "macro_f1", "gpu_hours")))

    def beaten(row: Record) -> bool:
        return any(
            other["macro_f1"] >= row["macro_f1"]
            and other["gpu_hours"] <= row["gpu_hours"]
            and (other["macro_f1"], other["gpu_hours"]) != (row["macro_f1"], row["gpu_hours"])
            for other in rows
        )

    assert [row["front"] for row in rows] == [not beaten(row) for row in rows]
    assert any(row["front"] for row in rows) and not all(row["front"] for row in rows)


def test_the_rate_matters_more_than_gamma_for_the_metric_and_alone_for_the_hours(two: Driver) -> None:
    found = importance(_Folder(two), plan(14, "macro_f1", "gpu_hours"))
    shares = {(row["objective"], row["parameter"]): row["importance"] for row in records(found)}
    assert len(shares) == 4 and BEST
    for objective in ("macro_f1", "gpu_hours"):
        assert shares[objective, "rate"] + shares[objective, "gamma"] == pytest.approx(1)
        assert shares[objective, "rate"] > 0.5
    assert shares["gpu_hours", "rate"] > 0.9
    again = importance(_Folder(two), plan(14, "macro_f1", "gpu_hours"))
    pd.testing.assert_frame_equal(found, again)


def test_coordinates_lie_between_the_ends_of_each_axis() -> None:
    table = pd.DataFrame(
        {
            "number": [0, 1, 2, 3, 4],
            "state": ["complete", "complete", "complete", "failed", "pruned"],
            "macro_f1": [0.2, 0.6, 0.4, None, 0.9],
            "param_rate": [1e-5, 1e-3, 1e-4, 1.0, 1.0],
            "param_kind": ["adam", "adamw", "adam", "adam", "adam"],
            "param_decay": [None, 0.1, None, None, None],
            "param_gamma": [1.0, 2.0, 1.25, 9.0, 9.0],
        }
    )
    found = coordinates(table, "macro_f1")
    places = {axis: rows["place"].tolist() for axis, rows in found.groupby("axis", sort=False)}
    assert list(places) == ["rate", "kind", "decay", "gamma", "macro_f1"]
    assert places["rate"] == pytest.approx([0, 1, 0.5]) and places["gamma"] == pytest.approx([0, 1, 0.25])
    assert places["kind"] == [0, 1, 0] and places["macro_f1"] == pytest.approx([0, 1, 0.5])
    assert pd.isna(places["decay"][0]) and places["decay"][1] == 0.5
    assert set(found.loc[found["is_log"], "axis"]) == {"rate"}


def test_your_own_search_as_the_page_has_it(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "search.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(code.splitlines()) <= 30
    (tmp_path / "my_search.py").write_text(code)
    options = "--trials 4 --parallel 2 --local --device cpu --pretrain.epochs 1 --finetune.epochs 2 --probe-seconds 0"
    sizes = "--data.pretrain-fraction 0.1 --pretrain.batch-size 8 --pretrain.weights random"
    done = subprocess.run(
        [sys.executable, "my_search.py", *options.split(), *sizes.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "winner (*): #" in done.stdout and "test macro-F1 cnn 0." in done.stdout
    assert "to run it in a study, with several seeds: --data.label-fraction 0.1" in done.stdout
    folder = StudyFolder(tmp_path / "results" / "my_search" / "phantom-demo")
    names = {path.name for place in (folder.tables, folder.plots) for path in place.iterdir()}
    assert {"DEMO_search.csv", "DEMO_search.md", "DEMO_spending.csv", "DEMO_course.png"} <= names
    assert {"DEMO_search.tex", "DEMO_search.html", "DEMO_importance.html"} <= names
    assert {"DEMO_coordinates.svg", "DEMO_coordinates.pdf"} <= names
    assert folder.parquet.exists() and folder.index.exists()
    assert tables.render(folder) in done.stdout
    search, importances, spending = tables.sheets(folder)
    assert [sheet.name for sheet in (search, importances, spending)] == [
        *("DEMO_search", "DEMO_importance", "DEMO_spending"),
    ]
    assert sorted(search.trials) == sorted(search.numbers["trial_id"]) and len(search.rows) == 1 + 4
    assert set(spending.trials[0].split()) <= set(search.trials)
