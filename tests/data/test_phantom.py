"""The phantom is the same everywhere."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np

from cass_tune.data.phantom import CLASSES, draw, phantom_listing


def test_all_images_are_these() -> None:
    """Another picture is another data set: raise phantom.VERSION, which is part of the fingerprint."""
    digest = hashlib.sha256()
    for item in phantom_listing().items:
        digest.update(draw(item.path, *item.labels).tobytes())
    assert digest.hexdigest() == "532fd6aec3d6e15336d036061b7e3194e3c1d96705486ec8ca3f8e20c7e454be"


def test_listing() -> None:
    listing = phantom_listing()
    assert listing.classes == CLASSES == ("glioma", "meningioma", "notumor", "pituitary")
    assert listing.counts() == {"train": dict.fromkeys(CLASSES, 100), "test": dict.fromkeys(CLASSES, 50)}
    assert [item.path for item in listing.items] == sorted(item.path for item in listing.items)
    assert len({item.sha256 for item in listing.items}) == len({item.group for item in listing.items}) == 600
    assert listing.fingerprint == phantom_listing().fingerprint
    assert listing.fingerprint == "231efe8118c85fd4c53301d080439164ecc7015712ecf14e7b08016a94a09dc2"


def test_images_differ_and_are_drawn_when_opened() -> None:
    listing = phantom_listing()
    images = [np.asarray(listing.open_image(item)) for item in listing.items[::37]]
    assert {image.shape for image in images} == {(64, 64, 3)}
    assert len({image.tobytes() for image in images}) == len(images)
    first = listing.items[0]
    assert np.array_equal(images[0][:, :, 0], draw(first.path, *first.labels))


def test_classes_differ_in_brightness_but_overlap() -> None:
    """Learnable, but not by the mean alone."""
    means: dict[str, list[float]] = {label: [] for label in CLASSES}
    for item in phantom_listing().items[::6]:
        means[item.labels[0]].append(float(draw(item.path, *item.labels).mean()))
    assert Counter({label: len(values) for label, values in means.items()}) == dict.fromkeys(CLASSES, 25)
    assert np.mean(means["meningioma"]) > np.mean(means["notumor"]) + 2
    assert max(means["notumor"]) > min(means["meningioma"])
