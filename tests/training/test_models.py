"""Starting weights: exactly those asked for, or an error that says what to do; never others in silence."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cass_tune.config import ARMS
from cass_tune.errors import UsageError
from cass_tune.training.models import build_arm, check_name, model_arguments, normalisation, replace_head, save_arm
from cass_tune.weights import weights_identity
from tests import tiny

State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and nothing fetched earlier."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def published() -> dict[str, State]:
    """Stand-ins for published weights, heads of 1000 included; BatchNorm's buffers are not at their start either."""
    states = {}
    for arm, name in (("cnn", tiny.CNN), ("vit", tiny.VIT)):
        torch.manual_seed(5)
        state = timm.create_model(name, **model_arguments(name, tiny.SIZE_PX)).state_dict()
        states[arm] = {key: torch.randn_like(v) if v.is_floating_point() else v + 3 for key, v in state.items()}
    return states


def build(arm: str, fields: dict[str, Any]) -> State:
    return build_arm(tiny.trial({"pretrain.embedding_dim": 1000, **fields}), arm).state_dict()


def problem(arm: str, fields: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as caught:
        build(arm, fields)
    (text,) = caught.value.problems
    return text


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("width", [64, 1000])
def test_random_weights_are_a_function_of_seed_and_arm(arm: str, width: int) -> None:
    fields = {"pretrain.embedding_dim": width}
    torch.manual_seed(1)
    first = build(arm, fields)
    torch.manual_seed(2)
    torch.rand(7)
    build("cnn", {"seed": 3})
    assert tiny.same(first, build(arm, fields))
    other = build(arm, {**fields, "seed": 1})
    assert not any(torch.equal(first[key], other[key]) for key in first if key.endswith(("head.weight", "fc.weight")))
    assert not tiny.same(first, other)


def test_arms_of_one_model_start_differently() -> None:
    both = {"pretrain.vit": tiny.CNN}
    assert not tiny.same(build("cnn", both), build("vit", both))


def write(form: str, folder: Path, states: dict[str, State]) -> dict[str, Any]:
    """Write the weights in one of the forms that are read, and return the fields that name them."""
    if form == "folder":
        for arm, state in states.items():
            save_file(state, folder / f"{arm}.safetensors")
        return {"pretrain.weights": str(folder)}
    if form in ("prefixed.safetensors", "prefixed.pth"):
        prefixed = {f"{arm}.{key}": value for arm, state in states.items() for key, value in state.items()}
        path = folder / form
        save_file(prefixed, path) if path.suffix == ".safetensors" else torch.save(prefixed, path)
        return {"pretrain.weights": str(path)}
    for arm, state in states.items():
        path = folder / f"own-{arm}{form}"
        save_file(state, path) if form == ".safetensors" else torch.save(state, path)
    return {f"pretrain.{arm}_weights": str(folder / f"own-{arm}{form}") for arm in states}


@pytest.mark.parametrize("form", ["folder", "prefixed.safetensors", "prefixed.pth", ".safetensors", ".pth"])
def test_local_files_load_exactly(form: str, tmp_path: Path, published: dict[str, State]) -> None:
    fields = write(form, tmp_path, published)
    for arm in ARMS:
        assert tiny.same(build(arm, fields), published[arm]), arm
    identities = weights_identity(tiny.trial(fields).pretrain)
    assert all(identity.startswith("sha256:") for identity in identities.values())


@pytest.mark.parametrize("arm", ARMS)
def test_head_of_another_width_is_replaced_by_a_function_of_the_seed(
    arm: str, tmp_path: Path, published: dict[str, State], caplog: pytest.LogCaptureFixture
) -> None:
    fields = {**write("folder", tmp_path, published), "pretrain.embedding_dim": 64}
    caplog.set_level(logging.INFO, logger="cass_tune")
    found = build(arm, fields)
    head = {"cnn": "fc", "vit": "head"}[arm]
    assert found[f"{head}.weight"].shape[0] == 64
    assert "head of width 1000 replaced by a new one of width 64" in caplog.text
    body = {key for key in found if not key.startswith(f"{head}.")}
    assert all(torch.equal(found[key], published[arm][key]) for key in body)
    torch.manual_seed(99)
    assert tiny.same(found, build(arm, fields))
    assert not torch.equal(found[f"{head}.weight"], build(arm, {**fields, "seed": 1})[f"{head}.weight"])


def test_head_of_the_right_width_is_kept_in_silence(
    tmp_path: Path, published: dict[str, State], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cass_tune")
    build("cnn", write("folder", tmp_path, published))
    assert "replaced" not in caplog.text


def test_file_of_another_model(tmp_path: Path, published: dict[str, State]) -> None:
    path = tmp_path / "vit.safetensors"
    save_file(published["vit"], path)
    text = problem("cnn", {"pretrain.cnn_weights": str(path)})
    assert f"--pretrain.cnn {tiny.CNN} with weights {path}" in text
    assert "Give weights of this very model" in text


@pytest.mark.parametrize("missing", ["conv1.0.weight", "bn1.running_mean", "fc.bias"])
def test_file_with_a_missing_tensor(missing: str, tmp_path: Path, published: dict[str, State]) -> None:
    path = tmp_path / "cnn.pth"
    assert missing in published["cnn"]
    torch.save({key: value for key, value in published["cnn"].items() if key != missing}, path)
    assert missing in problem("cnn", {"pretrain.cnn_weights": str(path)})


def test_file_with_a_tensor_of_another_shape(tmp_path: Path, published: dict[str, State]) -> None:
    path = tmp_path / "cnn.pth"
    torch.save({**published["cnn"], "conv1.0.weight": torch.zeros(5, 3, 3, 3)}, path)
    assert "conv1.0.weight" in problem("cnn", {"pretrain.cnn_weights": str(path)})


def test_a_pickled_model_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "cnn.pth"
    torch.save(tiny.arms()["cnn"], path)
    assert "Give weights of this very model" in problem("cnn", {"pretrain.cnn_weights": str(path)})


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "cnn.pth").write_bytes(b"not weights")
    assert "cannot be made" in problem("cnn", {"pretrain.weights": str(tmp_path)})
    assert "expected a file or folder" in problem("cnn", {"pretrain.weights": str(tmp_path / "nothing")})
    assert "expected a folder with vit.safetensors" in problem("vit", {"pretrain.weights": str(tmp_path)})


def test_unknown_model_is_answered_with_suggestions() -> None:
    text = problem("cnn", {"pretrain.cnn": "resnet5O.a1_in1k"})
    assert "'resnet5O.a1_in1k' is not a timm model" in text and "'resnet50'" in text


@pytest.mark.parametrize("name", ["test_resnet", "test_resnet.wrong"])
def test_timm_weights_need_the_full_tag(name: str) -> None:
    """An untagged name has meant different weights over timm's history (D27)."""
    text = problem("cnn", {"pretrain.cnn": name, "pretrain.weights": "timm"})
    assert "must name timm's full tag" in text and tiny.CNN in text


def test_random_weights_need_no_tag() -> None:
    check_name("test_resnet", "cnn", needs_weights=False)
    assert tiny.same(build("cnn", {"pretrain.cnn": "test_resnet"}), build("cnn", {}))


@pytest.mark.parametrize("arm", ARMS)
def test_weights_that_cannot_be_fetched_are_an_error_never_random(arm: str) -> None:
    name = {"cnn": tiny.CNN, "vit": tiny.VIT}[arm]
    text = problem(arm, {"pretrain.weights": "timm"})
    assert f"timm.create_model('{name}', pretrained=True)" in text
    assert "--pretrain.weights random" in text


@pytest.mark.parametrize("size_px", [8, 33])
def test_image_size_that_the_transformer_cannot_take(size_px: int) -> None:
    text = problem("vit", {"data.image_size_px": size_px, "pretrain.weights": "random"})
    assert f"at {size_px} px cannot be made" in text and "divisible by patch size" in text
    assert "another --data.image-size-px" in text


@pytest.mark.parametrize("arm", ARMS)
def test_new_head_is_a_function_of_its_seed_and_nothing_else_changes(arm: str) -> None:
    model: Any = tiny.arms()[arm]
    before = tiny.state(model)
    heads = []
    for seed in (7, 7, 8):
        torch.rand(3)
        replace_head(model, 4, seed)
        heads.append(tiny.state(model.get_classifier()))
    assert heads[0]["weight"].shape[0] == 4
    assert tiny.same(heads[0], heads[1])
    assert not torch.equal(heads[0]["weight"], heads[2]["weight"])
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if not key.startswith(("fc.", "head.")))


HALVES, PUBLISHED = ((0.5, 0.5, 0.5),) * 2, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("imagenet", tiny.CNN, PUBLISHED),
        ("model", tiny.CNN, HALVES),
        ("imagenet", "test_efficientnet.r160_in1k", PUBLISHED),
        ("model", "test_efficientnet.r160_in1k", PUBLISHED),
    ],
)
def test_normalisation_is_imagenets_or_that_of_the_models_own_configuration(
    kind: str, name: str, expected: tuple[tuple[float, ...], ...], tmp_path: Path
) -> None:
    """Also with a new head, and in the file of a trained arm; other models of the process keep theirs."""
    model = build_arm(tiny.trial({"data.normalisation": kind, "pretrain.cnn": name}), "cnn")
    replace_head(model, 2, 0)
    found = normalisation(model)
    assert (found.mean, found.std) == expected
    save_arm(model, tmp_path / "arm.safetensors", name=name, image_size_px=tiny.SIZE_PX)
    with safe_open(tmp_path / "arm.safetensors", "pt") as file:
        metadata = file.metadata()
    assert tuple(tuple(json.loads(metadata[key])) for key in ("mean", "std")) == expected
    assert normalisation(timm.create_model(tiny.CNN)).mean == (0.5, 0.5, 0.5)


def test_normalisation_is_no_part_of_the_network(tmp_path: Path) -> None:
    assert tiny.same(build("vit", {"data.normalisation": "model"}), build("vit", {}))
    path = tmp_path / "vit.safetensors"
    save_file(build("vit", {}), path)
    model = build_arm(tiny.trial({"data.normalisation": "model", "pretrain.vit_weights": str(path)}), "vit")
    assert normalisation(model).mean == (0.5, 0.5, 0.5), "starting weights of a file change nothing"


@pytest.mark.parametrize("arm", ARMS)
def test_saved_arm_is_rebuilt_by_timm_from_its_metadata(arm: str, tmp_path: Path) -> None:
    model, path = tiny.arms()[arm], tmp_path / "arm.safetensors"
    name = {"cnn": tiny.CNN, "vit": tiny.VIT}[arm]
    replace_head(model, 2, 0)
    save_arm(model, path, name=name, image_size_px=tiny.SIZE_PX, classes=("no", "yes"))
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    rebuilt = timm.create_model(metadata["name"], checkpoint_path=str(path), **json.loads(metadata["arguments"]))
    size = int(metadata["image_size_px"])
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(rebuilt.eval()(images), model.eval()(images))
    assert json.loads(metadata["classes"]) == ["no", "yes"]
    assert json.loads(metadata["mean"]) == [0.485, 0.456, 0.406]
    assert json.loads(metadata["std"]) == [0.229, 0.224, 0.225]
    assert tiny.same(load_file(path), model.state_dict())
    assert [file.name for file in tmp_path.iterdir()] == ["arm.safetensors"]
