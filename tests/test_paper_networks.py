"""The paper's own networks, for real, through a whole trial: ResNet-50 and ViT-B/16 at 384 px on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from cass_tune.config import Data, Finetune, Pretrain, Trial
from cass_tune.data.catalog import list_images
from cass_tune.data.phantom import phantom_listing
from cass_tune.results import Results
from cass_tune.trial import RunOptions, read_inputs, run_trial, trial_digest
from tests.small import local

CNN, VIT = "resnet50.a1_in1k", "vit_base_patch16_384.augreg_in21k_ft_in1k"
COUNTS = {"train": 1, "val": 1, "test": 1}  # per class, four classes


def write_images(root: Path) -> None:
    """Write the first phantom images as PNG files into split folders."""
    listing = phantom_listing()
    for label in listing.classes:
        items = [item for item in listing.items if item.label == label]
        for part, count in COUNTS.items():
            folder = root / part / label
            folder.mkdir(parents=True)
            for _ in range(count):
                item = items.pop()
                listing.open_image(item).save(folder / f"{item.path.replace('/', '-')}.png")


def write_weights(folder: Path) -> None:
    """Write files as one gets them from elsewhere: a state dict of each network, here with random values."""
    folder.mkdir()
    torch.manual_seed(1)
    for arm, name in (("cnn", CNN), ("vit", VIT)):
        save_file(timm.create_model(name, pretrained=False).state_dict(), folder / f"{arm}.safetensors")


@pytest.mark.slow
def test_two_pretraining_steps_and_a_finetuning_step_of_each_arm(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    write_weights(tmp_path / "weights")
    trial = Trial(
        data=Data(name="folder", root=str(tmp_path / "images"), image_size_px=384),
        pretrain=Pretrain(cnn=CNN, vit=VIT, weights=str(tmp_path / "weights"), batch_size=2, epochs=1),
        finetune=Finetune(epochs=1, batch_size=8),
    )
    listing = list_images(trial.data)
    assert {part: sum(n.values()) for part, n in listing.counts().items()} == {"train": 4, "val": 4, "test": 4}
    results = Results(tmp_path / "results")
    rows = list(run_trial(trial, results, RunOptions(probes=())))
    assert [row["phase"] for row in rows] == ["pretrain", "finetune_cnn", "finetune_vit"]
    assert rows[0]["loss"] == pytest.approx(2.0, abs=1.5)
    folder = results.trial(trial_digest(trial, read_inputs(trial, listing)))
    result = folder.result()
    assert result is not None
    assert result["images"] == {"pretrain": 4, "labelled": 4, "validation": 4, "test": 4}
    assert [result["arms"][arm]["test"]["n"] for arm in ("cnn", "vit")] == [4, 4]
    assert result["arms"]["cnn"]["parameters"] == 23_516_228  # ResNet-50 with a head of four classes
    assert result["arms"]["vit"]["parameters"] == 86_093_572
    for arm, name in (("cnn", "layer4.0.conv1.weight"), ("vit", "blocks.11.attn.qkv.weight")):
        started = load_file(tmp_path / "weights" / f"{arm}.safetensors")[name]
        change = (load_file(local(folder.weights(arm)))[name] - started).abs().max()
        assert 0 < change < 0.01  # three steps of Adam from these weights, not others
