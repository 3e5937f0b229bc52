"""The published augmentation: how often, how strongly, and the operations are torchvision's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from PIL import Image
from scipy.stats import ks_2samp
from torchvision import transforms as T
from torchvision.transforms import functional

from cass_tune.data import route_torchvision
from cass_tune.data.augmentation import augment
from cass_tune.randomness import generator

DRAWS = 3000
NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Name and main argument of every operation, which does nothing."""
    seen: list[tuple[str, Any]] = []

    def operation(name: str, argument: int | None) -> Callable[..., Image.Image]:
        def recorded(image: Image.Image, *arguments: Any, **_: Any) -> Image.Image:
            seen.append((name, arguments if argument is None else arguments[argument]))
            return image

        return recorded

    names = {f"adjust_{kind}": 0 for kind in ("brightness", "contrast", "saturation")}
    names = {**names, "perspective": 1, "affine": 0, "vflip": None, "hflip": None}
    monkeypatch.setattr(route_torchvision, "F", SimpleNamespace(**{n: operation(n, a) for n, a in names.items()}))
    return seen


def test_how_often_and_how_strongly(applied: list[tuple[str, Any]]) -> None:
    for item in range(DRAWS):
        augment(NOISE, generator(0, "augmentation", 1, item))
    values = {name: [value for other, value in applied if other == name] for name, _ in applied}
    shares = {name: len(found) / DRAWS for name, found in values.items()}
    expected = {"perspective": 0.15, "affine": 0.3, "vflip": 0.3, "hflip": 0.3}
    expected |= {f"adjust_{kind}": 0.6 for kind in ("brightness", "contrast", "saturation")}
    assert shares == {name: pytest.approx(share, abs=0.03) for name, share in expected.items()}
    for kind in ("brightness", "contrast", "saturation"):
        factors = np.array(values[f"adjust_{kind}"])
        assert 0.8 <= factors.min() < 0.81 and 1.19 < factors.max() <= 1.2
        assert factors.mean() == pytest.approx(1, abs=0.01)
    angles = np.array(values["affine"])
    assert -10 <= angles.min() < -9.8 and 9.8 < angles.max() <= 10
    assert angles.mean() == pytest.approx(0, abs=0.6)
    corners = np.array(values["perspective"]) - [[0, 0], [29, 0], [29, 19], [0, 19]]
    assert np.unique(np.abs(corners[:, :, 0])).tolist() == [0, 1, 2, 3]  # 0.2 of half the width
    assert np.unique(np.abs(corners[:, :, 1])).tolist() == [0, 1, 2]
    assert (corners[:, [1, 2], 0] <= 0).all() and (corners[:, [0, 3], 0] >= 0).all()
    assert (corners[:, [2, 3], 1] <= 0).all() and (corners[:, [0, 1], 1] >= 0).all()


PUBLISHED: Any = T.Compose(
    [
        T.RandomApply([T.ColorJitter(0.2, 0.2, 0.2), T.RandomPerspective(0.2)], p=0.3),
        T.RandomApply([T.ColorJitter(0.2, 0.2, 0.2), T.RandomAffine(10)], p=0.3),
        T.RandomVerticalFlip(0.3),
        T.RandomHorizontalFlip(0.3),
    ]
)


def parameters(applied: Sequence[tuple[str, Any]]) -> dict[str, list[float]]:
    """Return the values of every parameter: factors, the angle, each coordinate of each moved corner."""
    found: dict[str, list[float]] = {}
    for name, value in applied:
        flat = np.ravel(value) if value != () else [0.0]
        for place, number in enumerate(flat):
            found.setdefault(f"{name} {place}", []).append(float(number))
    return found


def test_every_parameter_is_distributed_as_in_the_published_pipeline(
    applied: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torchvision's own classes, as the notebook composes them, against what is drawn here."""
    for item in range(DRAWS):
        augment(NOISE, generator(0, "augmentation", 1, item))
    ours = parameters(applied)
    applied.clear()
    recorded = SimpleNamespace(**vars(route_torchvision.F), get_dimensions=functional.get_dimensions)
    monkeypatch.setattr(T.transforms, "F", recorded)
    torch.manual_seed(0)
    image = Image.fromarray(NOISE)
    for _ in range(DRAWS):
        PUBLISHED(image)
    theirs = parameters(applied)
    assert len(ours) == 3 + 8 + 1 + 2 and set(ours) == set(theirs)
    for name, values in theirs.items():
        assert len(ours[name]) / DRAWS == pytest.approx(len(values) / DRAWS, abs=0.03), name
        test: Any = ks_2samp(ours[name], values)
        assert test.pvalue > 1e-3, name


def test_jitter_takes_its_three_operations_in_any_order(applied: list[tuple[str, Any]]) -> None:
    orders = set()
    for item in range(300):
        applied.clear()
        augment(NOISE, generator(0, "augmentation", 1, item))
        names = [name for name, _ in applied if name.startswith("adjust")]
        orders |= {tuple(names[start : start + 3]) for start in range(0, len(names), 3)}
    assert len(orders) == 6 and all(len(set(order)) == 3 for order in orders)


def test_share_of_untouched_images() -> None:
    small = np.ascontiguousarray(NOISE[:8, :8])
    untouched = sum(np.array_equal(augment(small, generator(1, "x", 0, i)), small) for i in range(DRAWS))
    assert untouched / DRAWS == pytest.approx(0.7**4, abs=0.025)


def test_view_depends_on_the_generator_alone() -> None:
    before = NOISE.copy()
    views = [augment(NOISE, generator(0, "x", 1, item)) for item in range(40)]
    np.random.seed(1)
    torch.manual_seed(1)
    assert all(np.array_equal(v, augment(NOISE, generator(0, "x", 1, item))) for item, v in enumerate(views))
    assert {(view.shape, view.dtype) for view in views} == {(NOISE.shape, NOISE.dtype)}
    assert len({view.tobytes() for view in views}) > 20
    assert np.array_equal(NOISE, before)


class Scripted:
    """Draws that were written down beforehand."""

    def __init__(self, draws: Sequence[Any]) -> None:
        self.draws = list(draws)

    def next(self, *_: Any) -> Any:
        return self.draws.pop(0)

    random = uniform = permutation = integers = next


def view(*draws: Any) -> np.ndarray:
    script = Scripted(draws)
    image = augment(NOISE, script)  # type: ignore[arg-type]
    assert not script.draws
    return image


YES, NO = 0.29, 0.31
NO_JITTER = ([0, 1, 2], 1.0, 1.0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_jitter_is_torchvisions(seed: int) -> None:
    theirs: Any = T.ColorJitter(0.2, 0.2, 0.2)
    torch.manual_seed(seed)
    order, *factors, _ = T.ColorJitter.get_params(theirs.brightness, theirs.contrast, theirs.saturation, None)
    torch.manual_seed(seed)
    expected = np.asarray(theirs(Image.fromarray(NOISE)))
    ours = [int(i) for i in order if i < 3]
    found = view(YES, ours, *(factors[i] for i in ours), 0.51, NO, NO, NO)
    assert np.array_equal(found, expected) and not np.array_equal(found, NOISE)


@pytest.mark.parametrize("seed", range(5))
def test_perspective_is_torchvisions(seed: int) -> None:
    torch.manual_seed(seed)
    torch.rand(1)  # whether at all
    start, end = T.RandomPerspective.get_params(30, 20, 0.2)
    torch.manual_seed(seed)
    expected = np.asarray(T.RandomPerspective(0.2, p=1.0)(Image.fromarray(NOISE)))
    moves = [abs(b - a) for corner, moved in zip(start, end, strict=True) for a, b in zip(corner, moved, strict=True)]
    found = view(YES, *NO_JITTER, 0.49, *moves, NO, NO, NO)
    assert np.array_equal(found, expected) and not np.array_equal(found, NOISE)


@pytest.mark.parametrize("angle", [-10.0, -3.3, 7.5])
def test_rotation_is_torchvisions(angle: float) -> None:
    expected = np.asarray(T.RandomAffine((angle, angle))(Image.fromarray(NOISE)))
    found = view(NO, YES, *NO_JITTER, angle, NO, NO)
    assert np.array_equal(found, expected) and not np.array_equal(found, NOISE)


def test_flips() -> None:
    assert np.array_equal(view(NO, NO, NO, NO), NOISE)
    assert np.array_equal(view(NO, NO, YES, NO), NOISE[::-1])
    assert np.array_equal(view(NO, NO, NO, YES), NOISE[:, ::-1])
    assert np.array_equal(view(NO, NO, YES, YES), NOISE[::-1, ::-1])


def test_generators_differ_by_every_counter() -> None:
    def first(rng: Generator) -> float:
        return float(rng.random())

    places = [(0, "x", 0, 0), (1, "x", 0, 0), (0, "y", 0, 0), (0, "x", 1, 0), (0, "x", 0, 1), (0, "x", 1, 1)]
    assert len({first(generator(*place)) for place in places}) == len(places)
    assert first(generator(0, "x", 3, 4)) == first(generator(0, "x", 3, 4))


def test_the_published_strength_is_the_default_and_none_is_the_image_itself() -> None:
    for item in range(30):
        rngs = (generator(0, "augmentation", 1, item) for _ in range(3))
        views = [augment(NOISE, next(rngs)), augment(NOISE, next(rngs), 1.0), augment(NOISE, next(rngs), 0.0)]
        assert np.array_equal(views[0], views[1])
        assert np.array_equal(views[2], NOISE)


def test_the_strength_scales_ranges_and_flips(applied: list[tuple[str, Any]]) -> None:
    for item in range(DRAWS):
        augment(NOISE, generator(0, "augmentation", 1, item), 2.0)
    values = {name: [value for other, value in applied if other == name] for name, _ in applied}
    shares = {name: len(values[name]) / DRAWS for name in ("affine", "vflip", "hflip")}
    assert shares == {name: pytest.approx(x, abs=0.03) for name, x in (("affine", 0.3), ("vflip", 0.5), ("hflip", 0.5))}
    factors, angles = np.array(values["adjust_contrast"]), np.array(values["affine"])
    assert 0.6 <= factors.min() < 0.62 and 1.38 < factors.max() <= 1.4
    assert -20 <= angles.min() < -19.6 and 19.6 < angles.max() <= 20
    corners = np.array(values["perspective"]) - [[0, 0], [29, 0], [29, 19], [0, 19]]
    assert np.abs(corners[:, :, 0]).max() == 6  # 0.4 of half the width


def test_a_grey_image_gives_the_values_of_its_three_equal_channels() -> None:
    for size in ((20, 30), (64, 64)):
        plane = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
        grey = np.broadcast_to(plane[..., None], (*size, 3))
        for item in range(100):
            rngs = [generator(0, "augmentation", 1, item) for _ in range(2)]
            found = augment(grey, rngs[0])
            assert np.array_equal(found, augment(np.ascontiguousarray(grey), rngs[1])) and found.strides[-1] == 0
