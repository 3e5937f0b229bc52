"""Awkward image files: the same pixels, or the same refusal, however the data are listed and whatever reads them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

from cass_tune.config import Data
from cass_tune.data.catalog import list_images
from cass_tune.data.isic import IMAGES, TRUTH
from cass_tune.data.listing import Listing
from cass_tune.data.loader import Batches, views_of
from cass_tune.data.pixels import Pixels, load_pixels
from cass_tune.errors import UsageError

SIZE = 12
ROUTES = get_args(get_type_hints(Data)["pipeline"])
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
OTHER = Image.new("RGB", (30, 20), (1, 2, 3))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_of(width: int, height: int) -> bytes:
    """Return a PNG that says it is so large, whatever is in it."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT": zlib.compress(b""), b"IEND": b""}
    packed = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def by_pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def grey(values: np.ndarray) -> np.ndarray:
    return np.stack([values] * 3, axis=-1).astype(np.uint8)


COLOURED = Image.fromarray(COLOUR)
PALETTE = COLOURED.convert("P")
IN_PALETTE = np.asarray(PALETTE.convert("RGB"))
CMYK = COLOURED.convert("CMYK")
CMYK_JPEG, TURNED_JPEG = encoded(CMYK, "JPEG"), encoded(COLOURED, "JPEG", exif=turned())
MPO = encoded(COLOURED.copy(), "MPO", save_all=True, append_images=[OTHER.copy()])  # which it would change
GOOD: dict[str, tuple[bytes, np.ndarray]] = {
    "16-bit-png": (encoded(Image.fromarray(DEEP), "PNG"), grey(np.round(DEEP / 257))),
    "16-bit-tiff": (encoded(Image.fromarray(DEEP), "TIFF"), grey(np.round(DEEP / 257))),
    "cmyk": (encoded(CMYK, "TIFF"), np.asarray(CMYK.convert("RGB"))),
    "cmyk-jpeg": (CMYK_JPEG, by_pillow(CMYK_JPEG)),
    "palette": (encoded(PALETTE, "PNG"), IN_PALETTE),
    "palette-with-alpha": (encoded(PALETTE, "PNG", transparency=bytes(range(256))), IN_PALETTE),
    "alpha": (encoded(Image.fromarray(np.dstack([COLOUR, COLOUR[..., :1]])), "PNG"), COLOUR),
    "grey-with-alpha": (encoded(Image.fromarray(COLOUR[..., :2], "LA"), "PNG"), grey(COLOUR[..., 0])),
    "exif-rotation": (encoded(COLOURED, "PNG", exif=turned()), COLOUR),  # as it is stored, as torchvision reads it
    "exif-rotation-jpeg": (TURNED_JPEG, by_pillow(TURNED_JPEG)),
    "one-pixel": (encoded(Image.new("RGB", (1, 1), (9, 99, 199)), "PNG"), np.array([[[9, 99, 199]]], np.uint8)),
    "one-column": (encoded(Image.new("L", (1, 300), 7), "PNG"), grey(np.full((300, 1), 7))),
    "animated-png": (encoded(COLOURED, "PNG", save_all=True, append_images=[OTHER]), COLOUR),
    "animated-webp": (encoded(COLOURED, "WEBP", save_all=True, append_images=[OTHER], lossless=True), COLOUR),
    "animated-gif": (encoded(PALETTE, "GIF", save_all=True, append_images=[OTHER.convert("P")]), IN_PALETTE),
    "mpo": (MPO, by_pillow(MPO)),  # as many telephones write it
    "pages": (encoded(COLOURED, "TIFF", save_all=True, append_images=[OTHER]), COLOUR),
}
"""Content, and the pixels that it stands for, by the name of the file, which ends in .jpg whatever is in it."""

BAD: dict[str, tuple[bytes, str]] = {
    "bomb": (png_of(20_000, 20_000), "400000000 pixels"),
    "icon": (encoded(COLOURED, "ICO"), "not an image of a known format"),
    "no-width": (png_of(0, 5), "not an image"),
    "floats": (encoded(Image.fromarray(RNG.random((5, 5)).astype(np.float32)), "TIFF"), "no known scale"),
    "postscript": (encoded(COLOURED, "EPS"), "not an image of a known format"),
    "text": (b"This is not an image.\n" * 50, "not an image"),
    "truncated": (encoded(COLOURED.resize((200, 200)), "JPEG")[:3000], "truncated"),
    "zero-byte": (b"", "the file is empty"),
}
"""Content, and words of the reason, by the name of the file."""


def plain(number: int) -> bytes:
    return encoded(Image.new("L", (4, 4), number), "PNG")


@dataclass(frozen=True)
class Way:
    """A kind of data set.

    Args:
        name: of the set.
        place: of a file of class a or b, by its name.
        table: file and text of a table, by the class of each name.
    """

    name: str
    place: Callable[[str, str], str]
    table: Callable[[Mapping[str, str]], tuple[str, str]] | None = None

    def write(self, root: Path, files: Mapping[str, bytes]) -> Data:
        """Write a set with these files in class a, beside some sound ones of both classes."""
        sound = {f"{label}{number}": plain(10 * number + (label == "b")) for label in "ab" for number in range(5)}
        classes = {name: name[0] if name in sound else "a" for name in (*sound, *files)}
        for name, content in {**sound, **files}.items():
            path = root / self.place(name, classes[name])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if self.table:
            table, text = self.table(classes)
            (root / table).write_text(text)
        return Data(name=self.name, root=str(root), image_size_px=SIZE)


def in_part(name: str, label: str) -> str:
    return f"{'test' if name in ('a0', 'b0') else 'train'}/{label}/{name}.jpg"


def csv_table(classes: Mapping[str, str]) -> tuple[str, str]:
    return "labels.csv", "\n".join(["path,label", *(f"{name}.jpg,{label}" for name, label in classes.items())])


def isic_table(classes: Mapping[str, str]) -> tuple[str, str]:
    rows = (f"{name},{float(label == 'a')},{float(label == 'b')}" for name, label in classes.items())
    return TRUTH, "\n".join(["image,a,b", *rows])


WAYS = [
    Way("folder", in_part),
    Way("csv", lambda name, _: f"{name}.jpg", csv_table),
    Way("isic2019", lambda name, _: f"{IMAGES}/{name}.jpg", isic_table),
    Way("dermofit", lambda name, label: f"{label}/{name}.jpg"),
]
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)


def position(listing: Listing, name: str) -> int:
    (found,) = (i for i, item in enumerate(listing.items) if Path(item.path).stem == name)
    return found


def resized(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def assert_read(listing: Listing, expected: Mapping[str, np.ndarray]) -> None:
    """Compare what is cached, what is found in the cache, and what is decoded without one."""
    for pixels in (load_pixels(listing, SIZE), load_pixels(listing, SIZE), Pixels(listing, SIZE, None)):
        wrong = [n for n, image in expected.items() if not np.array_equal(pixels[position(listing, n)], resized(image))]
        assert not wrong


@ways
def test_the_same_pixels_by_every_way(tmp_path: Path, way: Way) -> None:
    listing = list_images(way.write(tmp_path, {name: content for name, (content, _) in GOOD.items()}))
    assert listing.bad_images == {} and len(listing.items) == 10 + len(GOOD)
    assert_read(listing, {name: pixels for name, (_, pixels) in GOOD.items()})


def views(listing: Listing, route: Any, name: str) -> list[torch.Tensor]:
    """Return a file's image plain and in three epochs of augmentation, as a trial gets them."""
    alone = replace(listing, items=(listing.items[position(listing, name)],))  # the draws depend on the position
    batches = Batches(load_pixels(alone, SIZE), seed=0, stream="x", views=views_of(Data(pipeline=route)))
    epochs = [batches.evaluation([0]), *(batches.training([0], 1, epoch, drop_last=False) for epoch in (1, 2, 3))]
    return [view for epoch in epochs for batch in epoch for view in batch.on(torch.device("cpu"))]


@ways
@pytest.mark.parametrize("route", ROUTES)
def test_the_same_views_by_every_route(tmp_path: Path, way: Way, route: str) -> None:
    """A file of any kind becomes what the plain file of the same pixels does."""
    if route.startswith("opencv"):
        pytest.importorskip("cv2")
    files = {name: content for name, (content, _) in GOOD.items()}
    twins = {f"{name}-plain": encoded(Image.fromarray(pixels), "PNG") for name, (_, pixels) in GOOD.items()}
    listing = list_images(way.write(tmp_path, {**files, **twins}))
    for name in GOOD:
        found, expected = views(listing, route, name), views(listing, route, f"{name}-plain")
        assert len(found) == 4
        assert name != "alpha" or len({view.numpy().tobytes() for view in found}) > 2, "nothing was done"
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True)), name


@ways
def test_what_cannot_be_read_is_named_with_its_reason(tmp_path: Path, way: Way) -> None:
    data = way.write(tmp_path, {name: content for name, (content, _) in BAD.items()})
    with pytest.raises(UsageError) as caught:
        list_images(data)
    (text,) = caught.value.problems
    assert f"{len(BAD)} files do not" in text and "--data.on-bad-image skip" in text
    listing = list_images(replace(data, on_bad_image="skip"))
    assert len(listing.items) == 10
    assert set(listing.bad_images) == {way.place(name, "a") for name in BAD}
    for name, (_, words) in BAD.items():
        assert words in listing.bad_images[way.place(name, "a")] and way.place(name, "a") in text
    load_pixels(listing, SIZE)


def test_postscript_is_not_drawn_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would start Ghostscript, an interpreter of programs."""
    drawn = list[object]()

    def ghostscript(*picture: object) -> Any:
        drawn.append(picture)
        return COLOURED.copy().im

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", ghostscript)
    by_pillow(BAD["postscript"][0])
    assert len(drawn) == 1, "Pillow does"
    data = WAYS[0].write(tmp_path, {"x": BAD["postscript"][0]})
    with pytest.raises(UsageError, match="not an image of a known format"):
        list_images(data)
    assert len(drawn) == 1


@ways
def test_a_file_that_changes_after_the_listing_is_named(tmp_path: Path, way: Way) -> None:
    """Pixels of another image would be cached under the hash of the old content."""
    listing = list_images(way.write(tmp_path, {"x": GOOD["alpha"][0]}))
    for content in (*(content for content, _ in BAD.values()), plain(99)):
        (tmp_path / way.place("x", "a")).write_bytes(content)
        for read in (lambda: load_pixels(listing, SIZE), lambda: Pixels(listing, SIZE, None)[position(listing, "x")]):
            with pytest.raises(UsageError, match=f"{way.place('x', 'a')}.* has changed since the data were listed"):
                read()


@pytest.mark.real_data
@ways
def test_real_pngs_named_jpg(real_data: Path, tmp_path: Path, way: Way) -> None:
    files = sorted((real_data / "brain_mri_edge_cases" / "png_named_jpg").glob("*.jpg"))
    assert len(files) == 5
    listing = list_images(way.write(tmp_path, {file.stem: file.read_bytes() for file in files}))
    expected = {}
    for file in files:
        with Image.open(file) as image:
            expected[file.stem] = np.asarray(image.convert("RGB"))
    assert_read(listing, expected)
