"""An evaluation goes on in smaller pieces when a GPU's memory is not enough."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cass_tune.training.pieces import Pieces

IMAGES = torch.arange(64.0).reshape(64, 1)


class Card:
    """A network on a card whose memory is enough for some images."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.asked: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.asked.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.02 GiB.")
        return 2 * images


@pytest.mark.parametrize(("most", "first"), [(100, [64]), (64, [64]), (40, [64, 32, 32]), (10, [64, 32, 16, *8 * [8]])])
def test_the_most_that_fits_is_found_once(most: int, first: list[int]) -> None:
    card, shortages = Card(most), list[int]()
    in_pieces = Pieces(lambda: shortages.append(1))
    assert torch.equal(in_pieces(card, IMAGES), 2 * IMAGES)
    assert card.asked == first and len(shortages) == sum(count > most for count in first)
    card.asked.clear()
    assert torch.equal(in_pieces(card, IMAGES[:33]), 2 * IMAGES[:33])
    assert sum(card.asked) == 33, "nothing is tried that did not fit"


def test_a_single_image_that_does_not_fit_is_an_error() -> None:
    card = Card(0)
    with pytest.raises(torch.OutOfMemoryError):
        Pieces()(card, IMAGES[:6])
    assert card.asked == [6, 3, 2, 1]


def test_other_errors_are_not_for_it() -> None:
    def fail(images: Tensor) -> Tensor:
        raise ValueError(len(images))

    with pytest.raises(ValueError, match="64"):
        Pieces()(fail, IMAGES)
