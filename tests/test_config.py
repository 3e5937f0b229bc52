"""The fields of a trial: their rules, their texts, and their way through JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cass_tune.config import (
    METHODS,
    SECTIONS,
    Change,
    Data,
    Dino,
    Finetune,
    Pretrain,
    Section,
    Trial,
    control,
    flag,
    from_json,
    get_field,
    plain,
    to_json,
    with_field,
)
from cass_tune.errors import UsageError

FIELDS = [(section, item.name) for section, kind in SECTIONS.items() for item in dataclasses.fields(kind)]  # type: ignore[arg-type]
SHARE = "above 0 and at most 1"
INNER_SHARE = "above 0 and below 1"
POSITIVE = "a finite number above 0"
NOT_NEGATIVE = "a finite number of at least 0"
WHOLE_SHARE = "at least 0 and at most 1"
RATES = ("learning_rate", "vit_learning_rate")
TEMPERATURES = ("teacher_temperature", "teacher_temperature_start", "student_temperature")
OF_BOTH: list[tuple[str, Any, str]] = [
    ("warmup_epochs", -1, "at least 0"),
    ("warmup_epochs", 0.5, "a whole number"),
    ("warmup_epochs", 1, "must be 0 with --"),
    ("optimiser", "sgd", "'adam', 'adamw'"),
    *(("weight_decay", value, "at least 0") for value in (-0.1, math.nan, math.inf)),
    ("weight_decay", 0.05, "must be 0 with --"),
    *(("clip_norm", value, "at least 0") for value in (-1.0, math.nan, math.inf)),
    ("precision", "auto", "'fp32', 'tf32', 'bf16', 'fp16'"),
    ("compile", "on", "True or False"),
]
"""Rules that pretraining and finetuning share."""
BROKEN: list[tuple[str, Any, str]] = [
    ("data.name", "", "must not be empty"),
    ("data.on_bad_image", "ignore", "'error', 'skip'"),
    ("data.image_size_px", 7, "at least 8"),
    ("data.image_size_px", 32.0, "a whole number"),
    ("data.image_size_px", True, "a whole number"),
    *(("data.label_fraction", value, SHARE) for value in (0.0, -0.1, 1.01, math.nan, math.inf, True)),
    *(("data.pretrain_fraction", value, SHARE) for value in (0.0, 2, math.nan)),
    *(("data.validation_fraction", value, INNER_SHARE) for value in (0.0, 1.0, 1, math.nan)),
    *(("data.test_fraction", value, INNER_SHARE) for value in (0.0, 1.0, -0.2)),
    *(("data.augmentation_strength", value, NOT_NEGATIVE) for value in (-0.1, math.nan, math.inf)),
    ("data.augmentation_strength", 4.1, "at most 4"),
    ("data.split_seed", -1, "at least 0"),
    ("data.folds", -1, "at least 0"),
    ("data.folds", 1, "0 (none) or at least 2"),
    ("data.fold", 0, "at least 1"),
    ("data.fold", 2, "--data.fold 2 needs --data.folds"),
    ("data.leaks", "mend", "'keep', 'drop'"),
    ("data.normalisation", "none", "'imagenet', 'model'"),
    ("data.pipeline", "fast", "'torchvision-1', 'opencv-1', 'device-1'"),
    ("pretrain.method", "byol", "'cass', 'dino', 'supervised', 'none'"),
    *(("pretrain.method", value, "module:Class") for value in ("", ":", "a:", ":B", "a-b:C", "a:B:C", "a.:B", 3)),
    ("pretrain.cnn", "", "must name a timm model"),
    ("pretrain.vit", "", "must name a timm model"),
    ("pretrain.embedding_dim", 1, "at least 2"),
    ("pretrain.epochs", 0, "at least 1"),
    ("pretrain.epochs", "3", "a whole number"),
    ("pretrain.batch_size", 1, "at least 2"),
    *((f"pretrain.{name}", value, NOT_NEGATIVE) for name in RATES for value in (-1e-3, math.nan, math.inf)),
    *(("pretrain.min_learning_rate", value, POSITIVE) for value in (0.0, -1e-6, math.nan)),
    ("pretrain.schedule_t_max_steps", 0, "at least 1"),
    ("pretrain.schedule", "linear", "'cosine', 'wsd', 'cosine_to_end'"),
    *(("pretrain.decay_fraction", value, INNER_SHARE) for value in (0.0, 1.0, 1, math.nan)),
    *((f"pretrain.{name}", value, allowed) for name, value, allowed in OF_BOTH),
    *(("pretrain.weight_decay_end", value, "at least 0") for value in (-0.1, math.nan, math.inf)),
    ("pretrain.weight_decay_end", 0.4, "needs --pretrain.weight-decay above 0"),
    *(("pretrain.variance_weight", value, NOT_NEGATIVE) for value in (-1, math.nan, math.inf)),
    ("pretrain.predictor", 1, "True or False"),
    ("finetune.epochs", 0, "at least 1"),
    ("finetune.batch_size", 1, "at least 2"),
    ("finetune.evaluation_batch_size", 0, "at least 1"),
    *((f"finetune.{name}", value, POSITIVE) for name in RATES for value in (0.0, -1e-3, math.nan, math.inf)),
    *(("finetune.min_learning_rate", value, POSITIVE) for value in (0.0, math.nan)),
    ("finetune.schedule_t_max_steps", 0, "at least 1"),
    ("finetune.schedule", "wsd", "'cosine', 'cosine_to_end'"),
    *((f"finetune.{name}", value, allowed) for name, value, allowed in OF_BOTH),
    *(("finetune.patience", value, allowed) for value, allowed in ((-1, "at least 0"), (1.0, "a whole number"))),
    *(("finetune.focal_gamma", value, "at least 0") for value in (-0.1, math.nan, math.inf)),
    ("finetune.class_weights", "sqrt", "'balanced', 'none'"),
    ("finetune.select_by", "accuracy", "'micro_f1_at_half', 'macro_f1'"),
    ("dino.outputs", 1, "at least 2"),
    ("dino.local_crops", -1, "at least 0"),
    ("dino.local_crop_px", 7, "at least 8"),
    *((f"dino.{name}", value, WHOLE_SHARE) for name in ("momentum", "momentum_end") for value in (-0.1, 1.1, math.nan)),
    *(("dino.centre_momentum", value, "at least 0 and below 1") for value in (-0.1, 1.0, math.nan)),
    *((f"dino.{name}", value, POSITIVE) for name in TEMPERATURES for value in (0.0, -0.1, math.nan)),
    *((f"dino.{name}", -1, "at least 0") for name in ("teacher_warmup_epochs", "frozen_epochs")),
    ("seed", -1, "at least 0"),
    ("seed", 1.0, "whole numbers"),
    ("seed", True, "whole numbers"),
]
WITHOUT_RULE = {
    "data.root",
    "data.table",
    "data.path_column",
    "data.label_column",
    "data.label_columns",
    "data.split_column",
    "data.group_column",
    "pretrain.weights",
    "pretrain.cnn_weights",
    "pretrain.vit_weights",
    "finetune.changes",  # has tests of its own
}
"""Free texts, whose meaning the data and the files decide."""


@pytest.mark.parametrize(("path", "value", "allowed"), BROKEN)
def test_a_broken_rule_names_flag_value_and_what_is_allowed(path: str, value: Any, allowed: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_field(Trial(), path, value)
    (text,) = caught.value.problems
    assert f"--{path.replace('_', '-')} " in text or (path == "seed" and text.startswith("--seeds "))
    assert allowed in text
    assert str(value) in text


def test_every_field_has_a_rule_or_is_a_free_text() -> None:
    ruled = {path for path, _, _ in BROKEN}
    assert ruled | WITHOUT_RULE == {f"{section}.{name}" for section, name in FIELDS} | {"seed"}
    assert not ruled & WITHOUT_RULE


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.image_size_px", 8),
        ("data.label_fraction", 1.0),
        ("data.label_fraction", 1e-9),
        ("data.validation_fraction", 0.999),
        ("data.split_seed", 0),
        ("pretrain.batch_size", 2),
        ("pretrain.embedding_dim", 2),
        ("pretrain.learning_rate", 0.0),
        ("pretrain.vit_learning_rate", 0.0),
        ("dino.momentum", 0.0),
        ("dino.momentum", 1.0),
        ("dino.local_crops", 0),
        ("finetune.epochs", 1),
        ("finetune.focal_gamma", 0.0),
        ("seed", 0),
    ],
)
def test_the_bounds_themselves_are_allowed(path: str, value: Any) -> None:
    assert get_field(with_field(Trial(), path, value), path) == value


BOTH = pytest.mark.parametrize("kind", [Pretrain, Finetune])
Training = type[Pretrain] | type[Finetune]


@BOTH
def test_a_warm_up_needs_a_schedule_that_has_one(kind: Training) -> None:
    section = kind.__name__.lower()
    with pytest.raises(UsageError) as caught:
        kind(warmup_epochs=2)
    assert str(caught.value) == (
        f"--{section}.warmup-epochs must be 0 with --{section}.schedule cosine, but got 2: the published schedule has "
        f"no warm-up. Give --{section}.warmup-epochs 0, or --{section}.schedule cosine_to_end."
    )
    assert kind(schedule="cosine_to_end", warmup_epochs=2).warmup_epochs == 2


@BOTH
@pytest.mark.parametrize(("epochs", "warmup", "is_allowed"), [(1, 0, True), (1, 1, False), (3, 2, True), (3, 4, False)])
def test_a_warm_up_is_a_part_of_the_epochs(kind: Training, epochs: int, warmup: int, is_allowed: bool) -> None:
    for schedule in ("cosine_to_end", "wsd") if kind is Pretrain else ("cosine_to_end",):
        fields: dict[str, Any] = {"schedule": schedule, "epochs": epochs, "warmup_epochs": warmup}
        if is_allowed:
            assert kind(**fields).warmup_epochs == warmup
            continue
        with pytest.raises(
            UsageError, match=rf"less than --{kind.__name__.lower()}\.epochs \({epochs}\).*got {warmup}"
        ):
            kind(**fields)


def test_a_decay_leaves_an_epoch_for_the_warm_up() -> None:
    """Otherwise the decay would begin at the first step's rate, which is nearly 0."""
    with pytest.raises(UsageError, match=r"--pretrain\.decay-fraction must leave an epoch .* 0\.8 of .* 2"):
        Pretrain(schedule="wsd", epochs=2, warmup_epochs=1, decay_fraction=0.8)
    assert Pretrain(schedule="wsd", epochs=2, warmup_epochs=0, decay_fraction=0.8).trunk_epochs == 0
    with pytest.raises(UsageError, match=r"^--pretrain\.warmup-epochs must be less than .*$"):
        Pretrain(schedule="wsd", epochs=1, warmup_epochs=1)


@BOTH
def test_weight_decay_needs_adamw(kind: Training) -> None:
    section = kind.__name__.lower()
    with pytest.raises(UsageError) as caught:
        kind(weight_decay=0.05)
    assert str(caught.value) == (
        f"--{section}.weight-decay must be 0 with --{section}.optimiser adam, the published optimiser, which has none, "
        f"but got 0.05. Give --{section}.weight-decay 0, or --{section}.optimiser adamw."
    )
    assert kind(optimiser="adamw", weight_decay=0.05).weight_decay == 0.05


def test_weight_decay_leads_from_somewhere() -> None:
    pretrain = Pretrain(optimiser="adamw", weight_decay=0.04, weight_decay_end=0)
    assert (pretrain.weight_decay, pretrain.weight_decay_end) == (0.04, 0.0)
    with pytest.raises(UsageError, match=r"^--pretrain\.weight-decay-end 0\.4 needs --pretrain\.weight-decay above 0"):
        Pretrain(optimiser="adamw", weight_decay_end=0.4)


@pytest.mark.parametrize(
    ("name", "hint"), [("dnio", "'dino'"), ("supervise", "'supervised'"), ("CASS", ""), ("Non", "'none'")]
)
def test_a_method_that_there_is_not(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        Pretrain(method=name, predictor=True)
    (text,) = caught.value.problems
    assert text.startswith("--pretrain.method must be one of ") and "module:Class" in text and repr(name) in text
    assert f"Did you mean {hint}" in text if hint else "Did you mean" not in text


@pytest.mark.parametrize("method", ["dino", "supervised"])
def test_parts_of_cass_are_no_parts_of_other_methods(method: str) -> None:
    with pytest.raises(UsageError) as caught:
        Pretrain(method=method, variance_weight=1, predictor=True)
    assert caught.value.problems == (
        f"--pretrain.variance-weight is a part of --pretrain.method cass, not of {method}.",
        f"--pretrain.predictor is a part of --pretrain.method cass, not of {method}.",
    )
    for other in ("cass", "none", "my.module:Mine"):
        assert Pretrain(method=other, variance_weight=1, predictor=True).predictor


@pytest.mark.parametrize("value", ["3", 0, True])
def test_a_broken_number_of_epochs_is_said_once(value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Pretrain(schedule="wsd", epochs=value, warmup_epochs=1)
    (text,) = caught.value.problems
    assert text.startswith("--pretrain.epochs ")


@pytest.mark.parametrize(
    ("epochs", "fraction", "decay"),
    [(1, 0.2, 1), (2, 0.2, 1), (5, 0.2, 1), (8, 0.2, 2), (50, 0.2, 10), (100, 0.2, 20), (200, 0.2, 40), (10, 0.96, 10)],
)
def test_epochs_of_trunk_and_decay(epochs: int, fraction: float, decay: int) -> None:
    pretrain = Pretrain(schedule="wsd", epochs=epochs, decay_fraction=fraction)
    assert (pretrain.decay_epochs, pretrain.trunk_epochs) == (decay, epochs - decay)


def test_every_broken_rule_of_a_section_is_said_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Pretrain(epochs=0, batch_size=1, learning_rate=-1.0, cnn="", method="x")  # type: ignore[arg-type]
    problems = caught.value.problems
    assert len(problems) == 5
    for name in ("epochs", "batch-size", "learning-rate", "cnn", "method"):
        assert sum(f"--pretrain.{name} " in text for text in problems) == 1
    assert str(caught.value) == "\n".join(problems)


REAL = [(section, name) for section, name in FIELDS if get_type_hints(SECTIONS[section])[name] is float]


@pytest.mark.parametrize(("section", "name"), REAL)
def test_a_whole_number_for_a_real_one_becomes_real(section: str, name: str) -> None:
    kind = SECTIONS[section]
    if name in (
        "validation_fraction",
        "test_fraction",
        "decay_fraction",
        "centre_momentum",
    ):  # below 1, so no whole number fits
        with pytest.raises(UsageError, match=r"1\.0"):
            kind(**{name: 1})
        return
    needs = {"optimiser": "adamw"} if name == "weight_decay" else {}
    value = getattr(kind(**needs, **{name: 1}), name)
    assert (value, type(value)) == (1.0, float)


@BOTH
def test_a_whole_number_for_a_real_one_that_may_be_missing_becomes_real(kind: Training) -> None:
    value = kind(vit_learning_rate=1).vit_learning_rate
    assert (value, type(value)) == (1.0, float)
    assert kind().vit_learning_rate is None


def test_a_trial_cannot_be_changed() -> None:
    trial = Trial()
    for owner, name in ((trial, "seed"), (trial.data, "name"), (trial.pretrain, "epochs"), (trial.finetune, "epochs")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(owner, name, 1)


@pytest.mark.parametrize("kind", [*SECTIONS.values(), Trial])
def test_fields_are_given_by_name(kind: Any) -> None:
    with pytest.raises(TypeError):
        kind("phantom")


@pytest.mark.parametrize("kind", [*SECTIONS.values(), Change, Trial])
def test_every_field_has_a_sentence(kind: Any) -> None:
    texts = {p.arg_name: p.description for p in docstring_parser.parse_from_object(kind).params}
    for item in dataclasses.fields(kind):
        if item.name in SECTIONS:
            continue  # described by its own docstring
        text = texts.get(item.name)
        assert text and text.rstrip().endswith("."), f"{kind.__name__}.{item.name}: {text!r}"


def test_every_field_of_a_section_has_a_plain_type() -> None:
    for kind in SECTIONS.values():
        for name, hint in get_type_hints(kind).items():
            plain = hint in (bool, int, float, str, str | None, float | None, int | None) or name == "changes"
            assert plain or get_origin(hint) is Literal, f"{kind.__name__}.{name}"


CHANGES = (Change(epoch=2, learning_rate=1e-4), Change(epoch=5, learning_rate=1, vit_learning_rate=1e-5, clip_norm=1))


def test_values_of_a_finetuning_change_from_an_epoch_on() -> None:
    finetune = Finetune(epochs=8, learning_rate=1e-3, vit_learning_rate=1e-6, changes=CHANGES)
    assert finetune.in_force(0) == finetune.in_force(1) == dataclasses.replace(finetune, changes=())
    rates = [(now.learning_rate, now.vit_learning_rate) for now in map(finetune.in_force, (1, 2, 4, 5, 7))]
    assert rates == [(1e-3, 1e-6), (1e-4, None), (1e-4, None), (1.0, 1e-5), (1.0, 1e-5)]
    assert finetune.in_force(5).clip_norm == 1.0 and type(CHANGES[1].learning_rate) is float
    assert [len(finetune.shorter(epochs).changes) for epochs in (1, 2, 3, 5, 6)] == [0, 0, 1, 1, 2]
    assert plain(()) == "none" and plain(CHANGES[:1]) == str(CHANGES[0])
    assert str(CHANGES[0]) == "after epoch 2: learning_rate=0.0001 weight_decay=0 clip_norm=0"


def test_changes_go_through_json() -> None:
    trial = with_field(with_field(Trial(), "finetune.epochs", 8), "finetune.changes", CHANGES)
    record = to_json(trial)
    assert json.loads(json.dumps(record)) == record
    assert from_json(json.dumps(record)) == trial and hash(trial) == hash(from_json(json.dumps(record)))
    assert Finetune(**record["finetune"]) == trial.finetune
    for wrong in ({"learning_rate": "1"}, {"epoch": 1.0}, {"patience": 1}):
        record["finetune"]["changes"][0] = {**dataclasses.asdict(CHANGES[0]), **wrong}
        with pytest.raises(UsageError, match="finetune"):
            from_json(json.dumps(record))


def _changed(*epochs: Any, **values: Any) -> Finetune:
    changes = tuple(Change(**{"epoch": epoch, "learning_rate": 1e-4, **values}) for epoch in epochs)
    return Finetune(epochs=8, changes=changes)


@pytest.mark.parametrize(
    ("make", "texts"),
    [
        (lambda: _changed(0), ["--finetune.changes must begin after whole numbers of epochs", "but got 0."]),
        (lambda: _changed(8), ["from 1 to less than --finetune.epochs 8, but got 8."]),
        (lambda: _changed(3, 2), ["each above the one before", "but got 3, 2."]),
        (lambda: _changed(2, 2), ["but got 2, 2."]),
        (lambda: _changed(1.0), ["but got 1.0."]),
        (lambda: _changed(True), ["but got True."]),
        (
            lambda: dataclasses.replace(_changed(3), schedule="cosine_to_end"),
            ["--finetune.changes needs --finetune.schedule cosine, which does not depend", "got cosine_to_end and 0."],
        ),
        (lambda: dataclasses.replace(_changed(3), patience=2), ["and --finetune.patience 0, but got cosine and 2."]),
        (
            lambda: _changed(1, 4, learning_rate=-1.0),
            ["after epoch 4: --finetune.learning-rate must be a finite number above 0, but got -1.0"],
        ),
        (
            lambda: Finetune(optimiser="adamw", weight_decay=0.1, changes=(Change(epoch=1, learning_rate=1e-4),)),
            ["after epoch 1: --finetune.weight-decay must stay 0 or stay above 0", "got 0.0, and 0.1 at the start"],
        ),
        (lambda: _changed(1, weight_decay=0.1), ["after epoch 1: --finetune.weight-decay must be 0 with --finetune."]),
        (lambda: _changed(1, clip_norm=math.nan), ["after epoch 1: --finetune.clip-norm must be a finite number"]),
    ],
)
def test_changes_that_break_a_rule(make: Any, texts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert all(text in str(caught.value) for text in texts), str(caught.value)


def test_choices_of_the_types_and_of_the_rules_agree() -> None:
    for kind in SECTIONS.values():
        for name, hint in get_type_hints(kind).items():
            for choice in get_args(hint) if get_origin(hint) is Literal else ():
                assert getattr(kind(**{name: choice}), name) == choice


def test_the_defaults_are_the_papers() -> None:
    trial = Trial()
    assert (trial.pretrain.epochs, trial.pretrain.batch_size, trial.pretrain.learning_rate) == (100, 16, 1e-3)
    assert (trial.finetune.epochs, trial.finetune.batch_size, trial.finetune.learning_rate) == (50, 16, 3e-4)
    assert (trial.pretrain.schedule_t_max_steps, trial.pretrain.embedding_dim, trial.data.image_size_px) == (
        16,
        1000,
        384,
    )


def test_flag() -> None:
    assert flag(Pretrain, "batch_size") == "--pretrain.batch-size"


def test_weights_of_an_arm() -> None:
    pretrain = Pretrain(weights="timm", vit_weights="random")
    assert (pretrain.weights_of("cnn"), pretrain.weights_of("vit")) == ("timm", "random")


def test_get_field_and_with_field() -> None:
    trial = Trial()
    other = with_field(trial, "pretrain.batch_size", 8)
    assert get_field(other, "pretrain.batch_size") == 8
    assert get_field(trial, "pretrain.batch_size") == 16, "the parent stays"
    assert with_field(other, "pretrain.batch_size", 16) == trial
    assert get_field(with_field(trial, "seed", 3), "seed") == 3
    for path in ("pretrain.batchsize", "training.epochs", "speed"):
        with pytest.raises((AttributeError, TypeError)):
            with_field(trial, path, 1)


def test_control_differs_in_the_method_alone() -> None:
    trial = Trial(pretrain=Pretrain(epochs=7), seed=4)
    changed = control(trial)
    assert changed.pretrain.method == "none"
    assert with_field(changed, "pretrain.method", "cass") == trial
    assert control(changed) == changed


def _values(hint: Any, name: str) -> st.SearchStrategy[Any]:
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if name == "method":
        return st.sampled_from((*METHODS, "my.module:Mine"))
    if hint is bool:
        return st.booleans()
    if hint in (int, int | None):
        return st.integers(8, 10**9) | (st.none() if hint == int | None else st.nothing())
    if hint is float:
        return st.floats(0, 1, exclude_min=True, exclude_max=True) | (
            st.nothing()
            if any(word in name for word in ("fraction", "momentum", "strength"))
            else st.floats(1, 1e6) | st.integers(1, 9)
        )
    if hint == float | None:
        return st.none() | st.floats(0, 1, exclude_min=True)
    text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
    return text if hint is str else st.none() | text


_CHANGES = st.lists(st.integers(1, 7), unique=True, max_size=3).map(
    lambda epochs: tuple(Change(epoch=epoch, learning_rate=1 / epoch) for epoch in sorted(epochs))
)


def _section(kind: type[Section]) -> st.SearchStrategy[Any]:
    values = {name: _values(hint, name) for name, hint in get_type_hints(kind).items() if name != "changes"}
    if kind is Finetune:
        values["changes"] = _CHANGES
    return st.fixed_dictionaries(values).map(_compatible).map(lambda chosen: kind(**chosen))


def _compatible(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a section, changed where two of them may not stand together."""
    changed: dict[str, Any] = (
        {"schedule": "cosine", "patience": 0, "weight_decay": 0.0} if values.get("changes") else {}
    )
    values = {**values, **changed}
    if values.get("schedule") == "cosine":
        changed["warmup_epochs"] = 0
    elif "schedule" in values:
        changed["warmup_epochs"] = values["warmup_epochs"] % (values["epochs"] // 2)
    if "decay_fraction" in values:
        changed["decay_fraction"] = min(values["decay_fraction"], 0.5)
    if "folds" in values:
        changed["fold"] = min(values["folds"], values["fold"])
    if values.get("optimiser") == "adam":
        changed["weight_decay"] = 0.0
    if "weight_decay_end" in values and values["optimiser"] == "adam":
        changed["weight_decay_end"] = None
    if values.get("method") in ("dino", "supervised"):
        changed.update(variance_weight=0.0, predictor=False)
    return {**values, **changed}


TRIALS = st.builds(
    Trial,
    data=_section(Data),
    pretrain=_section(Pretrain),
    finetune=_section(Finetune),
    dino=_section(Dino),
    seed=st.integers(0, 2**40),
)


@settings(max_examples=50, deadline=None)
@given(TRIALS)
def test_a_trial_survives_json(trial: Trial) -> None:
    text = json.dumps(to_json(trial), allow_nan=False)
    assert from_json(text) == trial
    assert from_json(text.encode()) == trial
    assert json.dumps(to_json(from_json(text))) == text


def test_json_leaves_nothing_out() -> None:
    record = to_json(Trial())
    assert set(record) == {*SECTIONS, "seed"}
    for section, kind in SECTIONS.items():
        assert list(record[section]) == [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"pretrain": {"epoch": 3}}, ["pretrain.epoch"]),
        ({"sed": 0}, ["sed"]),
        ({"pretrain": {"epochs": "3"}}, ["pretrain.epochs", "valid integer"]),
        ({"pretrain": {"epochs": 3.0}}, ["pretrain.epochs", "valid integer"]),
        ({"data": {"label_fraction": "0.1"}}, ["data.label_fraction", "valid number"]),
        ({"data": {"name": 3}}, ["data.name", "valid string"]),
        ({"data": None}, ["data"]),
        ({"seed": True}, ["seed"]),
        ({"pretrain": {"method": "byol"}}, ["method", "cass"]),
        ({"data": {"label_fraction": math.nan}}, ["--data.label-fraction", "nan"]),
        ({"finetune": {"learning_rate": -1}}, ["--finetune.learning-rate", "-1"]),
        ({"seed": -1}, ["--seeds", "-1"]),
        ([], []),
    ],
)
def test_reading_json_is_strict(record: Any, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        from_json(json.dumps(record))
    assert all(word in str(caught.value) for word in words)


def test_text_that_is_no_json() -> None:
    with pytest.raises(UsageError, match="JSON"):
        from_json('{"data": ')


def test_every_problem_of_a_json_is_said_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        from_json('{"data": {"label": "x"}, "pretrain": {"epochs": "3"}, "seed": "0"}')
    assert len(caught.value.problems) == 3


def test_an_older_json_without_a_later_field_reads_as_its_default() -> None:
    record = to_json(Trial(seed=5))
    del record["dino"], record["pretrain"]["predictor"]
    del record["finetune"]["select_by"], record["finetune"]["vit_learning_rate"], record["data"]["normalisation"]
    assert from_json(json.dumps(record)) == Trial(seed=5)
