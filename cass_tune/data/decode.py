"""Image files to 8-bit RGB."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
"""Pillow's names of what is opened; some of its others are for another program (EPS for Ghostscript)."""

_WIDEST_16_BIT = 65535


def open_image(file: Path | BinaryIO) -> ImageFile:
    """Open a file as the image that its content is, whatever its name.

    Raises:
        Exception: whatever Pillow raises for a file whose beginning is damaged, or that has none of `FORMATS`.
    """
    from PIL import Image

    return Image.open(file, formats=FORMATS)


def decode_rgb(file: Path | BinaryIO) -> Image:
    """Decode the whole first picture of a file to RGB, 8 bits per channel, and close the file.

    Palettes are resolved and transparency is dropped, as torchvision's loader does. Grey values of 16 bits are scaled
    by 255 / 65535 and rounded: one scale for every image, so that they stay comparable (a scanner's 12-bit values in a
    16-bit file become dark, never clipped). Grey values in 32-bit whole numbers are taken for 16-bit ones.

    Raises:
        ValueError: the grey values have no known scale (32-bit floats, or whole numbers outside 0 to 65535).
        Exception: whatever Pillow raises for a file that is damaged, truncated or no image.
    """
    with open_image(file) as image:
        image.load()
        return _to_rgb(image)


def _to_rgb(image: Image) -> Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _to_8_bit(image).convert("RGB")
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # the same colours; Pillow warns about the direct way
    return image.convert("RGB")


def _to_8_bit(image: Image) -> Image:
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > _WIDEST_16_BIT:
        raise ValueError(
            f"grey values of {values.min():g} to {values.max():g} have no known scale; save it with 8 or 16 bits"
        )
    scaled = (values.astype(np.uint32) * 255 + _WIDEST_16_BIT // 2) // _WIDEST_16_BIT
    return Image.fromarray(scaled.astype(np.uint8))
