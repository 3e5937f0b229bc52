from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from analysis import published
from analysis.frames import records
from analysis.results import load
from cass_tune.errors import UsageError
from tests.analysis.synthetic import BRAIN_MRI, BRAIN_MRI_SUBSET, LARGE, PHANTOM, RANDOM, SMALL, TIMM, Root, replace

PAPER = {"dataset": "brain_mri", "method": "CASS", "origin": "paper"}


def cell(folder: Path, trial: Any, counts: Any = BRAIN_MRI, weights: Any = TIMM) -> dict[str, Any]:
    root = Root(folder, counts, weights)
    root.plan([trial])
    return records(load(root.study))[0]


def best(found: dict[str, Any]) -> list[published.Match]:
    rows = published.select({**PAPER, "arm": "cnn", "pretrain_batch_size": 16, "pretrain_epochs": 100})
    return published.match(found, rows)


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        ({**PAPER, "arm": "cnn", "pretrain_batch_size": 16, "pretrain_epochs": 100}, 0.9909),
        ({**PAPER, "arm": "vit", "pretrain_batch_size": 32}, 0.9176),
        ({**PAPER, "metric": "pretrain_hours"}, 7.18),
        ({"origin": "reproduction S1", "arm": "cnn", "pretrain_batch_size": 12}, 0.5561),
        ({"origin": "reproduction S0", "arm": "cnn", "pretrain_epochs": 20}, 0.5440),
        ({"dataset": "isic2019", "certainty": "void"}, 1.0),
        ({"dataset": "autoimmune", "model": "nfnet_f3"}, 0.8898),
        ({"dataset": "average of 4 datasets", "label_fraction": 0.1}, 5.9),
        ({"origin": "authors' log", "metric": "micro_f1_at_half"}, 0.9122),
        ({"method": "CLIP"}, 0.5761),
    ],
)
def test_known_values(wanted: dict[str, object], value: float) -> None:
    assert [row["value"] for row in published.select(wanted)] == [value]


def test_every_row_has_a_value_a_source_and_a_certainty() -> None:
    rows = published.read()
    assert len(rows) == 84
    assert all(row["source"] and row["value"] is not None for row in rows)
    assert {row["certainty"] for row in rows} == {"primary", "secondary", "derived", "void"}
    assert {row["arm"] for row in rows} == {"cnn", "vit", "both", "unspecified"}
    assert Counter(row["origin"] for row in rows)["reproduction S1"] == 14
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows if row["low"] is not None)


def test_what_could_not_be_seen_is_empty() -> None:
    for row in published.select({"origin": "paper"}):
        assert row["finetune_epochs"] is row["low"] is row["high"] is None


def test_select() -> None:
    assert published.select({}) == []
    both = published.select({**PAPER, "pretrain_epochs": (50, 200)})
    assert {row["pretrain_epochs"] for row in both} == {50, 200}
    with pytest.raises(UsageError, match="Did you mean 'dataset'"):
        published.select({"datset": "brain_mri"})


def test_the_papers_setting_is_comparable(tmp_path: Path) -> None:
    (found,) = best(cell(tmp_path, LARGE))
    assert found.is_comparable and found.row["value"] == 0.9909
    assert found.not_stated == ("finetuning epochs",)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data_image_size_px": 224}, "image size in px"),
        ({"data_label_fraction": 0.1}, "label fraction"),
        ({"pretrain_epochs": 50}, "pretraining epochs"),
        ({"pretrain_batch_size": 8}, "pretraining batch size"),
        ({"pretrain_cnn": "resnet18.a1_in1k"}, "network"),
        ({"data_name": "folder"}, "data"),
    ],
)
def test_one_difference_is_enough(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    (found,) = best(cell(tmp_path, replace(LARGE, **changes)))
    assert [difference.what for difference in found.differences] == [what]


def test_a_tag_of_the_same_network_is_comparable(tmp_path: Path) -> None:
    (found,) = best(cell(tmp_path, replace(LARGE, pretrain_cnn="resnet50.tv2_in1k")))
    assert found.is_comparable


def test_a_subset_is_not_comparable_and_says_why(tmp_path: Path) -> None:
    (found,) = best(cell(tmp_path, LARGE, BRAIN_MRI_SUBSET))
    assert [(d.what, d.here, d.there) for d in found.differences] == [
        ("training images", "1600", "5712"),
        ("test images", "400", "1311"),
    ]


def test_random_weights_and_a_control_are_not_comparable(tmp_path: Path) -> None:
    (found,) = best(cell(tmp_path / "a", LARGE, weights=RANDOM))
    assert [(d.what, d.here, d.there) for d in found.differences] == [("starting weights", "random", "imagenet")]
    (found,) = best(cell(tmp_path / "b", replace(LARGE, pretrain_method="none")))
    assert ("method", "supervised", "CASS") in [(d.what, d.here, d.there) for d in found.differences]


def test_finetuning_epochs_count_where_both_are_known(tmp_path: Path) -> None:
    rows = published.select({"origin": "reproduction S1", "arm": "cnn", "pretrain_batch_size": 8})
    (found,) = published.match(cell(tmp_path, replace(LARGE, pretrain_batch_size=8, finetune_epochs=20)), rows)
    assert [difference.what for difference in found.differences] == ["finetuning epochs"]


def test_a_phantom_differs_in_nearly_everything(tmp_path: Path) -> None:
    (found,) = best(cell(tmp_path, SMALL, PHANTOM, RANDOM))
    assert {"data", "training images", "network", "starting weights"} <= {d.what for d in found.differences}


def test_all_rows_are_matched_by_default(tmp_path: Path) -> None:
    assert len(published.match(cell(tmp_path, LARGE))) == len(published.read())


@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        ("timm:resnet50.a1_in1k", "imagenet"),
        ("timm:vit_base_patch16_384.augreg_in21k", "imagenet"),
        ("timm:vit_base.mae", "vit_base.mae"),
        ("sha256:abc", "own file"),
        ("random", "random"),
    ],
)
def test_kinds_of_weights(weights: str, kind: str) -> None:
    assert published.weights_kind(weights) == kind
