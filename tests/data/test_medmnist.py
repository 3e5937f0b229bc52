"""MedMNIST files: the official ones, and what each kind of wrong file is answered with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cass_tune.config import Data
from cass_tune.data.__main__ import main
from cass_tune.data.catalog import list_images
from cass_tune.data.medmnist import listing_of
from cass_tune.data.medmnist_sets import SETS, MedMnist
from cass_tune.errors import UsageError
from studies.batch_ablation import STUDY

KNOWN = MedMnist(labels=("yes", "no", "perhaps"), images={"train": 4, "val": 2, "test": 3}, md5=("", "", "", ""))
SEVERAL = dataclasses.replace(KNOWN, task="multi-label")
SOLID = dataclasses.replace(KNOWN, spatial_dims=3)


def arrays(known: MedMnist = KNOWN, channels: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    rng, found = np.random.default_rng(0), dict[str, np.ndarray]()
    for part, count in known.images.items():
        found[f"{part}_images"] = rng.integers(0, 256, (count, 8, 6, *channels), dtype=np.uint8)
        of_class = (np.arange(count, dtype=np.uint8) % 3)[:, None]
        of_labels = np.arange(count)[:, None] >> np.arange(3) & 1
        found[f"{part}_labels"] = of_labels if known.task == "multi-label" else of_class
    return found


def write(root: Path, values: Mapping[str, Any]) -> Path:
    np.savez_compressed(root / "set.npz", **values)
    return root / "set.npz"


def problem(path: Path, known: MedMnist = KNOWN) -> str:
    with pytest.raises(UsageError) as caught:
        listing_of(path, known)
    (text,) = caught.value.problems
    return text


@pytest.mark.parametrize("channels", [(), (3,)])
def test_items(tmp_path: Path, channels: tuple[int, ...]) -> None:
    values = arrays(channels=channels)
    listing = listing_of(write(tmp_path, values), KNOWN)
    assert listing.name == "set" and listing.classes == ("no", "perhaps", "yes")
    assert [item.label for item in listing.items if item.split == "train"] == ["yes", "no", "perhaps", "yes"]
    (item,) = (item for item in listing.items if item.path == "val/000001")
    pixels = np.asarray(listing.open_image(item))
    assert pixels.shape == (8, 6, 3)
    assert np.array_equal(pixels if channels else pixels[..., 0], values["val_images"][1])


def test_several_labels(tmp_path: Path) -> None:
    listing = listing_of(write(tmp_path, arrays(SEVERAL)), SEVERAL)
    assert listing.task == "multi-label"
    assert [item.label for item in listing.items if item.split == "train"] == [(), ("yes",), ("no",), ("no", "yes")]


def test_the_same_pixels_in_two_parts(tmp_path: Path) -> None:
    values = arrays()
    values["test_images"][0] = values["train_images"][0]
    listing = listing_of(write(tmp_path, values), KNOWN)
    assert any("train/000000 = test/000000" in text for text in listing.warnings)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"val_images": None}, "it has no array 'val_images', but 'train_images'"),
        ({"train_images": np.zeros((4, 8, 6), np.float32)}, "must be uint8 of shape (4, height, width)"),
        ({"train_images": np.zeros((5, 8, 6), np.uint8)}, "is uint8 of shape (5, 8, 6)"),
        ({"train_images": np.zeros((4, 8, 6, 2), np.uint8)}, "is uint8 of shape (4, 8, 6, 2)"),
        ({"train_images": np.zeros((4, 8, 0), np.uint8)}, "is uint8 of shape (4, 8, 0)"),
        ({"train_labels": np.zeros(4, np.uint8)}, "from 0 to 2 of shape (4, 1)"),
        ({"train_labels": np.full((4, 1), 3)}, "or has others"),
        ({"train_labels": np.full((4, 1), -1)}, "or has others"),
        ({"train_labels": np.full((4, 1), np.nan)}, "is float64"),
        ({"train_labels": np.array([["yes"]] * 4)}, "is <U3"),
        ({"train_labels": np.array([[{}]] * 4, dtype=object)}, "Object arrays cannot be loaded"),
    ],
)
def test_a_wrong_array(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    values = {name: value for name, value in (arrays() | changed).items() if value is not None}
    text = problem(write(tmp_path, values))
    assert words in text and "set.npz" in text and "Download" in text


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    assert "cannot be read" in problem(tmp_path / "set.npz")


def test_a_damaged_file(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path, arrays()).read_bytes())
    content[200] ^= 0xFF
    (tmp_path / "set.npz").write_bytes(content)
    assert "cannot be read as an official MedMNIST file" in problem(tmp_path / "set.npz")


def refused(name: str, root: Path) -> str:
    with pytest.raises(UsageError) as caught:
        list_images(Data(name=f"medmnist:{name}", root=str(root)))
    return "".join(caught.value.problems)


def test_names_and_checksums(tmp_path: Path) -> None:
    write(tmp_path, arrays()).rename(tmp_path / "breastmnist_64.npz")
    assert "its MD5 must be 742edef2a1fd1524b2efff4bd7ba9364" in refused("breastmnist_64", tmp_path)
    assert "must have the file breastmnist.npz" in refused("breastmnist", tmp_path)
    assert "Did you mean 'retinamnist' or" in refused("retinmnist", tmp_path)
    for name in ("breastmnist_", "breastmnist_32", ""):
        assert "with _64, _128, _224 behind it" in refused(name, tmp_path)
    assert "with _64 behind it" in refused("organmnist3d_128", tmp_path)
    assert "must have the file organmnist3d_64.npz" in refused("organmnist3d_64", tmp_path)


def test_the_table_of_sets() -> None:
    checksums = [md5 for known in SETS.values() for md5 in known.md5]
    assert len(SETS) == 18 and len(set(checksums)) == 12 * 4 + 6 * 2 and all(len(md5) == 32 for md5 in checksums)
    assert {len(known.md5) for known in SETS.values() if known.spatial_dims == 3} == {2}


def test_volumes(tmp_path: Path) -> None:
    values = arrays(SOLID, channels=(5,))
    listing = listing_of(write(tmp_path, values), SOLID)
    (item,) = (item for item in listing.items if item.path == "val/000001")
    assert listing.spatial_dims == 3 and listing.open_volume is not None
    assert np.array_equal(listing.open_volume(item), values["val_images"][1])
    with pytest.raises(UsageError, match="has volumes, not images"):
        listing.open_image(item)


@pytest.mark.parametrize(("known", "channels", "shape"), [(KNOWN, (5,), "(4, 8, 6, 5)"), (SOLID, (), "(4, 8, 6)")])
def test_volumes_are_no_images(tmp_path: Path, known: MedMnist, channels: tuple[int, ...], shape: str) -> None:
    assert f"is uint8 of shape {shape}" in problem(write(tmp_path, arrays(known, channels)), known)


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "edge"), [("adrenalmnist3d", 28), ("adrenalmnist3d_64", 64)])
def test_official_volumes(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, edge: int
) -> None:
    sheet, root = tmp_path / "sheet.png", str(real_data / "medmnist")
    assert main([f"medmnist:{name}", "--root", root, "--sheet", str(sheet), "--statistics"]) == 0
    said = capsys.readouterr().out
    for words in (
        "1584 volumes",
        f"{edge} x {edge} x {edge} (1584)",
        f"{edge} to {edge} deep",
        "training volumes: mean 0.",
    ):
        assert words in said
    rows = [line.split() for line in said.splitlines() if line.split()[:1] in (["hyperplasia"], ["normal"])]
    assert rows == [["hyperplasia", "259", "22", "69"], ["normal", "929", "76", "229"]]
    with Image.open(sheet) as picture:
        assert np.unique(np.asarray(picture)).size > 2


@pytest.mark.real_data
def test_a_study_of_volumes_is_refused_before_it_starts(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(real_data / "medmnist")
    given = ["--data.name", "medmnist:adrenalmnist3d", "--data.root", root, "--results", str(tmp_path / "results")]
    assert STUDY.main(lambda *_: "", given) == 2
    assert "has volumes, and every network of this version takes images" in capsys.readouterr().err


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "classes"), [("breastmnist", 2), ("pneumoniamnist", 2), ("retinamnist", 5)])
def test_official_files(real_data: Path, name: str, classes: int) -> None:
    listing = list_images(Data(name=f"medmnist:{name}", root=str(real_data / "medmnist")))
    assert listing.name == name and len(listing.classes) == classes
    assert {part: len(listing.of_split(part)) for part in ("train", "val", "test")} == SETS[name].images
