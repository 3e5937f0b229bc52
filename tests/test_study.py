"""The command line of a study, in this process: plan, run what is missing, report, say what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cass_tune.results import StudyFolder
from cass_tune.study import Study
from studies.batch_ablation import STUDY

QUICK = (
    "--local --device cpu --pretrain.epochs 1 --finetune.epochs 1 --data.label-fraction 0.05 "
    "--data.pretrain-fraction 0.1 --seeds 0 --pretrain.batch-size 8 --probe-seconds 0"
)
"""One cell and its control in about a second."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """What one call of the command line left."""

    code: int
    out: str
    err: str
    reports: list[tuple[StudyFolder, Mapping[str, object]]]

    @property
    def errors(self) -> list[str]:
        return self.err.splitlines()


Run = Callable[..., Done]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every machine look like one without a GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(line: str = "", study: Study = STUDY, results: Path = tmp_path / "results") -> Done:
        reports: list[tuple[StudyFolder, Mapping[str, object]]] = []

        def report(folder: StudyFolder, published: Mapping[str, object]) -> str:
            reports.append((folder, published))
            return "the report\n"

        code = study.main(report, [*line.split(), "--results", str(results)])
        out, err = capsys.readouterr()
        return Done(code=code, out=out, err=err, reports=reports)

    return call


@pytest.fixture(scope="module")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "results"
    assert STUDY.main(lambda *_: "", [*QUICK.split(), "--results", str(root)]) == 0
    return root


@pytest.fixture
def finished(_finished: Path, tmp_path: Path) -> Path:
    """A results root in which the quick study is finished."""
    return Path(shutil.copytree(_finished, tmp_path / "results"))


@pytest.fixture
def break_pretraining(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let every pretraining of batch size 16 raise, until ``undo`` is called."""
    from cass_tune.training.pretrain import Pretraining

    original = Pretraining.run

    def broken(self: Any, until: int | None = None) -> Iterator[Any]:
        if self._config.batch_size == 16:
            raise RuntimeError("no luck\nsecond line")
        yield from original(self, until)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pretraining, "run", broken)
        yield patch


def attempts(root: Path) -> dict[str, int]:
    """Return the number of times that each trial and each pretraining has run."""
    found = {}
    for place in sorted([*root.glob("trials/*"), *root.glob("stages/*")]):
        found[f"{place.parent.name}/{place.name}"] = len(list((place / "epochs").glob("*.jsonl")))
    return found


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_run_from_nothing_to_the_report(run: Run, tmp_path: Path) -> None:
    done = run(QUICK)
    assert (done.code, done.err) == (0, "")
    ((folder, published),) = done.reports
    assert folder.path == tmp_path / "results" / "batch_ablation" / "phantom-demo"
    assert published is STUDY.published
    lines = done.out.splitlines()
    assert lines[0].startswith("DEMO batch_ablation: no data named, so small networks on the built-in phantom images")
    assert "--data.name brain_mri --data.root DIR" in lines[0]
    assert "data: phantom, 400 train, 200 test images" in lines[1]
    assert lines[3] == "trials: 1 cell and 1 control without pretraining, 1 seed (0): 2"
    assert lines[4] == "finished: none; to run: 2"
    assert sum(line.startswith("  done     ") for line in lines) == 2
    assert lines[-1] == "the report"
    (plan,) = folder.plans()
    assert (plan["study"], plan["preset"], plan["demo"]) == ("batch_ablation", "demo", True)
    assert [trial["name"] for trial in plan["trials"]] == ["seed=0", "none seed=0"]
    assert plan["axes"] == ["pretrain.batch_size"] and plan["data"]["name"] == "phantom"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]
    for trial in plan["trials"]:
        record = folder.results.trial(trial["digest"]).result()
        assert record is not None and set(record["arms"]) == {"cnn", "vit"}


def test_the_page_writes_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str], finished: Path) -> None:
    from analysis import write_report

    assert STUDY.main(write_report, [*QUICK.split(), "--results", str(finished)]) == 0
    assert "DEMO: " in capsys.readouterr().out
    study = finished / "batch_ablation" / "phantom-demo"
    assert (study / "results.parquet").exists() and (study / "tables" / "DEMO_f1.md").exists()


def test_a_second_run_does_nothing_but_report(run: Run, finished: Path) -> None:
    before = content(finished)
    done = run(QUICK)
    assert (done.code, len(done.reports)) == (0, 1)
    assert "finished: 2 done; to run: 0" in done.out and "started" not in done.out
    assert content(finished) == before


def test_exactly_what_is_missing_runs_again(run: Run, finished: Path) -> None:
    before = attempts(finished)
    assert set(before.values()) == {1} and len(before) == 3
    (lost,) = (p for p in finished.glob("trials/*/result.json") if '"stage": null' not in p.read_text())
    lost.unlink()
    done = run(QUICK)
    assert done.code == 0 and "finished: 1 done; to run: 1" in done.out
    assert "1 epoch asked for, 0 to run" in done.out
    assert attempts(finished) == {**before, f"trials/{lost.parent.name}": 2}
    assert lost.exists()


def test_a_larger_grid_finds_finished_cells_again(run: Run, finished: Path) -> None:
    before = attempts(finished)
    done = run(QUICK.replace("batch-size 8", "batch-size 16 8"))
    assert done.code == 0 and "finished: 2 done; to run: 1" in done.out
    after = attempts(finished)
    assert len(after) == len(before) + 2 and set(after.values()) == {1}
    ((folder, _),) = done.reports
    assert len(folder.plans()) == 2


def test_only_wants_the_cells_named(run: Run) -> None:
    line = QUICK.replace("batch-size 8", "batch-size 8 16") + " --dry-run"
    both, one = run(line), run(f"{line} --only pretrain.batch-size=16")
    (sixteen,) = (text.split()[0] for text in both.out.splitlines() if "batch_size=16" in text)
    assert one.out.count("  missing  ") == 2 and f"  {sixteen}  missing    seed=0" in one.out
    assert "1 cell and 1 control" in one.out


@pytest.mark.parametrize("line", ["", QUICK, "--preset paper", "--redo all", "--data phantom"])
def test_a_dry_run_writes_nothing(run: Run, tmp_path: Path, line: str) -> None:
    done = run(f"{line} --dry-run")
    assert (done.code, done.err, done.reports) == (0, "", [])
    assert "Dry run: nothing was run, and these were not checked" in done.out and "  missing  " in done.out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_over_results_changes_nothing(run: Run, finished: Path) -> None:
    before = content(finished)
    done = run(f"{QUICK} --dry-run --redo all")
    assert "finished: 2 done; to run: 2" in done.out and done.out.count("  done       ") == 2
    assert content(finished) == before


def test_a_dry_run_without_the_data(run: Run, tmp_path: Path) -> None:
    done = run("--data.name brain_mri --data.root gone --dry-run")
    assert (done.code, done.err) == (0, "")
    assert "finished: unknown. Not checked: " in done.out and "gone" in done.out
    assert "trials: 3 cells and 1 control without pretraining, 1 seed (0): 4" in done.out
    assert done.out.count("?             unknown    ") == 4
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_without_the_weights(run: Run) -> None:
    done = run("--pretrain.weights gone --dry-run")
    assert done.code == 0
    assert "finished: unknown" in done.out and "gone" in done.out and "400 train" in done.out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--preset demo --data.name folder --data.root gone", ["--data.root", "gone", "does not exist"]),
        ("--preset demo --data.name folder", ["'folder'", "--data.root DIR"]),
        ("--preset demo --data brainmri", ["--data.name", "'brainmri'", "'brain_mri'"]),
        ("--data.root .", ["--data.root", "phantom", "leave --data.root out"]),
        ("--pretrain.batch-size 8 5000", ["--pretrain.batch-size 5000", "larger than the 320 pretraining images"]),
        ("--pretrain.batch-size 8 8", ["--pretrain.batch-size takes different values", "8 8"]),
        ("--pretrain.batch-size", ["--pretrain.batch-size", "none"]),
        ("--pretrain.cnn resnet51", ["--pretrain.cnn 'resnet51'", "not a timm model", "'resnet50'"]),
        ("--pretrain.cnn resnet50.a9_in1k", ["'resnet50.a9_in1k'", "resnet50.a1_in1k"]),
        ("--data.image-size-px 8", ["--pretrain.vit test_vit.r160_in1k", "8 px", "--data.image-size-px"]),
        ("--data.image-size-px 33", ["--pretrain.vit test_vit.r160_in1k", "33 px", "divisible by patch size (16)"]),
        ("--data.image-size-px 7", ["--data.image-size-px", "at least 8", "7"]),
        ("--pretrain.epochs -3", ["--pretrain.epochs", "at least 1", "-3"]),
        ("--finetune.learning-rate -1", ["--finetune.learning-rate", "-1.0"]),
        ("--pretrain.batch-size -8", ["--pretrain.batch-size", "at least 2", "-8"]),
        ("--pretrain.weights gone.safetensors --pretrain.vit-weights random", ["gone.safetensors", "cnn"]),
        ("--only pretrain.batch-size=9", ["--only", "no cell has 9", "8, 16, 32"]),
        ("--device cuda", ["--device cuda", "no GPU", "--device cpu"]),
        ("--preset paper", ["--preset paper", "--device cpu", "--preset demo"]),
        ("--pretrain.epoch 3", ["--pretrain.epoch", "'--pretrain.epochs'"]),
    ],
)
def test_wrong_usage_is_one_clear_error_and_nothing_else(run: Run, tmp_path: Path, line: str, words: list[str]) -> None:
    done = run(f"--local {line}")
    assert done.code == 2 and len(done.errors) == 1, done.err
    assert done.err.startswith("error: ") and all(word in done.err for word in words), done.err
    assert "Traceback" not in done.err and done.reports == []
    assert list(tmp_path.iterdir()) == []


def test_all_broken_rules_are_said_at_once(run: Run) -> None:
    done = run("--pretrain.epochs 0 --finetune.epochs 0 --pretrain.batch-size 1 --data.label-fraction 2")
    assert done.code == 2
    assert [line.split()[1] for line in done.errors] == [
        "--data.label-fraction",
        "--pretrain.epochs",
        "--finetune.epochs",
        "--pretrain.batch-size",
    ]


def test_a_results_root_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = run(QUICK, results=tmp_path / "file" / "results")
    assert done.code == 2 and len(done.errors) == 1
    assert "Cannot write to the results root" in done.err and "--results DIR" in done.err
    assert (tmp_path / "file").read_text() == "x"


def test_the_paper_without_its_weights(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    done = run("--local --device cpu --preset paper")
    assert done.code == 2 and len(done.errors) == 2, done.err
    for arm, name in (("cnn", "resnet50.a1_in1k"), ("vit", "vit_base_patch16_384.augreg_in21k_ft_in1k")):
        (text,) = (line for line in done.errors if f"--pretrain.{arm} {name}" in line)
        assert f"timm.create_model('{name}', pretrained=True)" in text
        assert "--pretrain.weights FILE" in text and "--pretrain.weights random" in text
    assert not (tmp_path / "results").exists()


def test_the_first_line_says_which_preset_and_why(run: Run, tmp_path: Path) -> None:
    def first(line: str) -> str:
        return run(f"{line} --dry-run").out.splitlines()[0]

    assert first("--data phantom").startswith("PAPER batch_ablation: preset paper, because the command line names")
    assert first("--preset demo").startswith("DEMO batch_ablation: preset demo, as asked for, on phantom.")
    (tmp_path / "cass_tune.toml").write_text('[data]\nname = "phantom"\n')
    assert "PAPER batch_ablation: preset paper, because cass_tune.toml names the data phantom." in first("")


def test_the_file_of_the_working_folder_counts(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cass_tune.toml").write_text("seeds = [7]\n[pretrain]\nbatch_size = [4]\n")
    assert "1 cell and 1 control without pretraining, 1 seed (7): 2" in run("--dry-run").out
    (tmp_path / "cass_tune.toml").write_text("[pretrain]\nbatchsize = 4\n")
    done = run("--dry-run")
    assert done.code == 2 and "cass_tune.toml: unknown key 'pretrain.batchsize'" in done.err


def test_paths_may_begin_with_the_home_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    done = run("--data.name folder --data.root ~/images --pretrain.weights ~/weights --dry-run", results=Path("~/r"))
    assert f"{tmp_path}/home/images" in done.out and f"{tmp_path}/home/weights" in done.out
    assert "~" not in done.out


def test_weights_as_an_axis_become_absolute(run: Run, tmp_path: Path) -> None:
    study = Study(name="weights", title="Weights.", axes={"pretrain.weights": ("random", "own")})
    done = run("--dry-run", study=study)
    assert str(tmp_path / "own") in done.out


def test_a_failing_trial_leaves_the_others_running(
    run: Run, tmp_path: Path, break_pretraining: pytest.MonkeyPatch
) -> None:
    line = QUICK.replace("batch-size 8", "batch-size 16 8")
    done = run(line)
    assert done.code == 1 and len(done.reports) == 1
    (failed,) = (text for text in done.out.splitlines() if text.startswith("  FAILED"))
    assert "batch_size=16 seed=0" in failed and "RuntimeError: no luck" in failed
    log = Path(failed.split("(log: ")[1].split(")")[0])
    assert "second line" in log.read_text() and tmp_path / "results" / "trials" == log.parents[1]
    assert done.out.count("  done     ") == 2

    left = run(f"{line} --redo none")
    assert left.code == 1 and "finished: 2 done, 1 failed; to run: 0" in left.out
    assert "FAILED" not in left.out and len(left.reports) == 1

    again = run(line)
    assert again.code == 1 and "2 done, 1 failed; to run: 1" in again.out

    break_pretraining.undo()
    mended = run(line)
    assert mended.code == 0 and "to run: 1" in mended.out
    assert run(line).out.count("3 done; to run: 0") == 1


def test_redo_all_keeps_the_earlier_results(run: Run, finished: Path) -> None:
    before = {path.parent.name: path.read_bytes() for path in finished.glob("trials/*/result.json")}
    done = run(f"{QUICK} --redo all")
    assert done.code == 0 and "finished: 2 done; to run: 2" in done.out
    for trial, result in before.items():
        (earlier,) = (finished / "trials" / trial / "earlier").iterdir()
        assert (earlier / "result.json").read_bytes() == result
        assert (finished / "trials" / trial / "result.json").exists()
    assert done.out.count("  done     ") == 2


def test_redo_all_from_nothing_leaves_no_earlier(run: Run, tmp_path: Path) -> None:
    assert run(f"{QUICK} --redo all").code == 0
    assert list(tmp_path.glob("results/trials/*/earlier")) == []


def test_an_interrupted_run_can_be_continued(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from cass_tune.training.finetune import Finetuning

    def interrupt(self: Any) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "run", interrupt)
        done = run(QUICK)
    assert (done.code, done.err, done.reports) == (130, "", [])
    assert "the same command goes on from it" in done.out
    again = run(QUICK)
    assert again.code == 0 and "to run: 2" in again.out and "1 epoch asked for, 0 to run" in again.out


def test_equal_pretrainings_are_done_once(run: Run, tmp_path: Path) -> None:
    study = Study(name="labels", title="Labels.", axes={"data.label_fraction": (0.05, 0.1)})
    line = QUICK.replace("--data.label-fraction 0.05 ", "")
    done = run(line, study=study)
    assert done.code == 0, done.err
    assert "2 cells and 2 controls" in done.out
    assert "pretraining: 1 distinct, 2 epochs asked for, 1 to run" in done.out
    found = attempts(tmp_path / "results")
    assert len(found) == 5 and set(found.values()) == {1}
