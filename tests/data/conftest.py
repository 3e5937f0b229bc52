"""Image files for the tests of data sets, and a cache of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeImage = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the index of image files out of the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CASS_TUNE_CACHE", str(folder))
    return folder


@pytest.fixture
def make_image(tmp_path: Path) -> MakeImage:
    """Return a function that writes an image of random pixels below tmp_path; one seed gives one content."""
    seeds = iter(range(1000, 100_000))

    def write(path: str, mode: str = "RGB", seed: int | None = None, size_px: int = 16) -> Path:
        rng = np.random.default_rng(next(seeds) if seed is None else seed)
        image = Image.fromarray(rng.integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)).convert(mode)
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file, format={".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF"}.get(file.suffix.lower()))
        return file

    return write
