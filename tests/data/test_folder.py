"""Image folders: what is read, and what each mistake is answered with."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cass_tune.config import Data
from cass_tune.data import index
from cass_tune.data.folder import brain_mri_listing, folder_listing
from cass_tune.errors import UsageError

MakeImage = Callable[..., Path]


@pytest.fixture
def data(tmp_path: Path, make_image: MakeImage) -> Data:
    """Return a small sound set: train and test, classes cat and dog."""
    for part, count in (("train", 3), ("test", 2)):
        for label in ("cat", "dog"):
            for number in range(count):
                make_image(f"{part}/{label}/{number}.png")
    return Data(name="folder", root=str(tmp_path))


def problems(data: Data) -> tuple[str, ...]:
    with pytest.raises(UsageError) as caught:
        folder_listing(data)
    return caught.value.problems


def only_problem(data: Data) -> str:
    (text,) = problems(data)
    return text


def test_items(data: Data) -> None:
    listing = folder_listing(data)
    assert listing.name == "folder"
    assert listing.counts() == {"train": {"cat": 3, "dog": 3}, "test": {"cat": 2, "dog": 2}}
    assert [item.path for item in listing.items] == sorted(item.path for item in listing.items)
    assert listing.items[0].path == "test/cat/0.png"
    assert all(item.group == item.path for item in listing.items)
    assert listing.warnings == () and listing.bad_images == {}
    image = listing.open_image(listing.items[0])
    assert (image.mode, image.size) == ("RGB", (16, 16))


def test_fingerprint_follows_the_content_not_the_place(data: Data, tmp_path: Path, make_image: MakeImage) -> None:
    before = folder_listing(data).fingerprint
    shutil.copytree(tmp_path, tmp_path / ".copy")
    assert folder_listing(Data(name="folder", root=str(tmp_path / ".copy"))).fingerprint == before
    make_image("train/cat/0.png")
    assert folder_listing(data).fingerprint != before


@pytest.mark.parametrize(
    "names", [("TRAIN", "Valid", "Testing"), ("Training", "validation", "test"), ("train", "VAL", "Test")]
)
def test_names_of_parts(tmp_path: Path, make_image: MakeImage, names: tuple[str, str, str]) -> None:
    for name in names:
        for label in ("cat", "dog"):
            make_image(f"{name}/{label}/a.png")
    listing = folder_listing(Data(name="folder", root=str(tmp_path)))
    assert [len(listing.of_split(part)) for part in ("train", "val", "test")] == [2, 2, 2]


def test_kinds_of_files(data: Data, make_image: MakeImage, tmp_path: Path) -> None:
    for ending in ("jpg", "JPEG", "PNG", "bmp", "tif", "tiff", "webp", "gif"):
        make_image(f"train/cat/kind.{ending}")
    make_image("train/cat/scan/day2/nested.png")
    shutil.copy(make_image("png.png"), tmp_path / "train/cat/named.jpg")
    make_image("train/cat/grey.jpg", mode="L")
    make_image("train/cat/.hidden.png")
    make_image("train/cat/.hidden/a.png")
    make_image("train/.hidden/a.png")
    for name in ("notes.txt", "more.TXT", "none", ".DS_Store"):
        (tmp_path / "train/cat" / name).write_text("x")
    listing = folder_listing(data)
    paths = {item.path for item in listing.items if item.label == "cat" and item.split == "train"}
    assert len(paths) == 3 + 8 + 1 + 2 and "train/cat/scan/day2/nested.png" in paths
    assert all(listing.open_image(item).mode == "RGB" for item in listing.items)
    (warning,) = listing.warnings
    for words in ("Ignored 3 files", ".txt 1", ".TXT 1", "no ending 1", ".webp"):
        assert words in warning


def test_strays_are_mentioned(data: Data, make_image: MakeImage) -> None:
    make_image("train/stray.png")
    make_image("other/cat/a.png")
    make_image("at_root.png")
    beside, stray = folder_listing(data).warnings
    assert "1 folder (other)" in beside
    assert "1 image directly in train/" in stray and "folder of its class" in stray


def test_linked_folders_are_followed_but_not_in_circles(data: Data, tmp_path: Path, make_image: MakeImage) -> None:
    make_image(".elsewhere/a.png")
    (tmp_path / "train/bird").symlink_to(tmp_path / ".elsewhere")
    (tmp_path / ".elsewhere/again").symlink_to(tmp_path / ".elsewhere")
    (tmp_path / "train/self").symlink_to("self")
    make_image("test/bird/b.png")
    assert folder_listing(data).counts()["train"] == {"bird": 1, "cat": 3, "dog": 3}


def test_a_link_to_nowhere_is_a_bad_image(data: Data, tmp_path: Path) -> None:
    (tmp_path / "train/cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    assert "train/cat/gone.png (cannot be read" in only_problem(data)


def test_no_test_folder(tmp_path: Path, make_image: MakeImage) -> None:
    make_image("train/cat/a.png")
    make_image("tset/cat/a.png")
    text = only_problem(Data(name="folder", root=str(tmp_path)))
    for words in (
        "No folder of the test part",
        str(tmp_path),
        "is it 'tset'?",
        "train, tset",
        "testing",
        "--data.name csv",
    ):
        assert words in text


def test_no_part_at_all_names_both(tmp_path: Path, make_image: MakeImage) -> None:
    make_image("cat/a.png")
    train, test = problems(Data(name="folder", root=str(tmp_path)))
    assert "No folder of the training part" in train and "No folder of the test part" in test


def test_brain_mri_names_its_layout(tmp_path: Path, make_image: MakeImage) -> None:
    make_image("archive/Training/glioma/a.png")
    with pytest.raises(UsageError) as caught:
        brain_mri_listing(Data(name="brain_mri", root=str(tmp_path)))
    for text in caught.value.problems:
        assert "Training/ and Testing/ of the Kaggle set" in text and "its folders are archive" in text


def test_two_folders_of_one_part(data: Data, make_image: MakeImage) -> None:
    make_image("Testing/cat/a.png")
    text = only_problem(data)
    for words in ("must be one folder", "2 for the test part", "Testing, test", "Expected are"):
        assert words in text


def test_bad_images_are_listed_with_the_way_on(data: Data, tmp_path: Path, make_image: MakeImage) -> None:
    for number in range(12):
        make_image(f"train/cat/bad{number:02d}.png").write_bytes(b"broken")
    text = only_problem(data)
    for words in (
        "12 files do not",
        "train/cat/bad00.png (not an image",
        "bad09",
        "and 2 more",
        "--data.on-bad-image skip",
    ):
        assert words in text
    assert "bad10" not in text


def test_bad_images_can_be_skipped(data: Data, tmp_path: Path, make_image: MakeImage) -> None:
    sound = folder_listing(data)
    file = make_image("train/cat/bad.jpg", size_px=64)
    file.write_bytes(file.read_bytes()[:1000])
    listing = folder_listing(Data(name="folder", root=str(tmp_path), on_bad_image="skip"))
    assert list(listing.bad_images) == ["train/cat/bad.jpg"]
    assert "truncated" in listing.bad_images["train/cat/bad.jpg"]
    assert (listing.items, listing.fingerprint) == (sound.items, sound.fingerprint)


def test_an_empty_class_folder(data: Data, tmp_path: Path) -> None:
    (tmp_path / "train/bird").mkdir()
    text = only_problem(data)
    assert "Every class needs a usable image in the training part, but there is none of bird" in text
    assert "remove the class" in text


def test_a_class_whose_images_are_all_bad(data: Data, tmp_path: Path, make_image: MakeImage) -> None:
    make_image("train/bird/a.png").write_bytes(b"broken")
    bad, empty = problems(data)
    assert "train/bird/a.png" in bad and "none of bird" in empty
    skipping = Data(name="folder", root=str(tmp_path), on_bad_image="skip")
    assert "none of bird" in only_problem(skipping)


@pytest.mark.parametrize(("part", "name"), [("test", "test"), ("val", "validation")])
def test_an_unknown_class(data: Data, make_image: MakeImage, part: str, name: str) -> None:
    make_image(f"{part}/cats/a.png")
    text = only_problem(data)
    start = f"Unknown class in the {name} part: 'cats'"
    for words in (start, "Did you mean 'cat'?", "Allowed", "cat, dog", "add training images"):
        assert words in text


def test_an_unknown_class_without_images(data: Data, tmp_path: Path) -> None:
    (tmp_path / "test/bird").mkdir()
    assert "Unknown class in the test part: 'bird'" in only_problem(data)


def test_a_class_without_test_images_is_a_warning(data: Data, make_image: MakeImage) -> None:
    make_image("train/bird/a.png")
    (warning,) = folder_listing(data).warnings
    assert "The test part has no image of bird" in warning


def test_an_empty_part(data: Data, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "test").mkdir()
    (tmp_path / "val").mkdir()
    val, test = problems(data)
    assert "The validation part has no usable image" in val and "leave the part out" in val
    assert "The test part has no usable image" in test


def test_one_class_is_too_few(tmp_path: Path, make_image: MakeImage) -> None:
    make_image("train/cat/a.png")
    make_image("test/cat/a.png")
    assert "At least 2 classes are needed for training, but there are 1: cat" in only_problem(
        Data(name="folder", root=str(tmp_path))
    )


def test_all_problems_at_once(data: Data, tmp_path: Path, make_image: MakeImage) -> None:
    (tmp_path / "train/bird").mkdir()
    make_image("test/cow/a.png")
    empty, unknown = problems(data)
    assert "bird" in empty and "cow" in unknown


def test_a_name_that_is_not_utf8(data: Data, tmp_path: Path) -> None:
    name = os.fsdecode(b"train/cat/caf\xe9.png")
    try:
        shutil.copy(tmp_path / "train/cat/0.png", tmp_path / name)
    except OSError:
        pytest.skip("this file system wants UTF-8 names")
    text = only_problem(data)
    assert "must be UTF-8" in text and r"caf\udce9.png" in text and "Rename" in text


def test_identical_files_inside_a_part(data: Data, make_image: MakeImage) -> None:
    for path in ("train/cat/x.png", "train/cat/y.png", "train/dog/u.png", "train/dog/v.png", "train/dog/w.png"):
        make_image(path, seed=7 if "cat" in path else 8)
    listing = folder_listing(data)
    groups = {item.path: item.group for item in listing.items}
    assert (
        groups["train/cat/x.png"] == groups["train/cat/y.png"] != groups["train/dog/u.png"] == groups["train/dog/w.png"]
    )
    assert groups["train/cat/x.png"].startswith("sha256:") and len(groups["train/cat/x.png"]) == len("sha256:") + 16
    assert groups["train/cat/0.png"] == "train/cat/0.png"
    (warning,) = listing.warnings
    assert "2 sets of identical files inside the training part (5 images)" in warning


def test_identical_files_across_parts(data: Data, make_image: MakeImage) -> None:
    for number in range(7):
        make_image(f"train/cat/x{number}.png", seed=number)
        make_image(f"test/cat/y{number}.png", seed=number)
    (warning,) = folder_listing(data).warnings
    assert "7 sets of identical files in more than one part" in warning
    assert "train/cat/x0.png = test/cat/y0.png" in warning and "and 2 more" in warning
    assert warning.count(" = ") == 5


def test_identical_files_with_different_labels(data: Data, make_image: MakeImage) -> None:
    for number in range(6):
        make_image(f"train/cat/x{number}.png", seed=number)
        make_image(f"train/dog/x{number}.png", seed=number)
    _, warning = folder_listing(data).warnings
    assert "6 sets of identical files with different labels" in warning and "and 1 more" in warning
    assert "train/cat/x0.png (cat) = train/dog/x0.png (dog)" in warning
    assert warning.count(" = ") == 5


def test_a_second_listing_reads_no_file(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    first = folder_listing(data)

    def fail(file: io.BytesIO) -> Image.Image:
        raise AssertionError("read again")

    monkeypatch.setattr(index, "decode_rgb", fail)
    assert folder_listing(data).items == first.items


def test_progress(data: Data) -> None:
    seen: list[tuple[int, int]] = []
    folder_listing(data, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 10) for done in range(11)]


@pytest.mark.real_data
def test_brain_mri(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data(name="brain_mri", root=str(real_data / "brain_mri"))
    listing = brain_mri_listing(data)
    classes = ("glioma", "meningioma", "notumor", "pituitary")
    assert listing.classes == classes
    assert listing.counts() == {"train": dict.fromkeys(classes, 400), "test": dict.fromkeys(classes, 100)}
    assert len({item.group for item in listing.items if item.group.startswith("sha256:")}) == 20
    assert any("3 sets of identical files in more than one part" in warning for warning in listing.warnings)
    assert not any("different labels" in warning for warning in listing.warnings)
    named_jpg = [item for item in listing.items if (real_data / "brain_mri" / item.path).read_bytes()[:4] == b"\x89PNG"]
    assert len(named_jpg) == 1 and np.ptp(np.asarray(listing.open_image(named_jpg[0]))) > 0
    calls: list[int] = []
    monkeypatch.setattr(index, "decode_rgb", calls.append)
    assert brain_mri_listing(data).fingerprint == listing.fingerprint
    assert not calls


@pytest.mark.real_data
def test_real_duplicates_across_parts(real_data: Path, tmp_path: Path) -> None:
    for file in sorted((real_data / "brain_mri_edge_cases" / "train_test_duplicates").iterdir()):
        number, part, label, name = file.name.split("__")
        folder = tmp_path / part / label
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / f"{number}_{name}")
    listing = brain_mri_listing(Data(name="brain_mri", root=str(tmp_path)))
    assert len(listing.of_split("train")) == len(listing.of_split("test")) == 10
    assert len({item.group for item in listing.items}) == 10
    (warning,) = listing.warnings
    assert "10 sets of identical files in more than one part" in warning and "and 5 more" in warning
