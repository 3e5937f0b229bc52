"""Iterative stratification: whole groups, every label in its share."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from cass_tune.data.stratify import iterative_stratification, rarest_label

LABELS = st.lists(st.sets(st.sampled_from("abcd")).map(lambda names: tuple(sorted(names))), min_size=1, max_size=80)


@settings(deadline=None, max_examples=150)
@given(labels=LABELS, parts=st.integers(2, 6), seed=st.integers(0, 3), data=st.data())
def test_every_group_has_one_part(labels: list[tuple[str, ...]], parts: int, seed: int, data: st.DataObject) -> None:
    numbers = st.lists(st.integers(0, 20), min_size=len(labels), max_size=len(labels))
    groups = data.draw(numbers)
    found = iterative_stratification(labels, groups, [1 / parts] * parts, seed, "stream")
    assert found == iterative_stratification(labels, groups, [1 / parts] * parts, seed, "stream")
    assert set(found) <= set(range(parts)) and len(found) == len(labels)
    assert len(set(zip(groups, found, strict=True))) == len(set(groups))


@settings(deadline=None, max_examples=100)
@given(labels=LABELS, parts=st.integers(2, 6), seed=st.integers(0, 3))
def test_the_rarest_label_is_shared_out_evenly(labels: list[tuple[str, ...]], parts: int, seed: int) -> None:
    """It is the first to be shared out, so no part has two of it more than another."""
    found = iterative_stratification(labels, range(len(labels)), [1 / parts] * parts, seed, "stream")
    counts = Counter(name for label in labels for name in label or ("",))
    rarest = min(counts, key=lambda name: (counts[name], name))
    has = Counter(part for part, label in zip(found, labels, strict=True) if rarest in (label or ("",)))
    assert max(has[part] for part in range(parts)) - min(has[part] for part in range(parts)) <= 1


def test_shares() -> None:
    labels = [("a",)] * 60 + [("a", "b")] * 20 + [()] * 20
    found = iterative_stratification(labels, range(100), (0.7, 0.2, 0.1), 0, "stream")
    assert Counter(found) == {0: 70, 1: 20, 2: 10}
    assert Counter(part for part, label in zip(found, labels, strict=True) if "b" in label) == {0: 14, 1: 4, 2: 2}
    assert found != iterative_stratification(labels, range(100), (0.7, 0.2, 0.1), 1, "stream")


def test_rarest_label() -> None:
    assert rarest_label([("a", "b"), ("a",), (), ("a", "c"), ("b", "c")]) == ["b", "a", "", "c", "b"]
