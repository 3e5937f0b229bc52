"""The index of image files: what it remembers, and that nothing depends on it."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cass_tune.data import index
from cass_tune.data.cache_folder import cache_folder
from cass_tune.data.decode import decode_rgb
from cass_tune.data.index import examine

MakeImage = Callable[..., Path]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one per decoded file."""
    calls: list[int] = []
    real = index.decode_rgb

    def counting(file: io.BytesIO) -> Image.Image:
        calls.append(1)
        return real(file)

    monkeypatch.setattr(index, "decode_rgb", counting)
    return calls


def test_hash_and_decodability(make_image: MakeImage) -> None:
    good, bad = make_image("a.png"), make_image("b.png")
    bad.write_bytes(b"no image")
    result = examine([good, bad])
    assert list(result) == [good, bad]
    assert result[good].sha256 == hashlib.sha256(good.read_bytes()).hexdigest()
    assert result[good].error is None
    assert result[bad].sha256 == hashlib.sha256(b"no image").hexdigest()
    assert "not an image of a known format" in (result[bad].error or "")


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "tif", "webp"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_a_truncated_file_is_an_error(make_image: MakeImage, ending: str) -> None:
    file = make_image(f"a.{ending}", size_px=64)
    content = file.read_bytes()
    for kept in (len(content) * 3 // 4, 10, 0):
        file.write_bytes(content[:kept])
        error = examine([file])[file].error
        assert error, kept
        assert "0x" not in error, "a memory address would make two machines' records differ"


def test_a_file_that_is_not_there_is_an_error_and_not_remembered(make_image: MakeImage, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    result = examine([file])[file]
    assert result.sha256 == "" and "No such file" in (result.error or "")
    make_image("a.png")
    assert examine([file])[file].error is None


def test_a_failing_disk_is_not_remembered(make_image: MakeImage, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make_image("a.png")
    with monkeypatch.context() as failing:
        failing.setattr(index.Path, "read_bytes", lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        assert examine([file])[file].error == "cannot be read: Input/output error"
    assert examine([file])[file].error is None


def test_each_file_is_read_once(make_image: MakeImage, decoded: list[int]) -> None:
    files = [make_image(f"{i}.png") for i in range(5)]
    files[0].write_bytes(b"broken")
    first = examine(files)
    assert len(decoded) == 5
    assert examine(files) == first
    assert len(decoded) == 5
    assert examine([*files, make_image("new.png")]).keys() > first.keys()
    assert len(decoded) == 6


def test_more_files_than_one_query_holds(make_image: MakeImage, decoded: list[int], monkeypatch) -> None:
    monkeypatch.setattr(index, "_CHUNK", 3)
    files = [make_image(f"{i}.png", size_px=2) for i in range(10)]
    assert examine(files) == examine(files)
    assert len(decoded) == 10


def test_a_changed_file_is_read_again(make_image: MakeImage, decoded: list[int]) -> None:
    file = make_image("a.bmp", seed=1)
    status = file.stat()
    before = examine([file])[file]
    make_image("a.bmp", seed=2)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after = examine([file])[file]
    assert file.stat().st_size == status.st_size and before.sha256 != after.sha256
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert examine([file])[file] == after
    assert len(decoded) == 2


def test_a_file_that_changes_while_it_is_read_is_read_again(make_image: MakeImage, monkeypatch) -> None:
    file = make_image("a.png")

    def changing(content: io.BytesIO) -> Image.Image:
        file.write_bytes(content.getvalue() + b" ")
        return decode_rgb(content)

    monkeypatch.setattr(index, "decode_rgb", changing)
    examine([file])
    monkeypatch.setattr(index, "decode_rgb", decode_rgb)
    assert examine([file])[file].sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_another_pillow_reads_again(make_image: MakeImage, decoded: list[int], monkeypatch) -> None:
    file = make_image("a.png")
    examine([file])
    monkeypatch.setattr("PIL.__version__", "0.0.0")
    examine([file])
    assert len(decoded) == 2


def test_other_formats_read_again(make_image: MakeImage, decoded: list[int], monkeypatch) -> None:
    file = make_image("a.png")
    examine([file])
    monkeypatch.setattr(index, "FORMATS", ("PNG",))
    examine([file])
    assert len(decoded) == 2


def test_progress_counts_known_files(make_image: MakeImage) -> None:
    files = [make_image(f"{i}.png") for i in range(3)]
    examine(files[:2])
    seen: list[tuple[int, int]] = []
    examine(files, lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]


def test_nothing_to_examine() -> None:
    assert examine([]) == {}


def test_a_damaged_database_is_left_alone(make_image: MakeImage, own_cache: Path, caplog, decoded: list[int]) -> None:
    (own_cache / "index.sqlite").write_bytes(b"not a database, but long enough to look like one" * 100)
    files = [make_image(f"{i}.png") for i in range(2)]
    with caplog.at_level(logging.WARNING):
        assert all(result.error is None for result in examine(files).values())
    assert len(caplog.records) == 1
    for word in ("index.sqlite", "CASS_TUNE_CACHE", "deleted"):
        assert word in caplog.text
    examine(files)
    assert len(decoded) == 4


def test_a_database_damaged_further_back(make_image: MakeImage, own_cache: Path, caplog) -> None:
    files = [make_image(f"{i}.png", size_px=2) for i in range(200)]
    expected = examine(files)
    database = own_cache / "index.sqlite"
    content = database.read_bytes()
    database.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with caplog.at_level(logging.WARNING):
        assert examine(files) == expected
    assert len(caplog.records) == 1


def test_a_cache_folder_that_cannot_be_made(make_image: MakeImage, tmp_path: Path, monkeypatch, caplog) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CASS_TUNE_CACHE", str(tmp_path / "file" / "cache"))
    file = make_image("a.png")
    with caplog.at_level(logging.WARNING):
        assert examine([file])[file].error is None
    assert len(caplog.records) == 1


def test_a_read_only_database_is_still_read(make_image: MakeImage, monkeypatch, caplog, decoded: list[int]) -> None:
    known, new = make_image("a.png"), make_image("b.png")
    examine([known])
    connect = sqlite3.connect

    def read_only(file: Path, timeout: float) -> sqlite3.Connection:
        return connect(f"file:{file}?mode=ro", uri=True, timeout=timeout)

    monkeypatch.setattr(index.sqlite3, "connect", read_only)
    with caplog.at_level(logging.WARNING):
        assert all(result.error is None for result in examine([known, new]).values())
    assert len(decoded) == 2
    assert [record.message for record in caplog.records if "readonly" in record.message]
    assert len(caplog.records) == 1


def test_several_processes_at_once(make_image: MakeImage, tmp_path: Path) -> None:
    for number in range(30):
        make_image(f"{number}.png", size_px=4)
    code = (
        "import sys; from pathlib import Path; from cass_tune.data.index import examine; import logging\n"
        "logging.basicConfig(level=logging.WARNING)\n"
        "found = examine(sorted(Path(sys.argv[1]).glob('*.png')))\n"
        "assert len(found) == 30 and not any(e.error for e in found.values())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    repository = Path(__file__).parents[2]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=repository) for _ in range(3)]
    errors = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], errors
    assert errors == ["", "", ""], "no process warned"


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CASS_TUNE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("CASS_TUNE_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "cass_tune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "cass_tune"


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, ending: str) -> None:
    values = np.array([[0, 128, 129, 257], [4095, 32768, 65406, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    image = decode_rgb(tmp_path / f"a.{ending}")
    expected = np.round(values / 257).astype(np.uint8)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.stack([expected] * 3, axis=-1))


def test_big_endian_16_bit_grey(tmp_path: Path) -> None:
    values = np.array([[0, 25700]], dtype=">u2")
    header = (
        b"MM\x00*\x00\x00\x00\x08\x00\x08"
        b"\x01\x00\x00\x03\x00\x00\x00\x01\x00\x02\x00\x00"
        b"\x01\x01\x00\x03\x00\x00\x00\x01\x00\x01\x00\x00"
        b"\x01\x02\x00\x03\x00\x00\x00\x01\x00\x10\x00\x00"
        b"\x01\x03\x00\x03\x00\x00\x00\x01\x00\x01\x00\x00"
        b"\x01\x06\x00\x03\x00\x00\x00\x01\x00\x01\x00\x00"
        b"\x01\x11\x00\x04\x00\x00\x00\x01\x00\x00\x00\x6e"
        b"\x01\x16\x00\x03\x00\x00\x00\x01\x00\x01\x00\x00"
        b"\x01\x17\x00\x04\x00\x00\x00\x01\x00\x00\x00\x04"
        b"\x00\x00\x00\x00"
    )
    (tmp_path / "a.tif").write_bytes(header + values.tobytes())
    assert np.asarray(decode_rgb(tmp_path / "a.tif"))[0, :, 0].tolist() == [0, 100]


def test_32_bit_grey(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, 25700]], dtype=np.int32)).save(file)
    assert np.asarray(decode_rgb(file))[0, :, 0].tolist() == [0, 100]
    for values in (np.array([[0, 70000]], dtype=np.int32), np.array([[0.0, 1.0]], dtype=np.float32)):
        Image.fromarray(values).save(file)
        with pytest.raises(ValueError, match="no known scale; save it with 8 or 16 bits"):
            decode_rgb(file)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_modes_become_rgb(make_image: MakeImage, mode: str) -> None:
    file = make_image("a.png", mode=mode, seed=3)
    with Image.open(file) as image:
        assert image.mode == mode
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(np.asarray(decode_rgb(file)), expected)


def test_a_palette_with_transparency_keeps_its_colours_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) * 10).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded_image = decode_rgb(tmp_path / "a.png")
    assert np.array_equal(np.asarray(decoded_image), np.asarray(image.convert("RGB")))


def test_the_file_is_closed(make_image: MakeImage, recwarn: pytest.WarningsRecorder) -> None:
    file = make_image("a.png")
    image = decode_rgb(file)
    file.unlink()
    assert image.getpixel((0, 0)) is not None
    assert not [w for w in recwarn if w.category is ResourceWarning]


@pytest.mark.real_data
def test_pngs_named_jpg_decode(real_data: Path) -> None:
    files = sorted((real_data / "brain_mri_edge_cases" / "png_named_jpg").glob("*.jpg"))
    modes = []
    for file in files:
        with Image.open(file) as image:
            assert image.format == "PNG"
            modes.append(image.mode)
            size = image.size
        rgb = decode_rgb(file)
        assert (rgb.mode, rgb.size) == ("RGB", size)
        assert rgb.getextrema() != ((0, 0), (0, 0), (0, 0))
    assert sorted(modes) == ["P", "RGB", "RGBA", "RGBA", "RGBA"]
    assert all(result.error is None for result in examine(files).values())
