"""Who is held out, and who is labelled."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cass_tune.config import Data
from cass_tune.data.listing import Listing
from cass_tune.data.listings import Listings
from cass_tune.data.phantom import phantom_listing
from cass_tune.data.splits import (
    Parts,
    check_batch,
    distinct_splits,
    fraction_of,
    hold_out,
    left_out,
    split,
    split_digest,
    split_record,
    training_and_validation,
)
from cass_tune.errors import UsageError
from tests import tiny

PHANTOM = phantom_listing()
UNEVEN = tiny.listing({"train": {"ant": 50, "bee": 10, "cow": 5}, "test": {"ant": 5, "bee": 5, "cow": 5}})
FRACTIONS = (0.01, 0.1, 0.3, 1.0)


def labels(listing: Listing, positions: tuple[int, ...]) -> Counter[str]:
    return Counter(name for i in positions for name in listing.items[i].labels)


@pytest.mark.parametrize("listing", [PHANTOM, UNEVEN])
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_parts_never_overlap(listing: Listing, fraction: float) -> None:
    """A reproduction cut validation out of the official test part (D20)."""
    parts = split(listing, Data(label_fraction=fraction), 0)
    training, validation, test = set(parts.pretrain), set(parts.validation), set(parts.test)
    assert not training & validation and not training & test and not validation & test
    assert set(parts.labelled) <= training
    assert training | validation | test == set(range(len(listing.items)))
    assert parts.test == tuple(i for i, item in enumerate(listing.items) if item.split == "test")


def test_validation_is_stratified_and_the_same_for_every_trial() -> None:
    """20 % of each class, by the split seed alone (D21)."""
    first = split(PHANTOM, Data(), 0).validation
    assert labels(PHANTOM, first) == dict.fromkeys(PHANTOM.classes, 20)
    for seed in range(1, 5):
        for fraction in FRACTIONS:
            some = Data(label_fraction=fraction, pretrain_fraction=fraction)
            assert split(PHANTOM, some, seed).validation == first
    assert split(PHANTOM, Data(split_seed=1), 0).validation != first
    assert labels(UNEVEN, split(UNEVEN, Data(), 0).validation) == {"ant": 10, "bee": 2, "cow": 1}


def test_validation_follows_the_images_not_their_places() -> None:
    more = tiny.listing({"train": {"ant": 50, "bee": 10, "cow": 5}, "test": {"aardvark": 3, "ant": 5}})
    names = {UNEVEN.items[i].path for i in training_and_validation(UNEVEN, Data())[1]}
    assert len({more.items[i].path for i in training_and_validation(more, Data())[1]} & names) == len(names)


def test_a_validation_part_of_the_set_is_kept() -> None:
    listing = tiny.listing({"train": {"a": 5, "b": 5}, "val": {"a": 2, "b": 1}, "test": {"a": 1, "b": 1}})
    parts = split(listing, Data(validation_fraction=0.5), 3)
    assert parts.validation == listing.of_split("val")
    assert parts.pretrain == parts.labelled == listing.of_split("train")


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_the_label_fraction_does_not_touch_pretraining(fraction: float) -> None:
    """In the published code 10 % of the labels meant 10 % of the images too (D14)."""
    whole = split(PHANTOM, Data(), 0)
    parts = split(PHANTOM, Data(label_fraction=fraction), 0)
    assert parts.pretrain == whole.pretrain and len(parts.pretrain) == 320
    assert len(parts.labelled) == 4 * fraction_of(80, fraction)


@pytest.mark.parametrize("seed", range(3))
def test_label_fractions_are_stratified_and_nested(seed: int) -> None:
    """D14, D21: never stratified as published; here every class has its share and 1 % lies inside 10 %."""
    subsets = [split(PHANTOM, Data(label_fraction=fraction), seed).labelled for fraction in FRACTIONS]
    for fraction, subset in zip(FRACTIONS, subsets, strict=True):
        assert labels(PHANTOM, subset) == dict.fromkeys(PHANTOM.classes, fraction_of(80, fraction))
    assert all(set(small) < set(large) for small, large in pairwise(subsets))


def test_the_seed_chooses_the_labelled_images() -> None:
    subsets = {split(PHANTOM, Data(label_fraction=0.1), seed).labelled for seed in range(5)}
    assert len(subsets) == 5


def test_pretrain_fraction_is_nested_and_ignores_labels() -> None:
    subsets = [split(PHANTOM, Data(pretrain_fraction=fraction), 0).pretrain for fraction in FRACTIONS]
    assert [len(subset) for subset in subsets] == [3, 32, 96, 320]
    assert all(set(small) < set(large) for small, large in pairwise(subsets))
    assert split(PHANTOM, Data(pretrain_fraction=0.1), 0).labelled == split(PHANTOM, Data(), 0).labelled


def test_pretraining_images_do_not_depend_on_labels() -> None:
    listing = tiny.listing({"train": {"a": 20, "b": 30}, "val": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1}})
    swapped = replace(listing, items=tuple(replace(i, label={"a": "b", "b": "a"}[i.labels[0]]) for i in listing.items))
    some = Data(pretrain_fraction=0.3)
    assert split(listing, some, 0).pretrain == split(swapped, some, 0).pretrain
    assert split(listing, some, 0).pretrain != split(listing, some, 1).pretrain


@pytest.mark.parametrize(
    ("count", "fraction", "expected"),
    [(80, 0.01, 1), (5, 0.1, 1), (5, 0.5, 3), (3, 0.5, 2), (80, 1.0, 80), (1, 0.2, 1)],
)
def test_fraction_of(count: int, fraction: float, expected: int) -> None:
    assert fraction_of(count, fraction) == expected


def test_a_fraction_raised_to_one_image_is_a_warning() -> None:
    parts = split(UNEVEN, Data(label_fraction=0.05), 0)
    assert labels(UNEVEN, parts.labelled) == {"ant": 2, "bee": 1, "cow": 1}
    (text,) = parts.warnings
    assert text == "--data.label-fraction 0.05 is under half an image; took one of: bee, cow."
    assert split(UNEVEN, Data(label_fraction=0.2), 0).warnings == ()


def test_a_class_without_training_images_is_an_error() -> None:
    listing = tiny.listing({"train": {"a": 5, "b": 5}, "test": {"a": 1, "b": 1, "c": 2}})
    with pytest.raises(UsageError, match=r"Class 'c' has no training image beside validation"):
        split(listing, Data(), 0)


def test_patients_stay_in_one_part() -> None:
    groups = {f"train/{label}/{n:03d}": f"{label}{n // 7}" for label in "ab" for n in range(70)}
    listing = tiny.listing({"train": {"a": 70, "b": 70}, "test": {"a": 2, "b": 2}}, groups)
    parts = split(listing, Data(), 0)
    held, left = ({listing.items[i].group for i in part} for part in (parts.validation, parts.pretrain))
    assert not held & left
    assert labels(listing, parts.validation) == {"a": 14, "b": 14}


@settings(deadline=None, max_examples=150)
@given(
    images=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), min_size=1, max_size=60),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
)
def test_hold_out_keeps_groups_whole_and_leaves_some_of_every_class(
    images: list[tuple[str, int]], fraction: float, seed: int
) -> None:
    names, groups = [label for label, _ in images], [f"g{number}" for _, number in images]
    held = hold_out(names, groups, fraction, seed, "stream")
    assert held == hold_out(names, groups, fraction, seed, "stream")
    assert not {groups[i] for i in held} & {group for i, group in enumerate(groups) if i not in held}
    by_group = {g: Counter(n for n, other in zip(names, groups, strict=True) if other == g) for g in groups}
    owner = {g: min(c, key=lambda label, c=c: (-c[label], label)) for g, c in by_group.items()}
    for label in set(owner.values()):
        own = [g for g in owner if owner[g] == label]
        taken = [g for g in own if any(groups[i] == g for i in held)]
        sizes = [by_group[g].total() for g in own]
        assert len(taken) < len(own)  # one is left
        assert len(taken) >= 1 or len(own) == 1  # one is taken
        if len(taken) > 1 and len(own) > len(taken) + 1:  # otherwise whole groups allow no better
            missing = abs(sum(by_group[g].total() for g in taken) - fraction * sum(sizes))
            assert missing <= max(sizes)


def test_hold_out_of_single_images_is_the_share_of_each_class() -> None:
    names = ["a"] * 100 + ["b"] * 11
    held = hold_out(names, [str(i) for i in range(111)], 0.2, 0, "stream")
    assert Counter(names[i] for i in held) == {"a": 20, "b": 2}
    assert held != hold_out(names, [str(i) for i in range(111)], 0.2, 0, "other stream")


def test_a_pretraining_batch_larger_than_its_images_is_an_error() -> None:
    check_batch(tiny.trial({"pretrain.batch_size": 16}), 16)
    with pytest.raises(UsageError, match=r"--pretrain.batch-size 16 is larger than the 15 pretraining images"):
        check_batch(tiny.trial({"pretrain.batch_size": 16}), 15)
    check_batch(tiny.trial({"pretrain.batch_size": 16, "pretrain.method": "none"}), 15)


def test_parts_are_sorted() -> None:
    parts = split(PHANTOM, Data(label_fraction=0.1, pretrain_fraction=0.1), 0)
    assert isinstance(parts, Parts)
    for part in (parts.pretrain, parts.labelled, parts.validation, parts.test):
        assert list(part) == sorted(set(part))


SEVERAL = tiny.multi_label({"train": 400, "test": 40})


def groups(listing: Listing, positions: tuple[int, ...]) -> set[str]:
    return {listing.items[i].group for i in positions}


def test_validation_of_several_labels_has_the_share_of_each() -> None:
    parts = split(SEVERAL, Data(), 0)
    assert not groups(SEVERAL, parts.validation) & groups(SEVERAL, parts.pretrain)
    assert abs(len(parts.validation) - 80) <= 3
    every = labels(SEVERAL, SEVERAL.of_split("train"))
    for name, count in labels(SEVERAL, parts.validation).items():
        assert abs(count - 0.2 * every[name]) <= 2, name
    assert parts.validation == split(SEVERAL, Data(label_fraction=0.1), 3).validation


@pytest.mark.parametrize("seed", range(3))
def test_label_fractions_of_several_labels_are_nested_and_have_every_label(seed: int) -> None:
    subsets = [split(SEVERAL, Data(label_fraction=fraction), seed).labelled for fraction in FRACTIONS]
    assert all(set(small) < set(large) for small, large in pairwise(subsets))
    assert all(set(labels(SEVERAL, subset)) == set(SEVERAL.classes) for subset in subsets)
    assert [len(subset) for subset in subsets[1:]] == pytest.approx([32, 96, 320], abs=3)
    every = labels(SEVERAL, subsets[-1])
    assert labels(SEVERAL, subsets[2]) == {name: pytest.approx(0.3 * every[name], abs=7) for name in SEVERAL.classes}


def test_a_label_of_one_image_is_trained_on_whatever_the_fraction() -> None:
    rare = next(i for i, item in enumerate(SEVERAL.items) if item.split == "train" and item.labels == ("ant", "bee"))
    items = list(SEVERAL.items)
    items[rare] = replace(items[rare], label=("ant", "bee", "elk"))
    parts = split(replace(SEVERAL, items=tuple(items)), Data(label_fraction=0.01), 0)
    assert rare in parts.labelled


@pytest.mark.parametrize("listing", [PHANTOM, UNEVEN, SEVERAL])
def test_folds_share_out_the_training_part(listing: Listing) -> None:
    found = [split(listing, Data(folds=5, fold=fold), 0) for fold in range(1, 6)]
    held = [parts.validation for parts in found]
    assert sorted(position for part in held for position in part) == sorted(listing.of_split("train"))
    assert all(set(parts.pretrain) == set(listing.of_split("train")) - set(parts.validation) for parts in found)
    assert {parts.test for parts in found} == {listing.of_split("test")}
    every = labels(listing, listing.of_split("train"))
    for part in held:
        assert all(abs(labels(listing, part)[name] - count / 5) <= 2 for name, count in every.items())
        assert not groups(listing, part) & set().union(*(groups(listing, o) for o in held if o is not part))


def test_folds_take_in_a_validation_part_of_the_set() -> None:
    listing = tiny.listing({"train": {"a": 6, "b": 6}, "val": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}})
    held = [split(listing, Data(folds=4, fold=fold), 0).validation for fold in range(1, 5)]
    assert sorted(position for part in held for position in part) == sorted(
        [*listing.of_split("train"), *listing.of_split("val")]
    )


def test_a_class_that_lies_in_one_fold_alone_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"Class 'cow' has no training image beside validation \(--data.folds 3\)"):
        few = tiny.listing({"train": {"ant": 9, "cow": 1}, "test": {"ant": 1}})
        for fold in (1, 2, 3):
            split(few, Data(folds=3, fold=fold), 0)


@pytest.mark.parametrize("data", [Data(), Data(folds=5, fold=5)])
def test_an_empty_validation_part_is_an_error(data: Data) -> None:
    few = tiny.listing({"train": {"ant": 1, "bee": 1}, "test": {"ant": 1}})
    with pytest.raises(UsageError, match=r"The validation part .* has no image: 2 training images"):
        split(few, data, 0)


def test_leaks_are_dropped_from_training_alone() -> None:
    shared = {"train/a/000": "x", "test/a/000": "x", "train/b/001": "y", "val/b/000": "y"}
    counts = {"train": {"a": 5, "b": 5}, "val": {"a": 1, "b": 1}, "test": {"a": 2, "b": 2}}
    listing = tiny.listing(counts, shared)  # type: ignore[arg-type]
    kept, dropped = (split(listing, Data(leaks=leaks), 0) for leaks in ("keep", "drop"))
    gone = {listing.items[i].path for i in set(kept.pretrain) - set(dropped.pretrain)}
    assert gone == {"train/a/000", "train/b/001"} and set(dropped.labelled) == set(dropped.pretrain)
    assert (kept.validation, kept.test) == (dropped.validation, dropped.test)
    assert kept.warnings == () and "leaves out 2 training images" in dropped.warnings[0]
    assert (left_out(listing, Data()), left_out(listing, Data(leaks="drop"))) == ((), dropped.warnings)
    assert split(UNEVEN, Data(leaks="drop"), 0) == split(UNEVEN, Data(), 0)


def test_the_record_of_a_split_is_that_of_its_parts() -> None:
    some = Data(label_fraction=0.1, pretrain_fraction=0.5)
    record = split_record(UNEVEN, some)
    assert sorted(path for part in record["parts"].values() for path in part) == [item.path for item in UNEVEN.items]
    assert split_digest(record) == split_digest(split_record(UNEVEN, Data()))
    other = Data(split_seed=1)
    assert split_digest(record) != split_digest(split_record(UNEVEN, other))
    assert record["options"]["split_seed"] == 0 and record["fingerprint"] == UNEVEN.fingerprint


def test_splits_are_distinct_by_their_parts() -> None:
    sections = [Data(label_fraction=0.1), Data(), Data(leaks="drop"), Data(folds=3, fold=2), Data(folds=3, fold=3)]
    found = distinct_splits(Listings(sections, lambda _: UNEVEN), sections)
    assert [(data.folds, data.fold) for data in found.values()] == [(0, 1), (3, 2), (3, 3)]
    assert list(found) == [split_digest(split_record(UNEVEN, data)) for data in found.values()]
