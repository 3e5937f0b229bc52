"""Identities are promises: they are frozen here, and follow from the fields that can change a number, and no other."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from cass_tune import identity
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
    get_field,
    with_field,
)
from cass_tune.errors import UsageError
from cass_tune.identity import Inputs, digest, matters, segments, trial_digest
from cass_tune.presets import RECIPES
from cass_tune.weights import weights_identity

INPUTS = Inputs(data="0" * 64, cnn="random", vit="random")
TIMM = Inputs(data="0" * 64, cnn="timm:resnet50.a1_in1k", vit="timm:vit_base_patch16_384.augreg_in21k_ft_in1k")
SMALL = Trial(
    data=Data(image_size_px=32, label_fraction=0.1),
    pretrain=Pretrain(cnn="test_resnet.r160_in1k", vit="test_vit.r160_in1k", weights="random", epochs=10),
    finetune=Finetune(epochs=25),
    seed=1,
)
ALL_OTHER = Trial(
    data=Data(
        name="csv",
        root="/images",
        image_size_px=48,
        label_fraction=0.01,
        pretrain_fraction=0.5,
        validation_fraction=0.25,
        test_fraction=0.3,
        split_seed=7,
    ),
    pretrain=Pretrain(
        embedding_dim=64,
        epochs=3,
        batch_size=4,
        learning_rate=1e-4,
        min_learning_rate=1e-5,
        schedule_t_max_steps=100,
    ),
    finetune=Finetune(
        epochs=2,
        batch_size=8,
        learning_rate=1e-5,
        min_learning_rate=1e-7,
        schedule_t_max_steps=50,
        focal_gamma=0,
        class_weights="none",
        select_by="macro_f1",
    ),
    seed=123,
)
GOLDEN: list[tuple[Trial, Inputs, str, str | None]] = [
    (Trial(), TIMM, "c472e7fa3337", "3ba05dae8fe1"),
    (Trial(), INPUTS, "470da42f7dbb", "61994d3fefae"),
    (Trial(seed=1), TIMM, "cedbb04ac308", "30f430a929db"),
    (with_field(Trial(), "pretrain.batch_size", 8), TIMM, "6086b77fd456", "73c9c6a5c8d5"),
    (with_field(Trial(), "pretrain.epochs", 50), TIMM, "da7ccb4b0c7c", "3ba05dae8fe1"),
    (with_field(Trial(), "data.label_fraction", 0.01), TIMM, "9d57b2b55b40", "3ba05dae8fe1"),
    (control(Trial()), TIMM, "2d783a3df4eb", None),
    (SMALL, INPUTS, "1ac73711769d", "321ca704362e"),
    (ALL_OTHER, TIMM, "844cd41e9d77", "58100eaea650"),
    (ALL_OTHER, Inputs(data="f" * 64, cnn="sha256:" + "1" * 64, vit="random"), "adffdc8fb57b", "caf95a1b961a"),
]
"""Trial, what it reads, the first digits of its identity and of its pretraining's. Never change a line: results that
people have on disk are found by it. Change numbers on purpose by raising RESULTS_VERSION, and then freeze anew."""

PATHS = [f"{section}.{item.name}" for section, kind in SECTIONS.items() for item in dataclasses.fields(kind)]  # type: ignore[arg-type]
VARIED = [path for path in PATHS if path != "pretrain.method"]
OF_CASS = ("pretrain.variance_weight", "pretrain.predictor")
"""Every field but the one that makes a control, which has tests of its own."""
NOT_HASHED = {
    "data.name",  # the fingerprint stands for the images
    "data.root",
    "data.table",
    "data.path_column",
    "data.label_column",
    "data.label_columns",
    "data.split_column",
    "data.group_column",
    "data.on_bad_image",
    "pretrain.weights",  # what was read stands for it, in Inputs
    "pretrain.cnn_weights",
    "pretrain.vit_weights",
}
NOT_OF_THE_STAGE = NOT_HASHED | {"data.label_fraction", "pretrain.epochs"}
NOT_OF_A_CONTROL = NOT_HASHED | {
    "data.pretrain_fraction",
    "pretrain.embedding_dim",
    "pretrain.epochs",
    "pretrain.batch_size",
    "pretrain.learning_rate",
    "pretrain.min_learning_rate",
    "pretrain.schedule_t_max_steps",
    "pretrain.vit_learning_rate",
    "pretrain.schedule",
    "pretrain.warmup_epochs",
    "pretrain.decay_fraction",
    "pretrain.optimiser",
    "pretrain.weight_decay",
    "pretrain.clip_norm",
    "pretrain.weight_decay_end",
    "pretrain.precision",
    "pretrain.compile",
    *OF_CASS,
    *(path for path in PATHS if path.startswith("dino.")),
}
NEEDS = {
    "folds": {"folds": 2},
    "fold": {"folds": 3},
    "warmup_epochs": {"schedule": "cosine_to_end"},
    "weight_decay": {"optimiser": "adamw"},
    "weight_decay_end": {"optimiser": "adamw", "weight_decay": 0.1},
}
"""What other fields must be, so that this one may have more than one value."""
OF_DINO = Trial(
    data=SMALL.data,
    pretrain=replace(SMALL.pretrain, method="dino"),
    dino=Dino(outputs=64, local_crop_px=16, momentum_end=0.996),
)
BY_NAME = {
    "default": Trial(),
    "small": SMALL,
    "all other": ALL_OTHER,
    "dino": OF_DINO,
    "supervised": with_field(SMALL, "pretrain.method", "supervised"),
}
BASES = pytest.mark.parametrize("base", BY_NAME.values(), ids=list(BY_NAME))
CASES = [
    pytest.param(base, path, id=f"{path}-{name}")
    for name, base in BY_NAME.items()
    for path in VARIED
    if path not in OF_CASS or base.pretrain.method == "cass"
]
"""Every trial with every field that may have more than one value in it."""


def is_hashed(trial: Trial, path: str) -> bool:
    """Return whether a field is part of the identity of a trial that has a pretraining."""
    return path not in NOT_HASHED and (not path.startswith("dino.") or trial.pretrain.method == "dino")


def stage(trial: Trial, inputs: Inputs) -> str:
    """Return the stage in which a trial's pretraining ends."""
    return segments(trial, inputs)[-1].stage


def fitting(trial: Trial, path: str) -> Trial:
    """Return the trial, changed where the field could have one value only."""
    section, _, name = path.partition(".")
    return with_section(trial, section, NEEDS.get(name, {}))


def with_section(trial: Trial, section: str, values: Mapping[str, Any]) -> Trial:
    """Return the trial with other values in a section."""
    return replace(trial, **{section: replace(getattr(trial, section), **values)})


def other_value(trial: Trial, path: str) -> Any:
    """Return an allowed value that the field does not have."""
    section, _, name = path.partition(".")
    hint, value = get_type_hints(SECTIONS[section])[name], get_field(trial, path)
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice != value)
    if hint is bool:
        return not value
    if hint == tuple[Change, ...]:
        return (Change(epoch=1, learning_rate=0.5),)
    if hint in (int, int | None):
        return 32 if value is None else value + 1
    if hint == float | None:
        return 0.5 if value is None else None
    return value * 0.5 + 0.01 if hint is float else f"{value}x"


@pytest.mark.parametrize(("trial", "inputs", "trial_id", "stage_id"), GOLDEN)
def test_identities_never_change(trial: Trial, inputs: Inputs, trial_id: str, stage_id: str | None) -> None:
    assert trial_digest(trial, inputs)[:12] == trial_id
    if stage_id is not None:  # a control has no pretraining
        assert stage(trial, inputs)[:12] == stage_id


def test_the_frozen_trials_differ() -> None:
    assert len({trial_id for _, _, trial_id, _ in GOLDEN}) == 10
    stages = [stage_id for _, _, _, stage_id in GOLDEN if stage_id]
    assert stages[0] == stages[4] == stages[5], "epochs and labels are no part of a pretraining"
    assert len(set(stages)) == len(stages) - 2


def corrected(trial: Trial) -> Trial:
    """Return a trial of the recipe `corrected`."""
    for path, value in RECIPES["corrected"].items():
        trial = with_field(trial, path, value)
    return trial


CORRECTED: list[tuple[Trial, Inputs, str, list[str]]] = [
    (corrected(Trial()), TIMM, "6b45c340a8e8", ["d811e6178302", "bd26d39d5bf3"]),
    (corrected(with_field(Trial(), "pretrain.epochs", 50)), TIMM, "aece96c10768", ["d811e6178302", "bb95b77fbc17"]),
    (corrected(with_field(SMALL, "pretrain.epochs", 2)), INPUTS, "9ea54cfea41f", ["4f4029095bab", "084568cacf7c"]),
    (corrected(control(Trial())), TIMM, "fba3f1c665cd", []),
]
"""Of the recipe `corrected`: trial, what it reads, the first digits of its identity and of those of its stages."""


@pytest.mark.parametrize(("trial", "inputs", "trial_id", "stage_ids"), CORRECTED)
def test_identities_of_the_corrected_recipe_never_change(
    trial: Trial, inputs: Inputs, trial_id: str, stage_ids: list[str]
) -> None:
    assert trial_digest(trial, inputs)[:12] == trial_id
    assert [segment.stage[:12] for segment in segments(trial, inputs)] == stage_ids


def test_later_fields_stand_for_the_behaviour_before_them() -> None:
    """So that what was written without them, and found by an identity without them, is the same trial."""
    later = {
        f"{section}.{item.name}": item
        for section, kind in SECTIONS.items()
        for item in dataclasses.fields(kind)  # type: ignore[arg-type]
        if "neutral" in item.metadata
    }
    assert {"data.normalisation", "pretrain.schedule", "finetune.patience"} < set(later)
    assert all(item.metadata["neutral"] == item.default for item in later.values())


def test_every_value_of_a_change_is_part_of_the_identity() -> None:
    first = Change(epoch=1, learning_rate=0.5)
    others = [
        replace(first, **values)
        for values in ({"epoch": 2}, *({name: 0.25} for name in ("learning_rate", "vit_learning_rate", "clip_norm")))
    ]
    trials = [with_field(Trial(), "finetune.changes", changes) for changes in ((), (first,), *((c,) for c in others))]
    assert len({trial_digest(trial, INPUTS) for trial in trials}) == len(others) + 2


def test_the_canonical_json_is_hashed() -> None:
    expected = hashlib.sha256(b'{"a":[1,2.0,"\\u00e9"],"b":null}').hexdigest()
    assert digest({"b": None, "a": [1, 2.0, "é"]}) == expected
    with pytest.raises(ValueError):
        digest({"a": float("nan")})


def is_idle(trial: Trial, path: str) -> bool:
    """Return whether the schedule of the pretraining does not read the field."""
    idle = {
        "pretrain.schedule_t_max_steps": ("wsd", "cosine_to_end"),
        "pretrain.decay_fraction": ("cosine", "cosine_to_end"),
    }
    return trial.pretrain.schedule in idle.get(path, ())


@pytest.mark.parametrize(
    ("path", "value", "shared"),
    [
        ("pretrain.min_learning_rate", 1e-5, [True, False]),
        ("pretrain.schedule_t_max_steps", 32, [True, True]),
        ("pretrain.learning_rate", 0.5, [False, False]),
    ],
)
def test_a_trunk_is_shared_whatever_its_steps_do_not_depend_on(path: str, value: object, shared: list[bool]) -> None:
    base = corrected(Trial())
    changed = with_field(base, path, value)
    assert trial_digest(changed, INPUTS) != trial_digest(base, INPUTS)
    pairs = zip(segments(base, INPUTS), segments(changed, INPUTS), strict=True)
    assert [one == other for one, other in pairs] == shared


@pytest.mark.parametrize(("base", "path"), CASES)
def test_a_field_changes_the_identity_exactly_when_it_is_part_of_it(base: Trial, path: str) -> None:
    base = fitting(base, path)
    changed = with_field(base, path, other_value(base, path))
    assert changed != base
    assert (trial_digest(changed, INPUTS) != trial_digest(base, INPUTS)) == is_hashed(base, path)
    is_of_stage = is_hashed(base, path) and path not in NOT_OF_THE_STAGE and not path.startswith("finetune.")
    is_of_stage = is_of_stage and not is_idle(base, path)
    if base.pretrain.method != "none" != changed.pretrain.method:
        assert (stage(changed, INPUTS) != stage(base, INPUTS)) == is_of_stage


def test_what_is_not_hashed_says_so_at_the_field() -> None:
    declared = {
        f"{section}.{item.name}"
        for section, kind in SECTIONS.items()
        for item in dataclasses.fields(kind)  # type: ignore[arg-type]
        if item.metadata.get("identity") is False
    }
    assert declared == NOT_HASHED - {"data.name"}


@BASES
def test_seed_version_and_inputs_are_part_of_both_identities(base: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (trial_digest, *([stage] if base.pretrain.method != "none" else [])):
        before = function(base, INPUTS)
        assert function(with_field(base, "seed", base.seed + 1), INPUTS) != before
        for change in ({"data": "1" * 64}, {"cnn": "timm:x"}, {"vit": "timm:x"}):
            assert function(base, replace(INPUTS, **change)) != before
        with monkeypatch.context() as patch:
            patch.setattr(identity, "RESULTS_VERSION", identity.RESULTS_VERSION + 1)
            assert function(base, INPUTS) != before


def test_the_arms_weights_are_not_interchangeable() -> None:
    one, other = Inputs(data="", cnn="a", vit="b"), Inputs(data="", cnn="b", vit="a")
    assert trial_digest(Trial(), one) != trial_digest(Trial(), other)


@pytest.mark.parametrize(("base", "path"), CASES)
def test_a_controls_identity_ignores_what_cannot_matter_to_it(base: Trial, path: str) -> None:
    base = fitting(base, path)
    changed = with_field(base, path, other_value(base, path))
    differs = trial_digest(control(changed), INPUTS) != trial_digest(control(base), INPUTS)
    assert differs == (path not in NOT_OF_A_CONTROL)


@BASES
def test_a_control_is_another_trial(base: Trial) -> None:
    assert trial_digest(control(base), INPUTS) != trial_digest(base, INPUTS)


@pytest.mark.parametrize(("base", "path"), [case for case in CASES if case.values[1] not in NOT_HASHED])
@pytest.mark.parametrize("kind", ["trial", "control"])
def test_what_matters_is_what_is_hashed(base: Trial, path: str, kind: str) -> None:
    base = fitting(base, path)
    trial = control(base) if kind == "control" else base
    changed = with_field(trial, path, other_value(trial, path))
    assert matters(trial, path) == (trial_digest(changed, INPUTS) != trial_digest(trial, INPUTS))


@pytest.mark.parametrize("path", OF_CASS)
def test_variants_of_cass_matter_to_it_and_perhaps_to_your_own_method(path: str) -> None:
    """Other methods refuse them (`tests/test_config.py`)."""
    matter = {m: matters(with_field(SMALL, "pretrain.method", m), path) for m in (*METHODS, "my.module:Mine")}
    assert matter == {"cass": True, "dino": False, "supervised": False, "none": False, "my.module:Mine": True}


@pytest.mark.parametrize("path", ["seed", "pretrain.method"])
def test_seed_and_method_matter_to_every_trial(path: str) -> None:
    assert matters(Trial(), path) and matters(control(Trial()), path)


@pytest.mark.parametrize(
    "path",
    [
        "data.label_fraction",
        "data.pretrain_fraction",
        *(f"{section}.{name}learning_rate" for section in ("pretrain", "finetune") for name in ("", "min_")),
        "finetune.focal_gamma",
    ],
)
def test_a_whole_number_gives_the_identity_of_the_real_one(path: str) -> None:
    whole, real = with_field(Trial(), path, 1), with_field(Trial(), path, 1.0)
    assert trial_digest(whole, INPUTS) == trial_digest(real, INPUTS)
    assert stage(whole, INPUTS) == stage(real, INPUTS)


@dataclass(frozen=True, kw_only=True)
class _Later(Section):
    old: float = 1.0
    place: str = field(default="here", metadata={"identity": False})
    new: float = field(default=0.5, metadata={"neutral": 0.0})


def test_a_later_field_is_left_out_while_it_is_neutral_not_while_it_is_default() -> None:
    assert identity._hashed_fields(_Later(new=0.0)) == {"old": 1.0}
    assert identity._hashed_fields(_Later(new=0, place="there")) == {"old": 1.0}
    assert identity._hashed_fields(_Later()) == {"old": 1.0, "new": 0.5}


def test_weights_by_timms_name() -> None:
    found = weights_identity(Pretrain(weights="timm", cnn="resnet50.a1_in1k"))
    assert found == {"cnn": "timm:resnet50.a1_in1k", "vit": "timm:vit_base_patch16_384.augreg_in21k_ft_in1k"}


def test_random_weights_of_one_arm() -> None:
    assert weights_identity(Pretrain(weights="random", vit_weights="timm", vit="v.tag")) == {
        "cnn": "random",
        "vit": "timm:v.tag",
    }


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_weights_of_a_folder_and_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "cnn.safetensors").write_bytes(b"c")
    (tmp_path / "vit.pth").write_bytes(b"v")
    own = {"cnn": _sha256(b"c"), "vit": _sha256(b"v")}
    assert weights_identity(Pretrain(weights=str(tmp_path))) == own
    both = tmp_path / "cnn.safetensors"
    assert weights_identity(Pretrain(weights=str(both))) == {"cnn": own["cnn"], "vit": own["cnn"]}
    assert weights_identity(Pretrain(weights="random", vit_weights=str(both))) == {"cnn": "random", "vit": own["cnn"]}


def test_equal_files_in_other_places_are_equal_weights(tmp_path: Path) -> None:
    places = [tmp_path / "one.safetensors", tmp_path / "two.pt"]
    for place in places:
        place.write_bytes(b"same")
    one, two = (weights_identity(Pretrain(weights=str(place))) for place in places)
    assert one == two


def test_missing_weights_name_both_arms(tmp_path: Path) -> None:
    for place, expected in ((tmp_path, "a folder with"), (tmp_path / "gone", "a file or folder")):
        with pytest.raises(UsageError) as caught:
            weights_identity(Pretrain(weights=str(place)))
        cnn, vit = caught.value.problems
        for text, arm in ((cnn, "cnn"), (vit, "vit")):
            assert str(place) in text and f"no weights of the {arm}" in text and f"--pretrain.{arm}-weights" in text
            assert expected in text and "random" in text


def test_a_folder_with_one_arm_names_the_other(tmp_path: Path) -> None:
    (tmp_path / "cnn.safetensors").write_bytes(b"c")
    with pytest.raises(UsageError) as caught:
        weights_identity(Pretrain(weights=str(tmp_path)))
    (text,) = caught.value.problems
    assert "vit.safetensors" in text
