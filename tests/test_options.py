"""The options of a study: their names, their types, and every mistake said at once."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cass_tune import options
from cass_tune.config import SECTIONS, options_of
from cass_tune.errors import UsageError
from cass_tune.options import Given, Settings, command_line, option, parse

AXES = ("pretrain.batch_size", "data.label_fraction")
Parse = Callable[..., Given]

OPTIONS = """
--dry-run --status --preset --recipe --seeds --only --results --redo --on-collapse --keep-weights --keep-stages
--local --address --device --gpus-per-trial --cpus-per-trial --threads --workers
--checkpoint-every-minutes --max-failures --preemption-command --budget-hours --price --probe-seconds --probes
--probe-every --log-to --precision --compile --activation-checkpointing
--data --data.name --data.root --data.table --data.path-column --data.label-column --data.label-columns
--data.split-column --data.group-column --data.on-bad-image --data.image-size-px --data.label-fraction
--data.pretrain-fraction --data.validation-fraction --data.test-fraction --data.split-seed --data.folds --data.fold
--data.leaks --data.normalisation --data.augmentation-strength --data.pipeline
--pretrain.method --pretrain.cnn --pretrain.vit --pretrain.weights --pretrain.cnn-weights --pretrain.vit-weights
--pretrain.embedding-dim --pretrain.epochs --pretrain.batch-size --pretrain.learning-rate
--pretrain.vit-learning-rate --pretrain.min-learning-rate --pretrain.schedule --pretrain.schedule-t-max-steps
--pretrain.warmup-epochs --pretrain.decay-fraction --pretrain.optimiser --pretrain.weight-decay
--pretrain.weight-decay-end --pretrain.clip-norm --pretrain.variance-weight --pretrain.predictor
--pretrain.precision --pretrain.compile
--finetune.epochs --finetune.batch-size --finetune.learning-rate --finetune.min-learning-rate
--finetune.vit-learning-rate --finetune.schedule --finetune.schedule-t-max-steps --finetune.warmup-epochs
--finetune.optimiser --finetune.weight-decay --finetune.clip-norm --finetune.focal-gamma --finetune.class-weights
--finetune.select-by --finetune.precision --finetune.compile --finetune.patience
--finetune.evaluation-batch-size
--dino.outputs --dino.local-crops --dino.local-crop-px --dino.momentum --dino.momentum-end --dino.teacher-temperature
--dino.teacher-temperature-start --dino.teacher-warmup-epochs --dino.student-temperature --dino.centre-momentum
--dino.frozen-epochs
"""
"""The surface of the command line, in any order: scripts depend on every one, and none may be added by accident."""


@pytest.fixture
def read(tmp_path: Path) -> Parse:
    def run(line: str = "", toml: str | bytes | None = None) -> Given:
        if toml is not None:
            content = toml if isinstance(toml, bytes) else toml.encode()
            (tmp_path / "cass_tune.toml").write_bytes(content)
        return parse(line.split(), prog="study", description="A study.", axes=AXES, folder=tmp_path)

    return run


@pytest.fixture
def problems(read: Parse) -> Callable[..., tuple[str, ...]]:
    def run(line: str = "", toml: str | bytes | None = None) -> tuple[str, ...]:
        with pytest.raises(UsageError) as caught:
            read(line, toml)
        return caught.value.problems

    return run


Problems = Callable[..., tuple[str, ...]]


def test_nothing_given_is_nothing_chosen(read: Parse) -> None:
    given = read()
    assert (given.settings, given.fields, given.source) == (Settings(), {}, None)


@pytest.mark.parametrize(
    ("line", "path", "value"),
    [
        ("--pretrain.epochs 3", "pretrain.epochs", 3),
        ("--pretrain.epochs=3", "pretrain.epochs", 3),
        ("--pretrain.learning-rate 1", "pretrain.learning_rate", 1.0),
        ("--pretrain.learning-rate 1e-4", "pretrain.learning_rate", 1e-4),
        ("--pretrain.learning_rate 1e-4", "pretrain.learning_rate", 1e-4),
        ("--data.root /some/where", "data.root", "/some/where"),
        ("--pretrain.cnn-weights file", "pretrain.cnn_weights", "file"),
        ("--finetune.class-weights none", "finetune.class_weights", "none"),
        ("--pretrain.batch-size 8", "pretrain.batch_size", (8,)),
        ("--pretrain.batch-size 8 16 4", "pretrain.batch_size", (8, 16, 4)),
        ("--data.label-fraction 0.1 1", "data.label_fraction", (0.1, 1.0)),
        ("--data brain_mri", "data.name", "brain_mri"),
        ("--data.name brain_mri", "data.name", "brain_mri"),
        ("--pretrain.predictor true", "pretrain.predictor", True),
        ("--pretrain.predictor false", "pretrain.predictor", False),
        ("--pretrain.method my.module:Mine", "pretrain.method", "my.module:Mine"),
        ("--dino.local-crop-px 32", "dino.local_crop_px", 32),
        ("--dino.momentum 1", "dino.momentum", 1.0),
    ],
)
def test_a_field_gets_its_type(read: Parse, line: str, path: str, value: Any) -> None:
    given = read(line)
    assert dict(given.fields) == {path: value}
    found = given.fields[path]
    assert [type(v) for v in (found if isinstance(found, tuple) else [found])] == [
        type(v) for v in (value if isinstance(value, tuple) else [value])
    ]


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("--dry-run", "dry_run", True),
        ("--local", "local", True),
        ("--preset demo", "preset", "demo"),
        ("--seeds 0 1 2", "seeds", (0, 1, 2)),
        ("--seeds 4", "seeds", (4,)),
        ("--only a=1 b=2", "only", ("a=1", "b=2")),
        ("--gpus-per-trial 0.25", "gpus_per_trial", 0.25),
        ("--gpus-per-trial 1", "gpus_per_trial", 1.0),
        ("--gpus-per-trial auto", "gpus_per_trial", "auto"),
        ("--address auto", "address", "auto"),
        ("--threads 4", "threads", 4),
        ("--redo none", "redo", "none"),
        ("--checkpoint-every-minutes 1", "checkpoint_every_minutes", 1.0),
        ("--max-failures 0", "max_failures", 0),
        ("--preemption-command ./ask", "preemption_command", "./ask"),
        ("--keep-stages unfinished", "keep_stages", "unfinished"),
        ("--recipe corrected", "recipe", "corrected"),
        ("--budget-hours 2", "budget_hours", 2.0),
        ("--price 0.35", "price", 0.35),
        ("--probe-seconds 0", "probe_seconds", 0.0),
        ("--log-to mlflow wandb", "log_to", ("mlflow", "wandb")),
        ("--precision auto", "precision", "auto"),
        ("--compile auto", "compile", "auto"),
    ],
)
def test_a_setting_gets_its_type(read: Parse, line: str, name: str, value: Any) -> None:
    assert read(line).settings == Settings(**{name: value})
    assert type(getattr(read(line).settings, name)) is type(value)


def test_options_are_named_after_fields() -> None:
    names = [option(item.name) for item in dataclasses.fields(Settings)]
    for section, kind in SECTIONS.items():
        names += ["--data"] if section == "data" else []
        names += [option(f"{section}.{name}") for name in options_of(kind)]
    assert sorted(names) == sorted(OPTIONS.split())


def test_help_mentions_every_option(read: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code == 0
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]  # tyro frames where it can
    assert {line.split()[0] for line in lines if re.match("--[a-z]", line)} == set(OPTIONS.split())
    text = " ".join(lines)
    assert "A study." in text
    assert "--pretrain.batch-size INT [INT ...]" in text and "--pretrain.epochs INT" in text
    assert re.search(r"\(paper: 384, demo:\s+32\)", text)


def test_an_option_without_its_value(read: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read("--pretrain.epochs")
    assert caught.value.code == 2
    assert "--pretrain.epochs" in capsys.readouterr().err


TOML = """
results = "/from/file"
seeds = [3, 4]
local = true
[data]
name = "brain_mri"
root = "/data"
label_fraction = [0.1]
[pretrain]
batch-size = 8
epochs = 7
"""


def test_the_file_gives_what_the_arguments_leave_open(read: Parse) -> None:
    given = read("", TOML)
    assert given.settings == Settings(results="/from/file", seeds=(3, 4), local=True)
    assert given.fields == {
        "data.name": "brain_mri",
        "data.root": "/data",
        "data.label_fraction": (0.1,),
        "pretrain.batch_size": (8,),
        "pretrain.epochs": 7,
    }
    assert given.source == "cass_tune.toml"


def test_arguments_go_before_the_file(read: Parse) -> None:
    given = read("--seeds 0 --pretrain.batch-size 4 16 --results here --data phantom", TOML)
    assert given.settings == Settings(results="here", seeds=(0,), local=True)
    assert given.fields["pretrain.batch_size"] == (4, 16)
    assert (given.fields["data.name"], given.fields["pretrain.epochs"]) == ("phantom", 7)
    assert given.source == "the command line"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("epochs = 3", ["unknown key 'epochs'"]),
        ("[pretrain]\nepoch = 3", ["unknown key 'pretrain.epoch'", "Did you mean 'pretrain.epochs'"]),
        ("[training]\nepochs = 3", ["unknown key 'training.epochs'"]),
        ('data = "brain_mri"', ["unknown key 'data'", "'data.name'"]),
        ('[pretrain]\nepochs = "many"', ["--pretrain.epochs takes INT", "'many'"]),
        ("[pretrain]\nepochs = [1]", ["--pretrain.epochs takes INT", "[1]"]),
        ("[pretrain]\nepochs = 1.0", ["--pretrain.epochs takes INT", "1.0"]),
        ("[pretrain]\nepochs = true", ["--pretrain.epochs takes INT", "True"]),
        ("[pretrain.epochs]\nx = 1", ["--pretrain.epochs takes INT"]),
        ("[data]\nname = {a = 1}", ["--data.name takes TEXT"]),
        ('dry_run = "yes"', ["--dry-run takes true|false", "'yes'"]),
        ("local = 1", ["--local takes true|false"]),
        ('seeds = "0 1"', ["--seeds takes INT [INT ...]"]),
        ('preset = "big"', ["--preset takes demo|paper", "'big'"]),
        ("a = [", ["cannot be read"]),
        (b"a = '\xff'", ["cannot be read"]),
    ],
)
def test_a_bad_file(problems: Problems, toml: str | bytes, words: list[str]) -> None:
    (text,) = problems("", toml)
    assert "cass_tune.toml" in text
    assert all(word in text for word in words), text


def test_a_file_that_is_a_folder(problems: Problems, tmp_path: Path) -> None:
    (tmp_path / "cass_tune.toml").mkdir()
    (text,) = problems()
    assert "cass_tune.toml cannot be read" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--pretrain.epoch 3", ["Unknown option --pretrain.epoch.", "'--pretrain.epochs'", "--help"]),
        ("--pretrain.batchsize=3", ["Unknown option --pretrain.batchsize.", "'--pretrain.batch-size'"]),
        ("--dat brain_mri", ["Unknown option --dat.", "'--data'"]),
        ("--no-local", ["Unknown option --no-local."]),
        ("brain_mri", ["Unexpected words: brain_mri."]),
        ("--local true", ["Unexpected words: true."]),
        ("--pretrain.epochs 1 2", ["Unexpected words: 2."]),
        ("--pretrain.epochs many", ["--pretrain.epochs takes INT, but got 'many'", "the command line"]),
        ("--pretrain.epochs 1e2", ["takes INT"]),
        ("--pretrain.batch-size 8,16", ["--pretrain.batch-size takes INT [INT ...]", "'8,16'"]),
        ("--data.label-fraction 10%", ["takes FLOAT", "'10%'"]),
        ("--preset big", ["--preset takes demo|paper, but got 'big'"]),
        ("--redo some", ["--redo takes failed|all|none"]),
        ("--gpus-per-trial some", ["--gpus-per-trial takes FLOAT|auto"]),
        ("--gpus-per-trial 1.5", ["--gpus-per-trial", "1.5", "at most 1", "A trial uses one GPU or a part of one."]),
        ("--gpus-per-trial 0.001", ["--gpus-per-trial", "0.001", "a fraction of at least 0.01"]),
        ("--gpus-per-trial 3", ["--gpus-per-trial", "3", "A trial uses one GPU"]),
        ("--gpus-per-trial 0", ["--gpus-per-trial", "0", "give --device cpu"]),
        ("--gpus-per-trial -1", ["--gpus-per-trial", "-1"]),
        ("--gpus-per-trial nan", ["--gpus-per-trial", "nan"]),
        ("--gpus-per-trial inf", ["--gpus-per-trial", "inf"]),
        ("--cpus-per-trial 0", ["--cpus-per-trial must be at least 1, but got 0."]),
        ("--threads 0", ["--threads must be at least 1, but got 0."]),
        ("--workers -1", ["--workers must be at least 0, but got -1."]),
        ("--max-failures -1", ["--max-failures must be at least 0, but got -1."]),
        ("--checkpoint-every-minutes 0", ["--checkpoint-every-minutes must be more than 0, but got 0."]),
        ("--checkpoint-every-minutes nan", ["--checkpoint-every-minutes", "nan"]),
        ("--checkpoint-every-minutes inf", ["--checkpoint-every-minutes", "inf"]),
        ("--budget-hours 0", ["--budget-hours must be a finite number above 0, but got 0."]),
        ("--budget-hours nan", ["--budget-hours", "nan"]),
        ("--price -3", ["--price must be a finite number above 0, but got -3."]),
        ("--price inf", ["--price", "inf"]),
        ("--price cheap", ["--price takes FLOAT, but got 'cheap'"]),
        ("--probe-seconds -1", ["--probe-seconds must be a finite number of at least 0, but got -1."]),
        ("--probe-seconds nan", ["--probe-seconds", "nan"]),
        ("--seeds -1", ["--seeds must be whole numbers of at least 0, but got -1."]),
        ("--seeds", ["--seeds", "none"]),
        ("--seeds 0 1 0", ["--seeds must differ from one another, but got 0 1 0."]),
        ("--seeds 0 --seeds 1", ["--seeds is given 2 times"]),
        ("--pretrain.epochs 1 --pretrain.epochs=2", ["--pretrain.epochs is given 2 times"]),
        ("--pretrain.batch-size 8 --pretrain.batch_size 16", ["--pretrain.batch-size is given 2 times", "a list"]),
        ("--data brain_mri --data.name phantom", ["--data.name is given 2 times"]),
        ("--local --address auto", ["--local", "--address"]),
        ("--local --log-to mlflow", ["--local runs without Ray, which logs to mlflow"]),
        ("--log-to mlflow mlflow", ["--log-to must differ from one another, but got mlflow mlflow."]),
        ("--log-to comet", ["--log-to takes mlflow|wandb"]),
    ],
)
def test_a_bad_line(problems: Problems, line: str, words: list[str]) -> None:
    (text,) = problems(line)
    assert all(word in text for word in words), text


def test_everything_wrong_is_said_at_once(problems: Problems) -> None:
    line = "--pretrain.epoch 3 --preset big --threads 0 --finetune.epochs -3 --pretrain.batch-size 4 1 --seeds 0 0"
    toml = '[pretrain]\nmethods = "cass"\nepochs = "x"\n[data]\nlabel_fraction = 2'
    found = problems(line, toml)
    expected = [
        "cass_tune.toml: unknown key 'pretrain.methods'",
        "Unknown option --pretrain.epoch.",
        "--pretrain.epochs takes INT, but got 'x' (cass_tune.toml)",
        "--preset takes demo|paper, but got 'big' (the command line)",
        "--threads must be at least 1, but got 0",
        "--seeds must differ",
        "--data.label-fraction must be above 0 and at most 1 (0.1 is 10 %), but got 2.0",
        "--finetune.epochs must be at least 1, but got -3",
        "--pretrain.batch-size must be at least 2, but got 1",
    ]
    assert len(found) == len(expected)
    for words in expected:
        assert sum(text.startswith(words) for text in found) == 1, (words, found)


def test_local_on_the_command_line_makes_the_files_cluster_void(read: Parse) -> None:
    file = 'address = "auto"\ngpus_per_trial = 0.5\ncpus_per_trial = 4\n'
    assert read("--local", file).settings == Settings(local=True)
    assert read("--address auto", "local = true\n").settings == Settings(address="auto")
    with pytest.raises(UsageError, match="--gpus-per-trial and --cpus-per-trial"):
        read("--local --gpus-per-trial 0.5")


def test_the_command_that_asks_for_the_same_trials(read: Parse) -> None:
    given = read(
        "--data.name csv --pretrain.batch-size 8 16 --seeds 0 1 --threads 2",
        'results = "r"\nrecipe = "corrected"\n[data]\nroot = "/a folder"\n',
    )
    line = command_line("batch_ablation", "paper", given)
    assert line.startswith("python -m studies.batch_ablation --preset paper ")
    again = parse(shlex.split(line)[3:], prog="", description="", axes=AXES, folder=Path("/nowhere"))
    assert again.fields == given.fields
    assert (again.settings.recipe, again.settings.seeds) == ("corrected", (0, 1))
    assert "--threads" not in line and "--results" not in line


def test_help_shows_the_studys_own_values(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    axes = {"pretrain.epochs": (50, 100, 200), "pretrain.batch_size": (8, 16, 32)}
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], prog="study", description="", axes=axes, folder=tmp_path)
    text = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert caught.value.code == 0
    assert "(this study: 50 100 200, demo: 5 10 20)" in text
    assert "(this study: 8 16 32)" in text


def test_negative_numbers_are_values_not_options(read: Parse) -> None:
    given = read("--pretrain.learning-rate -1e-3 --pretrain.batch-size -8 4")
    assert given.fields == {"pretrain.learning_rate": -1e-3, "pretrain.batch_size": (-8, 4)}


def test_settings_refuse_by_themselves() -> None:
    with pytest.raises(UsageError) as caught:
        Settings(threads=0, workers=-1, gpus_per_trial=1.5, seeds=(), local=True, address="auto")
    assert len(caught.value.problems) == 6


class TestProbes:
    def test_default_and_order(self, read: Parse) -> None:
        assert read().settings.chosen_probes == ("linear", "knn")
        assert read("--probes knn linear").settings.chosen_probes == ("linear", "knn")
        assert read("--probes none").settings.chosen_probes == ()
        assert read(toml='probes = "knn"').settings.chosen_probes == ("knn",)

    @pytest.mark.parametrize("words", ["knn none", "knn knn"])
    def test_contradictions(self, problems: Problems, words: str) -> None:
        (text,) = problems(f"--probes {words}")
        assert text == f"--probes takes linear, knn or both, each once, or none alone, but got {words}."

    def test_unknown(self, problems: Problems) -> None:
        (text,) = problems("--probes svm")
        assert text.startswith("--probes takes linear|knn|none") and "svm" in text

    def test_every(self, problems: Problems) -> None:
        assert problems("--probe-every -1") == ("--probe-every must be at least 0, but got -1.",)


@pytest.mark.parametrize(
    "line", ["--pretrain.schedule wsd --pretrain.warmup-epochs 1", "--recipe corrected --pretrain.warmup-epochs 2"]
)
def test_fields_that_go_together_are_judged_together(problems: Problems, line: str) -> None:
    (unknown,) = problems(f"{line} --typo 3")
    assert "--typo" in unknown


def test_every_value_of_an_axis_is_judged_beside_the_others() -> None:
    values = {"data.name": "folder", "pretrain.schedule": "wsd", "pretrain.warmup_epochs": 30}
    assert options._broken_rules({**values, "pretrain.epochs": (50, 100)}) == []
    (rule,) = options._broken_rules({**values, "pretrain.epochs": (50, 20)})
    assert rule.startswith("--pretrain.warmup-epochs must be less than") and "got 30" in rule
