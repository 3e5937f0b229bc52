"""A synthetic set that looks like axial brain MRI, for demonstrations and tests: no download, the same everywhere.

Four classes, named as in the Brain Tumor MRI set: a head with skull, brain, folds and ventricles, and in it nothing
(notumor), an irregular mass with a dark core inside a hemisphere (glioma), a bright round mass at the rim (meningioma)
or a small bright mass below the middle (pituitary). Contrast, size and place overlap, so that the classes are
learnable but not trivially so. It says nothing about medicine.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from cass_tune.data.listing import Item, Listing, Split
from cass_tune.randomness import generator

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
IMAGES_PER_CLASS: dict[Split, int] = {"train": 100, "test": 50}
SIZE_PX = 64
FAINT_SHARE = 0.16
"""Share of the tumours that can hardly be seen, so that no training reaches 1."""
VERSION = 1
SEED = 20220608  # arXiv 2206.04170, first version


def phantom_listing() -> Listing:
    """Return the list of the synthetic images; each is generated when it is opened."""
    items = []
    for part, count in IMAGES_PER_CLASS.items():
        for label in CLASSES:
            for number in range(count):
                path = f"{part}/{label}/{number:03d}"
                sha256 = hashlib.sha256(f"{_parameters()}/{path}".encode()).hexdigest()
                items.append(Item(path=path, sha256=sha256, label=label, split=part, group=path))
    return Listing(
        name="phantom",
        items=tuple(sorted(items, key=lambda item: item.path)),
        open_image=_open,
        fingerprint=hashlib.sha256(_parameters().encode()).hexdigest(),
    )


def _parameters() -> str:
    return json.dumps(["phantom", VERSION, CLASSES, IMAGES_PER_CLASS, SIZE_PX, FAINT_SHARE, SEED])


def _open(item: Item) -> Image:
    from PIL import Image

    (label,) = item.labels
    return Image.fromarray(draw(item.path, label)).convert("RGB")


def draw(path: str, label: str) -> np.ndarray:
    """Return one grey image, uint8, shape (SIZE_PX, SIZE_PX), a function of its path and class alone."""
    import numpy as np

    rng = generator(SEED, f"phantom/{VERSION}/{path}")
    x, y = _head_coordinates(rng)
    image = _head(x, y, rng)
    mass, contrast = _mass(label, x, y, rng)
    image = image + contrast * mass
    image = image * rng.uniform(0.92, 1.08) + rng.normal(0, rng.uniform(0.02, 0.06), image.shape)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def _head_coordinates(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in which the skull is the unit circle and up is the forehead."""
    import numpy as np

    grid = np.linspace(-1.25, 1.25, SIZE_PX)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    angle = rng.normal(0, 0.08)
    x, y = x - rng.normal(0, 0.04), y - rng.normal(0, 0.04)
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return x / rng.uniform(0.80, 0.90), y / rng.uniform(0.98, 1.08)


def _smooth_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    import numpy as np
    from PIL import Image

    coarse = rng.normal(0, 1, (cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC), dtype=np.float64)


def _head(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    import numpy as np

    radius = np.hypot(x, y)
    skull = np.exp(-(((radius - 1) / 0.06) ** 2)) * rng.uniform(0.5, 0.6)
    folds = 0.04 * _smooth_noise(rng, 14) + 0.02 * _smooth_noise(rng, 6)
    brain = (radius < 0.92) * (rng.uniform(0.24, 0.28) + folds)
    spread = rng.uniform(0.10, 0.16)
    ventricles = np.exp(-(((np.abs(x) - spread) / 0.07) ** 2) - ((y + 0.02) / rng.uniform(0.2, 0.3)) ** 2)
    return skull + brain - 0.22 * ventricles * (radius < 0.92)


def _mass(label: str, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """The tumour's shape, between 0 and 1, and its brightness against the brain."""
    import numpy as np

    is_faint = rng.uniform() < FAINT_SHARE
    contrast = rng.uniform(0.0, 0.08) if is_faint else rng.uniform(0.55, 0.90)
    side = rng.choice([-1.0, 1.0])
    if label == "notumor":
        return np.zeros_like(x), 0.0
    if label == "pituitary":
        centre, radius, edge = (rng.normal(0, 0.06), rng.normal(0.42, 0.08)), rng.uniform(0.16, 0.24), 0.03
    elif label == "meningioma":
        angle = rng.uniform(0, 2 * np.pi)
        centre, radius, edge = (0.68 * np.cos(angle), 0.68 * np.sin(angle)), rng.uniform(0.22, 0.34), 0.03
    else:
        centre, radius, edge = (side * rng.uniform(0.28, 0.55), rng.uniform(-0.5, 0.4)), rng.uniform(0.34, 0.50), 0.08
    distance = np.hypot(x - centre[0], y - centre[1]) / radius
    if label == "glioma":
        distance = distance + 0.25 * _smooth_noise(rng, 8)
    mass = 1 / (1 + np.exp((distance - 1) * radius / edge))
    if label == "glioma":  # a dark core in a bright rim
        mass = mass - rng.uniform(1.4, 1.8) * np.exp(-((distance / 0.75) ** 2))
    return mass * (np.hypot(x, y) < 0.95), contrast
