"""Readers of tables, npz files and images on damaged inputs: a clear error or a named bad image, always."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from cass_tune.config import Data
from cass_tune.data.index import examine
from cass_tune.data.inspection import look_at_file
from cass_tune.data.isic import TRUTH, isic_2019_listing
from cass_tune.data.medmnist import listing_of
from cass_tune.data.medmnist_sets import MedMnist
from cass_tune.data.table import csv_listing
from cass_tune.errors import UsageError

TABLES, ARCHIVES, IMAGES = 800, 500, 1000
"""Inputs of each kind, in every run; of images twice: of what is decoded, and of what else is read."""

Change = tuple[str, float, bytes]
CHANGES = st.lists(
    st.tuples(st.sampled_from(["replace", "insert", "cut", "end"]), st.floats(0, 1), st.binary(max_size=6)),
    min_size=1,
    max_size=8,
)


def changed(content: bytes, changes: Sequence[Change]) -> bytes:
    """Return a damaged copy."""
    for kind, share, new in changes:
        at = int(share * len(content))
        if kind == "end":
            content = content[:at]
        else:
            gone = {"replace": len(new), "insert": 0, "cut": 3}[kind]
            content = content[:at] + new * (kind != "cut") + content[at + gone :]
    return content


def of(count: int) -> Any:
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=count, deadline=None, suppress_health_check=checks, database=None)


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a folder with six images, whose index lies beside them."""
    with tempfile.TemporaryDirectory() as name, mock.patch.dict("os.environ", {"CASS_TUNE_CACHE": f"{name}/cache"}):
        root = Path(name) / "images"
        root.mkdir()
        for number in range(6):
            Image.new("L", (2, 2), number).save(root / f"{number}.png")
        yield root


@pytest.fixture(scope="module")
def images() -> Iterator[Path]:
    with folder() as root:
        yield root


CELLS = st.one_of(
    st.sampled_from(["0.png", "1.png", "train", "test", "val", "a", "b", "", "0", "1", "NaN", "..", "/", "\\", "\x00"]),
    st.text(max_size=8),
)
PLAIN = b"path,label,x,split\n0.png,a,0,train\n1.png,b,1,train\n2.png,a,1,test\n3.png,b,0,test\n"
TABLE = st.one_of(
    st.binary(max_size=200),
    CHANGES.map(lambda changes: changed(PLAIN, changes)),
    st.lists(st.lists(CELLS, min_size=1, max_size=5), max_size=6).map(
        lambda rows: "\n".join(["path,label,split", *(",".join(row) for row in rows)]).encode("utf-8", "replace")
    ),
)


@of(TABLES)
@given(content=TABLE, columns=st.sampled_from(["", "x,label", "label,split"]))
def test_tables(images: Path, content: bytes, columns: str) -> None:
    (images / "labels.csv").write_bytes(content)
    try:
        listing = csv_listing(Data(name="csv", root=str(images), label_columns=columns))
    except UsageError as error:
        assert error.problems and all(problem.strip() for problem in error.problems)
        event("refused")
        return
    assert listing.of_split("train") and len(listing.classes) >= 2
    event("read")


@of(TABLES // 4)
@given(changes=CHANGES)
def test_tables_of_isic(images: Path, changes: Sequence[Change]) -> None:
    (images / "ISIC_2019_Training_Input").mkdir(exist_ok=True)
    for number in range(4):
        Image.new("L", (2, 2), number).save(images / "ISIC_2019_Training_Input" / f"I{number}.jpg")
    plain = b"image,MEL,NV\nI0,1.0,0.0\nI1,0.0,1.0\nI2,1.0,0.0\nI3,0.0,1.0\n"
    (images / TRUTH).write_bytes(changed(plain, changes))
    try:
        listing = isic_2019_listing(Data(name="isic2019", root=str(images)))
    except UsageError as error:
        assert error.problems and all(problem.strip() for problem in error.problems)
        return
    assert len(listing.classes) >= 2


KNOWN = MedMnist(labels=("a", "b"), images={"train": 2, "val": 2, "test": 2}, md5=("", "", "", ""))


def archive(compressed: bool) -> bytes:
    file, labels = io.BytesIO(), np.array([[0], [1]], np.uint8)
    values = {f"{part}_{kind}": labels for part in KNOWN.images for kind in ("labels",)}
    values |= {f"{part}_images": np.arange(32, dtype=np.uint8).reshape(2, 4, 4) for part in KNOWN.images}
    (np.savez_compressed if compressed else np.savez)(file, **values)  # type: ignore[arg-type]
    return file.getvalue()


ARCHIVE = {compressed: archive(compressed) for compressed in (False, True)}


@of(ARCHIVES)
@given(compressed=st.booleans(), changes=CHANGES, raw=st.none() | st.binary(max_size=100))
def test_archives(images: Path, compressed: bool, changes: Sequence[Change], raw: bytes | None) -> None:
    path = images.parent / "set.npz"
    path.write_bytes(changed(ARCHIVE[compressed], changes) if raw is None else raw)
    try:
        listing = listing_of(path, KNOWN)
    except UsageError as error:
        assert error.problems and all(problem.strip() for problem in error.problems)
        event("refused")
        return
    assert len(listing.items) == 6
    event("read")


def encoded(kind: str, mode: str) -> bytes:
    file = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).convert(mode).save(file, kind)
    return file.getvalue()


FILES = [
    *(encoded("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
    *(encoded("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
    *(encoded("TIFF", mode) for mode in ("L", "RGB", "CMYK", "F")),
    *(encoded(kind, "RGB") for kind in ("BMP", "WEBP", "GIF")),
]


@of(IMAGES)
@given(original=st.sampled_from(FILES), changes=CHANGES, raw=st.none() | st.binary(max_size=100))
@pytest.mark.filterwarnings("ignore")
def test_images(images: Path, original: bytes, changes: Sequence[Change], raw: bytes | None) -> None:
    """A file decodes, or is a bad image with a reason; nothing else comes out of the reader."""
    content = changed(original, changes) if raw is None else raw
    path = images.parent / f"image-{hashlib.sha256(content).hexdigest()}"
    path.write_bytes(content)
    examined = examine([path])[path]
    path.unlink()
    assert examined.error is None or examined.error.strip()
    assert len(examined.sha256) == 64
    event("read" if examined.error is None else "bad")


def several(kind: str) -> bytes:
    """Return an image with EXIF data that ask for a rotation and, where the kind can have one, a second picture."""
    file, picture, exif = io.BytesIO(), Image.new("RGB", (7, 9), "red"), Image.Exif()
    exif[0x0112] = 6
    more: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", (7, 9), "blue")]}
    picture.save(file, kind, exif=exif, **(more if kind in ("MPO", "TIFF", "PNG") else {}))
    return file.getvalue()


WITH_MORE = [several(kind) for kind in ("JPEG", "MPO", "TIFF", "PNG", "WEBP")]


@of(IMAGES)
@given(
    original=st.sampled_from(WITH_MORE),
    bytes_of=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
)
@pytest.mark.filterwarnings("ignore")
def test_what_lies_beside_the_pixels(images: Path, original: bytes, bytes_of: Sequence[tuple[float, int]]) -> None:
    """The check of a copy says how every image that decodes is stored, whatever else in its file is damaged."""
    content = bytearray(original)
    for share, value in bytes_of:
        content[int(share * (len(content) - 1))] = value
    path = images.parent / f"image-{hashlib.sha256(content).hexdigest()}"
    path.write_bytes(content)
    if examine([path])[path].error is None:
        assert look_at_file(path).size
        event("read")
    path.unlink()
