"""Probes of frozen features: what they must find, what they must not look at, and what they must not touch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from cass_tune.config import ARMS
from cass_tune.training import feature_probes
from cass_tune.training import linear_probe as logistic
from cass_tune.training.feature_probes import (
    Features,
    extract,
    knn_macro_f1,
    knn_probabilities,
    knn_probe,
)
from cass_tune.training.linear_probe import C_GRID, linear_probe
from tests import tiny

CLASSES = 4
Parts = dict[str, Features]
PROBES: dict[str, Callable[[Parts], dict[str, Any]]] = {
    "linear": lambda parts: linear_probe(parts, CLASSES),
    "knn": lambda parts: knn_probe(parts, CLASSES),
}
both = pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)


def clusters(seed: int, images: int, spread: float = 0.3, dimensions: int = 16) -> Features:
    """Return features around one direction per class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % CLASSES
    values = np.eye(CLASSES, dimensions)[labels] * 3 + spread * rng.standard_normal((images, dimensions))
    return Features(values=values, labels=labels)


def parts(spread: float = 0.3, images: int = 200) -> Parts:
    names = ("labelled", "validation", "test")
    return {name: clusters(seed, images, spread) for seed, name in enumerate(names)}


def shuffled(features: Features) -> Features:
    return replace(features, labels=np.random.default_rng(9).permutation(features.labels))


@both
def test_separable_features(probe: Callable[[Parts], dict[str, Any]]) -> None:
    found = probe(parts())
    for part in ("validation", "test"):
        values = found[part]
        assert [values[name] for name in ("macro_f1", "accuracy", "balanced_accuracy", "auroc")] == [1.0] * 4
        assert values["n"] == 200


@both
def test_shuffled_test_labels_are_chance(probe: Callable[[Parts], dict[str, Any]]) -> None:
    true = parts()
    found = probe({**true, "test": shuffled(true["test"])})
    assert found["validation"]["macro_f1"] == 1.0
    assert found["test"]["macro_f1"] == pytest.approx(1 / CLASSES, abs=0.1)
    assert found["test"]["auroc"] == pytest.approx(0.5, abs=0.1)


@both
def test_the_test_part_changes_nothing_but_its_own_numbers(probe: Callable[[Parts], dict[str, Any]]) -> None:
    true = parts(spread=2.0)
    others = {**true, "test": shuffled(clusters(7, 40, spread=1.0))}
    one, other = probe(true), probe(others)
    assert one.pop("test") != other.pop("test")
    assert one == other


@both
def test_validation_labels_are_never_fitted(
    probe: Callable[[Parts], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logistic, "C_GRID", (0.01,))
    true = parts(spread=2.0)
    others = {**true, "validation": shuffled(clusters(7, 40, spread=1.0))}
    one, other = probe(true), probe(others)
    assert one["validation"] != other["validation"] and one["test"] == other["test"]


@both
def test_constant_features_predict_one_class(probe: Callable[[Parts], dict[str, Any]]) -> None:
    constant = {name: replace(part, values=np.full_like(part.values, 0.3)) for name, part in parts().items()}
    found = probe(constant)["test"]
    assert found["macro_f1"] == pytest.approx(2 * 0.25 / 1.25 / CLASSES, abs=1e-6)
    assert found["balanced_accuracy"] == 1 / CLASSES and found["auroc"] == 0.5


def test_rounding_is_not_taken_for_a_feature() -> None:
    rounded = {
        name: replace(part, values=0.3 + 1e-9 * np.float64(part.values)) for name, part in parts(images=40).items()
    }
    assert linear_probe(rounded, CLASSES)["test"]["auroc"] == 0.5


@both
def test_one_class_among_the_labels(probe: Callable[[Parts], dict[str, Any]]) -> None:
    true = parts()
    of_class = true["labelled"].labels == 2
    one = Features(values=true["labelled"].values[of_class], labels=true["labelled"].labels[of_class])
    found = probe({**true, "labelled": one})
    assert found["test"]["balanced_accuracy"] == 1 / CLASSES and found["test"]["auroc"] == 0.5
    assert found["test"]["confusion_matrix"][0] == [0, 0, 50, 0]


def test_a_class_without_a_labelled_image_is_never_predicted() -> None:
    true = parts()
    there = true["labelled"].labels != 1
    some = Features(values=true["labelled"].values[there], labels=true["labelled"].labels[there])
    found = linear_probe({**true, "labelled": some}, CLASSES)
    assert [row[1] for row in found["test"]["confusion_matrix"]] == [0] * CLASSES
    assert found["test"]["balanced_accuracy"] == 0.75


class TestC:
    def test_the_smallest_of_equal_ones(self) -> None:
        found = linear_probe(parts(), CLASSES)
        assert (found["c"], found["at_grid_end"], found["converged"]) == (C_GRID[0], True, True)
        assert 0 < found["iterations"] < 1000

    def test_by_validation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scores = dict.fromkeys(C_GRID, 0.5) | {0.1: 0.7, 1.0: 0.7}
        true, fits = parts(), iter(C_GRID)
        measured = logistic.probe_metrics

        def metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
            found = measured(probabilities, labels)
            c = next(fits, None)
            return found if c is None else {**found, "macro_f1": scores[c]}

        monkeypatch.setattr(logistic, "probe_metrics", metrics)
        found = linear_probe(true, CLASSES)
        assert (found["c"], found["at_grid_end"]) == (0.1, False)

    def test_a_fit_that_does_not_converge_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logistic, "MAX_ITERATIONS", 1)
        found = linear_probe(parts(), CLASSES)  # and its warning, an error in tests, is no error
        assert (found["converged"], found["iterations"]) == (False, 1)
        assert issubclass(ConvergenceWarning, UserWarning)

    def test_balanced_weights(self) -> None:
        rng = np.random.default_rng(0)
        labels = np.repeat([0, 1], [90, 10])
        few = Features(values=rng.standard_normal((100, 3)) + labels[:, None] * 0.5, labels=labels)
        same: Parts = {"labelled": few, "validation": few, "test": few}
        found = [linear_probe(same, 2, is_balanced=balanced)["test"] for balanced in (True, False)]
        assert found[0]["balanced_accuracy"] > found[1]["balanced_accuracy"]

    def test_it_can_be_left_between_two_fits(self) -> None:
        def leave() -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError):
            linear_probe(parts(), CLASSES, between=leave)


class TestNeighbours:
    def test_votes_by_hand(self) -> None:
        labelled = Features(values=np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]]), labels=np.array([0, 1, 1]))
        found = knn_probabilities(labelled, np.array([[1.0, 0.0]]), 3)
        votes = np.exp(np.array([1.0, 0.0, np.sqrt(0.5)]) / 0.07)
        assert found == pytest.approx(np.array([[votes[0], votes[1] + votes[2], 0.0]]) / votes.sum())

    @pytest.mark.parametrize(("images", "k"), [(8, 8), (60, 20)])
    def test_k(self, images: int, k: int) -> None:
        few = {**parts(), "labelled": clusters(0, images)}
        assert knn_probe(few, CLASSES)["k"] == k

    def test_only_the_nearest_vote(self) -> None:
        near = Features(values=np.tile([1.0, 0.1], (20, 1)), labels=np.zeros(20, dtype=int))
        far = Features(values=np.tile([1.0, 0.2], (50, 1)), labels=np.ones(50, dtype=int))
        both = Features(values=np.vstack([far.values, near.values]), labels=np.append(far.labels, near.labels))
        assert knn_probabilities(both, np.array([[1.0, 0.0]]), 2).tolist() == [[1.0, 0.0]]

    def test_a_feature_that_is_not_finite_has_no_score(self) -> None:
        labelled, queries = clusters(0, 40), clusters(1, 40)
        assert knn_macro_f1(labelled, queries, CLASSES) == 1.0
        queries.values[3, 2] = np.nan
        assert np.isnan(knn_macro_f1(labelled, queries, CLASSES))


class TestExtract:
    images = tiny.listing({"train": {"a": 40, "b": 40}, "val": {"a": 2}, "test": {"a": 2, "b": 1}})

    @pytest.mark.parametrize("arm", ARMS)
    def test_what_the_head_is_given(self, arm: str) -> None:
        model = tiny.arms()[arm].train()
        before, random = tiny.state(model), torch.get_rng_state()
        positions = self.images.of_split("train")
        found = extract(model, tiny.batches(self.images, "probe").evaluation(positions))
        assert model.training and tiny.same(before, model.state_dict())
        assert torch.equal(random, torch.get_rng_state())
        assert found.labels.tolist() == [int(self.images.items[i].label == "b") for i in positions]
        seen: list[torch.Tensor] = []
        head: Any = model.get_classifier()  # type: ignore[operator]
        head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
        again = extract(model.eval(), tiny.batches(self.images, "other").evaluation(positions))
        assert not seen and np.array_equal(found.values, again.values)
        with torch.inference_mode():
            for batch in tiny.batches(self.images, "probe").evaluation(positions):
                model(feature_probes.normalise(batch.images, torch.device("cpu")))
        assert np.array_equal(found.values, torch.cat(seen).double().numpy())

    def test_it_can_be_left_between_two_batches(self) -> None:
        model = tiny.arms()["cnn"].train()

        def leave() -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError):
            extract(model, tiny.batches(self.images, "probe").evaluation(self.images.of_split("test")), leave)
        assert model.training


def several(seed: int, images: int, spread: float = 0.3) -> Features:
    """Return features in whose first dimensions each label can be read."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, CLASSES)) < 0.4).astype(np.int64)
    values = np.pad(labels * 4.0 - 2, ((0, 0), (0, 4))) + spread * rng.standard_normal((images, CLASSES + 4))
    return Features(values=values, labels=labels)


@both
def test_several_labels(probe: Callable[[Parts], dict[str, Any]]) -> None:
    parts = {name: several(seed, 200) for seed, name in enumerate(("labelled", "validation", "test"))}
    found = probe(parts)["test"]
    assert found["macro_f1"] > 0.95 and found["auroc"] > 0.98 and "confusion_matrix" not in found
    unlike = {**parts, "labelled": shuffled(parts["labelled"])}
    assert probe(unlike)["test"]["auroc"] < 0.8


def test_a_label_of_all_or_no_labelled_images_is_given_to_all_or_none() -> None:
    parts = {name: several(seed, 60) for seed, name in enumerate(("labelled", "validation", "test"))}
    labels = parts["labelled"].labels.copy()
    labels[:, 0], labels[:, 1] = 0, 1
    found = linear_probe({**parts, "labelled": replace(parts["labelled"], labels=labels)}, CLASSES)
    assert found["c"] is not None and found["test"]["macro_f1"] < 0.9
    alike = replace(parts["labelled"], labels=np.repeat(labels[:1], 60, axis=0))
    assert linear_probe({**parts, "labelled": alike}, CLASSES)["c"] is None


def test_shares_of_the_neighbours_that_have_a_label() -> None:
    labelled = Features(values=np.eye(2)[[0, 0, 0, 1]], labels=np.array([[1, 0], [1, 1], [1, 1], [0, 0]]))
    (shares,) = knn_probabilities(labelled, np.array([[1.0, 0.0]]), 2)
    assert shares == pytest.approx([1.0, 2 / 3], abs=1e-5)
