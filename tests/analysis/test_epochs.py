"""The rows of all trials as one table, against the rows that the records themselves return."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.epochs import COLUMNS, load_epochs
from analysis.frames import records, where
from cass_tune.config import Trial
from cass_tune.errors import UsageError
from cass_tune.results import Record
from cass_tune.training.rows import epoch_row
from tests.analysis.synthetic import SMALL, Root, cells, replace
from tests.small import local

CONTROL, EIGHT, OTHER = cells(SMALL, "pretrain.batch_size", [8, 16], [0])
STAGE, TRUNK = "a" * 64, "b" * 64


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path)
    for trial in (EIGHT, OTHER):
        root.segments[trial] = [{"stage": TRUNK, "start": 0, "end": 1}, {"stage": STAGE, "start": 1, "end": 3}]
    root.plan([CONTROL, EIGHT, OTHER])
    return root


def row(phase: str, epoch: int, **values: object) -> Record:
    return epoch_row(phase=phase, epoch=epoch, epochs=3, reused=False, **values)


def write(root: Root, work: Trial | str, rows: list[Record], attempt: str = "a1") -> Path:
    folder = root.results.trial(root.digest(work)) if isinstance(work, Trial) else root.results.stage(work)
    with folder.row_file(attempt) as lines:
        for item in rows:
            lines.append(json.dumps(item))
    return local(folder.epochs) / f"{attempt}.jsonl"


def finetuning(loss: float) -> list[Record]:
    return [
        row(f"finetune_{arm}", epoch, loss=loss / epoch, macro_f1=None if epoch == 1 else 0.5)
        for arm in ("cnn", "vit")
        for epoch in (1, 2)
    ]


def of(frame: pd.DataFrame, root: Root, trial: Trial) -> pd.DataFrame:
    return where(frame, {"digest": root.digest(trial)})


def test_columns_and_types(root: Root) -> None:
    write(root, EIGHT, finetuning(1.0))
    frame = load_epochs(root.study)
    assert tuple(frame.columns) == COLUMNS and len(frame) == 4
    kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert {kinds[name] for name in ("seed", "epoch", "epochs")} == {"Int64"}
    assert {kinds[name] for name in ("digest", "trial_id", "name", "phase")} == {"category"}
    assert {kinds[name] for name in ("collapsed", "reused")} == {"boolean"}
    assert {kind for name, kind in kinds.items() if name in COLUMNS[7:-1] and name != "collapsed"} == {"float64"}
    first = records(frame)[0]
    assert (first["trial_id"], first["name"], first["seed"]) == (root.digest(EIGHT)[:12], "batch_size=8 seed=0", 0)
    assert (first["loss"], first["macro_f1"], first["agreement"], first["collapsed"]) == (1.0, None, None, None)


def test_the_numbers_are_those_of_the_rows(root: Root) -> None:
    rng = np.random.default_rng(0)
    rows = [row("finetune_cnn", epoch, loss=rng.normal() * 10.0 ** rng.integers(-300, 300)) for epoch in range(1, 200)]
    write(root, EIGHT, rows)
    stored = root.results.trial(root.digest(EIGHT)).rows()
    assert load_epochs(root.study)["loss"].tolist() == [item["loss"] for item in stored]


def test_a_shared_pretraining_stands_with_each_of_its_trials(root: Root) -> None:
    pretraining = [
        row("pretrain", epoch, loss=float(epoch), cnn_feature_std=0.5, collapsed=epoch > 2) for epoch in (1, 2, 3)
    ]
    root.results.stage(STAGE).write_end(3, {"rows": pretraining})
    for trial in (CONTROL, EIGHT, OTHER):
        write(root, trial, finetuning(0.5))
    frame = load_epochs(root.study)
    assert len(frame) == 4 + 7 + 7 and "pretrain" not in of(frame, root, CONTROL)["phase"].tolist()
    for trial in (EIGHT, OTHER):
        own = of(frame, root, trial)
        assert own["phase"].tolist() == ["pretrain"] * 3 + ["finetune_cnn"] * 2 + ["finetune_vit"] * 2
        assert own["epoch"].tolist() == [1, 2, 3, 1, 2, 1, 2]
        assert own["reused"].tolist() == [True] * 3 + [False] * 4
        assert own["collapsed"].tolist()[:3] == [False, False, True]


def test_the_result_says_where_the_pretraining_is(root: Root) -> None:
    """An older plan may have recorded it otherwise."""
    other = "c" * 64
    root.results.stage(other).write_end(2, {"rows": [row("pretrain", 1), row("pretrain", 2)]})
    root.finish(EIGHT, 0.5, stage={"segments": [{"stage": other, "start": 0, "end": 2}]})
    assert of(load_epochs(root.study), root, EIGHT)["epoch"].tolist() == [1, 2]


def test_a_pretraining_that_is_under_way(root: Root) -> None:
    write(root, TRUNK, [row("pretrain", 1), row("pretrain", 2)])
    write(root, STAGE, [row("pretrain", 2, loss=0.25)])
    found = of(load_epochs(root.study), root, EIGHT)
    assert found["epoch"].tolist() == [1, 2] and found["loss"].tolist()[1] == 0.25


@pytest.mark.parametrize("tail", ['{"phase": "finetune_vit", "epo', "\n", "{", "null", "\x00\x00\x00", '{"a": 1'])
@pytest.mark.parametrize("place", ["end", "middle"])
def test_a_torn_line_is_left_out(root: Root, tail: str, place: str) -> None:
    path = write(root, EIGHT, finetuning(1.0))
    expected = load_epochs(root.study)
    write(root, OTHER, finetuning(2.0), "a2")
    content = path.read_text()
    path.write_text(content + tail if place == "end" else f"{tail}\n{content}")
    frame = load_epochs(root.study)
    pd.testing.assert_frame_equal(of(frame, root, EIGHT), expected, check_categorical=False)
    assert len(of(frame, root, OTHER)) == 4, "what stands in the same batch is not hurt"


def test_a_last_line_without_its_end_may_be_whole(root: Root) -> None:
    path = write(root, EIGHT, finetuning(1.0))
    path.write_text(path.read_text().rstrip("\n"))
    assert len(load_epochs(root.study)) == 4


def test_of_a_repeated_epoch_the_last_attempt_counts(root: Root) -> None:
    write(root, EIGHT, finetuning(1.0), "20260101")
    write(root, EIGHT, finetuning(2.0)[1:3], "20260102")
    frame = load_epochs(root.study)
    assert frame["loss"].tolist() == [1.0, 1.0, 2.0, 0.5]
    rows = root.results.trial(root.digest(EIGHT)).rows()
    assert frame["loss"].tolist() == [item["loss"] for item in rows]


def test_numbers_that_are_not_known(root: Root) -> None:
    """Null as we write it, NaN as Ray would, and a column that did not exist when the row was written."""
    path = write(root, EIGHT, [row("finetune_cnn", 1, loss=0.5)])
    lines = [
        {"phase": "finetune_cnn", "epoch": 2, "loss": None},
        {"phase": "finetune_cnn", "epoch": 3, "loss": float("nan")},
    ]
    path.write_text(path.read_text() + "".join(json.dumps(line) + "\n" for line in lines))
    frame = load_epochs(root.study)
    assert frame["epoch"].tolist() == [1, 2, 3]
    assert frame["loss"].isna().tolist() == [False, True, True] and frame["seconds"].isna().tolist() == [True] * 3


@pytest.mark.parametrize("values", [{"phase": "finetune_mlp", "epoch": 1}, {"epoch": 1}, {"phase": "pretrain"}])
def test_a_row_of_no_known_phase_is_named(root: Root, values: Record) -> None:
    write(root, EIGHT, [values])
    with pytest.raises(UsageError, match=rf"{root.digest(EIGHT)[:12]} names no epoch, or none of the phases pretrain"):
        load_epochs(root.study)


def test_a_text_in_the_place_of_a_number(root: Root) -> None:
    write(root, EIGHT, [row("finetune_cnn", 1, loss="much")])
    with pytest.raises(UsageError, match="An epoch's row is damaged"):
        load_epochs(root.study)


def test_nothing_is_recorded_yet(root: Root) -> None:
    frame = load_epochs(root.study)
    assert frame.empty and tuple(frame.columns) == COLUMNS and str(frame["loss"].dtype) == "float64"


def test_more_trials_than_are_read_at_once(tmp_path: Path) -> None:
    root = Root(tmp_path)
    trials = [replace(SMALL, seed=seed) for seed in range(70)]
    root.plan(trials)
    for trial in trials:
        write(root, trial, [row("finetune_cnn", 1, loss=float(trial.seed))])
    frame = load_epochs(root.study)
    assert frame["seed"].tolist() == list(range(70)) and frame["loss"].tolist() == [float(seed) for seed in range(70)]
