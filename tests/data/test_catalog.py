"""The catalogue of data sets, and the folder that a set is read from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cass_tune.config import Data
from cass_tune.data.catalog import CATALOGUE, entry_of, list_images
from cass_tune.errors import UsageError

MakeImage = Callable[..., Path]
REPOSITORY = Path(__file__).parents[2]
NEED_A_ROOT = ("brain_mri", "isic2019", "dermofit", "autoimmune", "folder", "csv", "medmnist:breastmnist")


def problem(data: Data) -> str:
    with pytest.raises(UsageError) as caught:
        list_images(data)
    (text,) = caught.value.problems
    return text


def test_names() -> None:
    assert tuple(CATALOGUE) == ("phantom", "brain_mri", "isic2019", "dermofit", "autoimmune", "folder", "csv")


def test_phantom_needs_no_root() -> None:
    listing = list_images(Data(name="phantom"))
    assert listing.name == "phantom" and listing.of_split("test")


@pytest.mark.parametrize("name", ["brain_mri", "folder"])
def test_folders(tmp_path: Path, make_image: MakeImage, name: str) -> None:
    for part in ("Training", "Testing"):
        for label in ("glioma", "notumor"):
            make_image(f"{part}/{label}/a.jpg")
    seen: list[tuple[int, int]] = []
    listing = list_images(Data(name=name, root=str(tmp_path)), lambda done, total: seen.append((done, total)))
    assert listing.name == name and len(listing.items) == 4
    assert seen[-1] == (4, 4)


def test_csv(tmp_path: Path, make_image: MakeImage) -> None:
    rows = ["path,label,split"]
    for number, (label, part) in enumerate([("a", "train"), ("b", "train"), ("a", "test"), ("b", "test")]):
        make_image(f"{number}.png")
        rows.append(f"{number}.png,{label},{part}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    assert list_images(Data(name="csv", root=str(tmp_path))).name == "csv"


def test_an_unknown_name() -> None:
    text = problem(Data(name="brain-mri"))
    for words in (
        "--data.name",
        "phantom, brain_mri, isic2019, dermofit, autoimmune, folder, csv, medmnist:NAME",
        "'brain-mri'",
        "Did you mean 'brain_mri'?",
    ):
        assert words in text


@pytest.mark.parametrize("name", NEED_A_ROOT)
def test_no_root(name: str) -> None:
    text = problem(Data(name=name))
    for words in (repr(name), "--data.root DIR", "cass_tune.toml"):
        assert words in text


@pytest.mark.parametrize("name", NEED_A_ROOT)
def test_a_root_that_is_no_use(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for place, what in (("gone", "does not exist"), ("file", "is a file"), ("empty", "is empty")):
        text = problem(Data(name=name, root=str(tmp_path / place)))
        for words in ("--data.root must be a folder", str(tmp_path / place), what, "cass_tune.toml"):
            assert words in text


def test_a_root_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / "gone") in problem(Data(name="folder", root="~/gone"))


def test_importing_starts_nothing_heavy() -> None:
    code = (
        "import sys, cass_tune.data.catalog\n"
        "print([name for name in ('torch', 'pandas', 'PIL', 'numpy', 'ray', 'timm') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert found.stdout.strip() == "[]"


def test_what_is_known_of_a_set() -> None:
    chest = entry_of("medmnist:chestmnist_64")
    assert chest is not None and chest.images == 112_120 and len(chest.labels) == 14 and "any number" in chest.task
    assert entry_of("medmnist:nope") is entry_of("my.module:function") is None
    for name, entry in CATALOGUE.items():
        if name not in ("phantom", "folder", "csv"):
            assert entry.task.startswith(str(len(entry.labels))) and set(entry.published_weights) <= set(entry.labels)
    brain = CATALOGUE["brain_mri"]
    assert all(set(counts) == set(brain.labels) for counts in brain.counts.values())
    assert sum(sum(counts.values()) for counts in brain.counts.values()) == brain.images


def test_dermofit(tmp_path: Path, make_image: MakeImage) -> None:
    for label in ("AK", "BCC"):
        for number in range(5):
            make_image(f"{label}/{label}{number}/{label}{number}.png")
            make_image(f"{label}/{label}{number}/{label}{number}mask.png", mode="1")
    listing = list_images(Data(name="dermofit", root=str(tmp_path)))
    assert listing.counts() == {"train": {"AK": 4, "BCC": 4}, "test": {"AK": 1, "BCC": 1}}
    assert "A test part was drawn" in listing.warnings[0]


def test_autoimmune(tmp_path: Path, make_image: MakeImage) -> None:
    names = CATALOGUE["autoimmune"].labels
    rows = [",".join(["path", *names])]
    for number in range(30):
        make_image(f"{number}.png")
        rows.append(",".join([f"{number}.png", *("1" if number % 5 == place else "0" for place in range(5))]))
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    listing = list_images(Data(name="autoimmune", root=str(tmp_path)))
    assert listing.task == "multi-label" and listing.classes == tuple(sorted(names))


def write_isic(root: Path, make_image: MakeImage, *rows: str) -> None:
    for number in range(8):
        make_image(f"ISIC_2019_Training_Input/ISIC_{number}.jpg")
    given = rows or [f"ISIC_{number},{1 - number % 2}.0,{number % 2}.0,0.0" for number in range(8)]
    (root / "ISIC_2019_Training_GroundTruth.csv").write_text("\n".join(["image,MEL,NV,UNK", *given]))


def test_isic_2019(tmp_path: Path, make_image: MakeImage) -> None:
    write_isic(tmp_path, make_image)
    data = Data(name="isic2019", root=str(tmp_path), test_fraction=0.25)
    assert any("ISIC_2019_Training_Metadata.csv is not there" in text for text in list_images(data).warnings)
    lesions = "\n".join(["image,lesion_id", *(f"ISIC_{number},L{number % 2}{number // 4}" for number in range(7))])
    (tmp_path / "ISIC_2019_Training_Metadata.csv").write_text(lesions)
    listing = list_images(data)
    assert listing.classes == ("MEL", "NV")
    assert any("1 image without a lesion in ISIC_2019_Training_Metadata.csv" in text for text in listing.warnings)
    assert {item.group for item in listing.items if item.path.endswith(("_0.jpg", "_2.jpg"))} == {"group:L00"}
    split = {item.group: item.split for item in listing.items}
    assert all(item.split == split[item.group] for item in listing.items)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("ISIC_0,1,1,0", "have a 1 for one class, but that is not so at line 2"),
        ("ISIC_0,,,", "line 2"),
        ("ISIC_0,nan,x,0", "line 2"),
        ("../ISIC_0,1,0,0", "line 2"),
        ("ISIC_99,1,0,0", "1 file is missing: ISIC_99.jpg"),
        ("ISIC_0,1,0", "must have the 4 cells of its header"),
    ],
)
def test_a_wrong_truth_of_isic_2019(tmp_path: Path, make_image: MakeImage, row: str, words: str) -> None:
    write_isic(tmp_path, make_image, row)
    with pytest.raises(UsageError) as caught:
        list_images(Data(name="isic2019", root=str(tmp_path)))
    assert any(words in text for text in caught.value.problems)


@pytest.mark.real_data
def test_the_lesions_of_real_isic_images(real_data: Path) -> None:
    listing = list_images(Data(name="isic2019", root=str(real_data / "isic2019_ham10000_small")))
    assert len(listing.items) == 1384 and len({item.group for item in listing.items}) == 919
    parts = {item.group: item.split for item in listing.items}
    assert all(parts[item.group] == item.split for item in listing.items)
