"""The verdicts on the papers' claims, on numbers that can be followed by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from analysis.claims import Claim, Verdict, claims, claims_table, direction, published_spread, size, small, summary
from analysis.groups import split
from analysis.results import load
from analysis.statistics import Estimate
from cass_tune.config import Trial, control, with_field
from tests.analysis.synthetic import SMALL, Root

FULL = with_field(SMALL, "data.label_fraction", 1.0)
TENTH = with_field(SMALL, "data.label_fraction", 0.1)


def found(root: Root, axes: list[str]) -> dict[str, Claim]:
    (group, *_) = split(load(root.study), axes)
    return {claim.text: claim for claim in claims(group.frame, axes)}


def filled(folder: Path, scores: Mapping[Trial, tuple[float, float]], axes: list[str], seconds: float = 10.0) -> Root:
    root = Root(folder)
    root.plan(scores, axes)
    for trial, (cnn, vit) in scores.items():
        times = {"pretrain": seconds * (1 if trial.pretrain.method == "cass" else 2), "cnn": 1.0, "vit": 1.0}
        root.finish(trial, cnn, vit, seconds=times)
    return root


def seeds(trial: Trial, values: list[tuple[float, float]]) -> dict[Trial, tuple[float, float]]:
    return {with_field(trial, "seed", seed): value for seed, value in enumerate(values)}


@pytest.mark.parametrize(
    ("low", "high", "of_direction", "of_size", "of_small"),
    [
        (0.01, 0.05, "supported", "supported", "cannot tell"),
        (0.01, 0.03, "supported", "not supported", "supported"),
        (-0.01, 0.05, "cannot tell", "cannot tell", "cannot tell"),
        (-0.05, -0.01, "not supported", "not supported", "supported"),
        (0.05, 0.09, "supported", "supported", "not supported"),
    ],
)
def test_rules(low: float, high: float, of_direction: Verdict, of_size: Verdict, of_small: Verdict) -> None:
    estimate = Estimate((low + high) / 2, low, high, 3)
    assert direction(estimate) == of_direction
    assert size(estimate, 0.04) == of_size
    assert small(estimate, 0.04) == of_small


def test_one_seed_tells_nothing() -> None:
    one = Estimate(0.5, math.nan, math.nan, 1)
    assert {direction(one), size(one, 0.1), small(one, 0.1)} == {"cannot tell"}


def test_gain_over_the_control(tmp_path: Path) -> None:
    cass = seeds(FULL, [(0.80, 0.70), (0.82, 0.72), (0.81, 0.71)])
    none = seeds(control(FULL), [(0.60, 0.50), (0.62, 0.51), (0.60, 0.50)])
    of = found(filled(tmp_path, {**cass, **none}, ["pretrain.batch_size"]), ["pretrain.batch_size"])
    claim = of["CASS is better than finetuning without pretraining"]
    assert claim.verdict == "supported" and claim.estimate.n == 3
    assert claim.estimate.mean == pytest.approx((0.2 + 0.205 + 0.21) / 3)
    assert "CNN, batch 16 +0.203" in claim.evidence and "ViT, batch 16 +0.207" in claim.evidence
    (text,) = [text for text in of if "gains" in text]
    assert text.startswith("with 100 % of the labels, CASS gains 10.13 points")
    assert of[text].verdict == "supported" and "0.1013" in of[text].rule and "no pretraining" in of[text].rule
    table = claims_table(list(of.values()))
    assert table["verdict"].tolist() == ["supported", "supported"] and table["n"].tolist() == [3, 3]
    assert summary(list(of.values())).endswith("2; 2 supported, 0 not supported, 0 cannot tell.")


def test_a_smaller_gain_than_claimed(tmp_path: Path) -> None:
    cass = seeds(FULL, [(0.64, 0.54), (0.66, 0.55), (0.64, 0.54)])
    none = seeds(control(FULL), [(0.60, 0.50), (0.62, 0.51), (0.60, 0.50)])
    of = found(filled(tmp_path, {**cass, **none}, ["pretrain.batch_size"]), ["pretrain.batch_size"])
    assert of["CASS is better than finetuning without pretraining"].verdict == "supported"
    (gain,) = [claim for text, claim in of.items() if "gains" in text]
    assert gain.verdict == "not supported"


def test_the_best_of_several_methods_counts(tmp_path: Path) -> None:
    dino, axes = with_field(TENTH, "pretrain.method", "dino"), ["pretrain.method"]
    scores = {
        **seeds(TENTH, [(0.70, 0.70), (0.71, 0.71), (0.72, 0.72)]),
        **seeds(dino, [(0.75, 0.75), (0.77, 0.77), (0.76, 0.76)]),
        **seeds(control(TENTH), [(0.5, 0.5), (0.5, 0.5), (0.5, 0.5)]),
    }
    of = found(filled(tmp_path, scores, axes), axes)
    assert of["CASS is better than finetuning without pretraining"].verdict == "supported"
    assert of["CASS is better than DINO"].verdict == "not supported"
    (gain,) = [claim for text, claim in of.items() if "gains" in text]
    assert "(DINO)" in gain.rule and gain.estimate.mean == pytest.approx(-0.05)
    time = of["CASS takes 69 % less time to pretrain than DINO"]
    assert time.estimate.mean == pytest.approx(0.5) and time.verdict == "not supported"
    assert "0.500 [0.500, 0.500]" in time.evidence


def test_robustness(tmp_path: Path) -> None:
    axes = ["pretrain.method", "pretrain.batch_size"]
    scores: dict[Trial, tuple[float, float]] = {}
    for method, drop in (("cass", 0.002), ("dino", 0.2)):
        for number, batch in enumerate((8, 16, 32)):
            trial = with_field(with_field(FULL, "pretrain.method", method), "pretrain.batch_size", batch)
            value = 0.8 - (drop if number == 2 else 0.0)
            scores |= seeds(trial, [(value, value), (value + 0.01, value), (value - 0.01, value + 0.01)])
    of = found(filled(tmp_path, scores, axes), axes)
    robust = of["CASS is robust to the batch size of the pretraining"]
    assert robust.verdict == "supported" and robust.estimate.mean == pytest.approx(0.002)
    assert of["CASS is more robust to the batch size than DINO"].estimate.mean == pytest.approx(0.198)
    assert of["CASS is more robust to the batch size than DINO"].verdict == "supported"
    assert "CNN +0.198" in of["CASS is more robust to the batch size than DINO"].evidence


def levels(values: Mapping[int, float], count: int = 3) -> dict[Trial, tuple[float, float]]:
    """Return trials of each batch size, whose macro-F1 differs a little from seed to seed."""
    found: dict[Trial, tuple[float, float]] = {}
    for batch, value in values.items():
        trial = with_field(FULL, "pretrain.batch_size", batch)
        found |= seeds(trial, [(value + seed / 100, value - seed / 100) for seed in range(count)])
    return found


ROBUST = "CASS is robust to the batch size of the pretraining"


def test_a_middle_level_that_is_the_worst_is_not_robust(tmp_path: Path) -> None:
    axes = ["pretrain.batch_size"]
    claim = found(filled(tmp_path, levels({8: 0.8, 16: 0.5, 32: 0.79}), axes), axes)[ROBUST]
    assert claim.estimate.mean == pytest.approx(0.3) and claim.verdict == "not supported"


def test_robustness_without_a_level_cannot_be_told(tmp_path: Path) -> None:
    axes = ["pretrain.batch_size"]
    scores = levels({8: 0.8, 16: 0.8, 32: 0.8})
    root = Root(tmp_path)
    root.plan(scores, axes)
    for trial, (cnn, vit) in scores.items():
        if trial.pretrain.batch_size != 32:
            root.finish(trial, cnn, vit)
    assert found(root, axes)[ROBUST].verdict == "cannot tell" and found(root, axes)[ROBUST].evidence == "CNN -; ViT -"
    for trial, (cnn, vit) in scores.items():
        root.finish(trial, cnn, vit)
    (group, *_) = split(load(root.study), axes)
    is_gone = (group.frame["arm"] == "vit") & (group.frame["pretrain_batch_size"] == 32)
    vit_gone = group.frame.assign(macro_f1=group.frame["macro_f1"].mask(is_gone))
    (claim,) = [claim for claim in claims(vit_gone, axes) if claim.text == ROBUST]
    assert claim.verdict == "cannot tell" and claim.estimate.n == 0
    assert claim.evidence == "CNN +0.000 [+0.000, +0.000]; ViT -"


def test_a_method_without_common_seeds_is_not_the_best_other(tmp_path: Path) -> None:
    dino, axes = with_field(TENTH, "pretrain.method", "dino"), ["pretrain.method", "pretrain.batch_size"]
    other = with_field(TENTH, "pretrain.batch_size", 32)
    scores = {
        **seeds(TENTH, [(0.70, 0.70), (0.71, 0.71), (0.72, 0.72)]),
        **seeds(other, [(0.70, 0.70), (0.71, 0.71), (0.72, 0.72)]),
        dino: (0.9, 0.9),
        with_field(with_field(dino, "pretrain.batch_size", 32), "seed", 1): (0.9, 0.9),
        **seeds(control(TENTH), [(0.5, 0.5), (0.5, 0.5), (0.5, 0.5)]),
    }
    (gain,) = [claim for text, claim in found(filled(tmp_path, scores, axes), axes).items() if "gains" in text]
    assert "(no pretraining)" in gain.rule and gain.estimate.n == 3


def test_the_published_spread() -> None:
    assert published_spread("pretrain.batch_size") == pytest.approx(0.9315 - 0.9176)
    assert published_spread("pretrain.epochs") == pytest.approx(0.9476 - 0.9262)


def test_nothing_to_test(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan(seeds(control(FULL), [(0, 0)]))
    assert found(root, ["pretrain.batch_size"]) == {}
    assert summary([]) == "This study can test no claim of the papers."


def test_nothing_done_yet(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.plan([*seeds(FULL, [(0, 0)] * 2), *seeds(control(FULL), [(0, 0)] * 2)])
    assert found(root, ["pretrain.batch_size"]) == {}
