"""Draws are functions of (seed, stream, counters), and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from cass_tune.philox import philox
from cass_tune.randomness import generator


def test_a_sequence_is_numpys_own_of_the_key_at_the_place() -> None:
    key, counter = (2**63 + 5, 7), (0, 0, 11, 3)
    words = [np.array(each, dtype=np.uint64) for each in (key, counter)]
    theirs = np.random.Generator(np.random.Philox(key=words[0], counter=words[1]))
    ours = np.random.Generator(philox(key, counter))
    assert np.array_equal(ours.random(9), theirs.random(9)) and np.array_equal(
        ours.integers(5, size=9), theirs.integers(5, size=9)
    )


def test_every_part_of_the_place_counts() -> None:
    places = [(0, "a", 0, 0), (1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1)]
    firsts = [generator(*place).random() for place in places]
    assert len(set(firsts)) == len(places)
    assert firsts == [generator(*place).random() for place in places]


def test_a_generator_has_no_children_of_the_systems_entropy() -> None:
    with pytest.raises(TypeError):
        generator(0, "a").spawn(1)
