"""Any study as a journal: what Optuna's own storage reads from it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from analysis.optuna_journal import main, write_journal
from cass_tune.errors import UsageError
from tests.analysis.synthetic import SMALL, Root, cells

TRIALS = cells(SMALL, "pretrain.batch_size", (8, 16), (0, 1))


def read(path: Path) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(path)))
    (summary,) = optuna.get_all_study_summaries(storage)
    study = optuna.load_study(study_name=summary.study_name, storage=storage)
    assert study.study_name == "batch_ablation"
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    return study.trials


def test_optuna_reads_it(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan(TRIALS)
    none, cass = TRIALS[0], TRIALS[2]
    root.finish(none, 0.5, 0.4)
    root.finish(cass, 0.7, 0.6)
    root.learn(cass, "finetune_cnn", {"macro_f1": [0.2, 0.3]})
    root.learn(cass, "finetune_vit", {"macro_f1": [0.1, None]}, attempt="a2")
    root.attempt(cass, "a1", "12:00:00", "12:30:00")
    root.fail(TRIALS[3])
    path = Path(str(write_journal(root.study)))
    trials = read(path)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert trials[0].params == {"pretrain_method": "none", "seed": 0}
    assert trials[1].params == {"pretrain_batch_size": 8, "pretrain_method": "cass", "seed": 0}
    assert trials[1].distributions["pretrain_batch_size"] == optuna.distributions.CategoricalDistribution([8, 16])
    assert trials[1].value == pytest.approx(0.65)
    assert trials[1].intermediate_values == {1: 0.2, 2: 0.3, 3: 0.1}
    assert trials[1].user_attrs == {"trial": root.digest(cass)[:12]}
    assert trials[1].duration is not None and trials[1].duration.total_seconds() == 1800


def test_written_again_it_is_the_same_and_grows(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan(TRIALS)
    root.finish(TRIALS[0], 0.5)
    path = Path(str(write_journal(root.study)))
    first = path.read_bytes()
    write_journal(root.study)
    assert path.read_bytes() == first
    root.finish(TRIALS[1], 0.6)
    write_journal(root.study)
    assert len(read(path)) == 2


def test_nothing_has_ended(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan(TRIALS)
    assert read(Path(str(write_journal(root.study)))) == []


def test_a_search_has_its_own(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan(TRIALS, search={"id": "0123", "trials": 3, "objectives": ["macro_f1"]})
    with pytest.raises(UsageError, match=r"writes a journal of its own: .*search/0123/journal\.log"):
        write_journal(root.study)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Root(tmp_path)
    root.plan(TRIALS)
    root.finish(TRIALS[0], 0.5)
    assert main(["batch_ablation", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"optuna-dashboard {root.study.journal}\n"
