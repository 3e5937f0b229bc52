"""The catalogue of data sets, and the folder that a set is read from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cass_tune.config import Data
from cass_tune.data.catalog import SOURCES, list_images
from cass_tune.errors import UsageError

MakeImage = Callable[..., Path]
REPOSITORY = Path(__file__).parents[2]
NEED_A_ROOT = ("brain_mri", "folder", "csv")


def problem(data: Data) -> str:
    with pytest.raises(UsageError) as caught:
        list_images(data)
    (text,) = caught.value.problems
    return text


def test_names() -> None:
    assert tuple(SOURCES) == ("phantom", "brain_mri", "folder", "csv")


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
    for words in ("--data.name", "phantom, brain_mri, folder, csv", "'brain-mri'", "Did you mean 'brain_mri'?"):
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
