"""The command that checks a copy of a data set and shows what is in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cass_tune.data.__main__ import main
from cass_tune.data.inspection import EACH, MARGIN_PX, TEXT_PX, TILE_PX, channel_statistics, contact_sheet, look
from cass_tune.data.phantom import phantom_listing
from tests import tiny

MakeImage = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path, make_image: MakeImage) -> Path:
    """Return folders of a cat and a dog in both parts, and one more of each in training."""
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            make_image(f"{part}/{label}/0.png", seed=7 if label == "cat" else None)
    make_image("train/cat/1.jpg", mode="L")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10), (255, 0, 51)).save(tmp_path / "train" / "dog" / "1.jpg", exif=exif)
    return tmp_path


def test_what_is_in_a_set(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["folder", "--root", str(root)]) == 0
    said = capsys.readouterr().out
    for words in (
        "6 images, multi-class, fingerprint",
        "training       test",
        "PNG RGB 4",
        "JPEG L 1",
        "16 x 16 (5)",
        "from 16 to 20 wide, 10 to 16 high",
        "1 with an EXIF rotation",
        "1 set of identical files in more than one part",
        "--data.leaks drop",
    ):
        assert words in said
    assert [line.split() for line in said.splitlines() if line.split()[:1] == ["cat"]] == [["cat", "2", "1"]]


def test_a_bad_image_is_named_and_is_an_exit_code(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "train" / "cat" / "2.png").write_bytes(b"text")
    assert main(["folder", "--root", str(root)]) == 1
    assert "cannot be read, 1 file: train/cat/2.png (not an image" in capsys.readouterr().out


def test_the_whole_set_or_a_part_of_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["brain_mri", "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert "not the whole set: 6 images of 7023" in said and "training glioma 0 of 1321" in said


def test_statistics_and_a_picture(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    options = ["--statistics", "--image-size-px", "16", "--sheet", str(sheet)]
    assert main(["folder", "--root", str(root), *options]) == 0
    assert "training images at 16 px: mean 0." in capsys.readouterr().out
    with Image.open(sheet) as image:
        assert image.size[0] > image.size[1] > 200
    assert main(["folder", "--root", str(root), "--sheet", str(tmp_path / "sheet.text")]) == 2
    assert "--sheet must be the file of a picture" in capsys.readouterr().err


def test_channel_statistics_are_those_of_all_pixels() -> None:
    listing = tiny.listing({"train": {"a": 3, "b": 2}, "test": {"a": 1, "b": 1}})
    mean, std = channel_statistics(listing, tiny.SIZE_PX)
    pixels = tiny.pixels(listing)
    every = np.stack([pixels[i] for i in listing.of_split("train")]).reshape(-1, 3) / 255
    assert mean == pytest.approx(every.mean(axis=0).tolist()) and std == pytest.approx(every.std(axis=0).tolist())


def test_a_set_without_files_says_whether_its_images_are_grey() -> None:
    phantom = phantom_listing()
    assert look(phantom, phantom.items[0], None).kind == "array L"
    coloured = tiny.listing({"train": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}})
    assert look(coloured, coloured.items[0], None).kind == "array RGB"


def test_a_picture_of_several_labels() -> None:
    few, many = (contact_sheet(tiny.multi_label({"train": count, "test": 4})) for count in (8, 100))
    assert few.size == many.size  # three labels, and images without any
    row = np.asarray(many)[MARGIN_PX + TEXT_PX + TILE_PX // 2]
    starts = [MARGIN_PX + column * (TILE_PX + MARGIN_PX) for column in range(EACH)]
    assert all((row[start - 1] == 255).all() and (row[start : start + TILE_PX] < 255).any() for start in starts)


def test_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    for words in (
        "isic2019: ISIC 2019",
        "25331 in all",
        "retinamnist: 5 grades",
        "licence: private",
        "NV 1, MEL 0.4717",
        "named AK; BCC; DF; IEC",
        "atelectasis; cardiomegaly",
    ):
        assert words in said


def test_a_name_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["breastmnist"]) == 2
    assert "Did you mean 'medmnist:breastmnist' or" in capsys.readouterr().err
