"""Numbers of RESULTS_VERSION 1.

When this test fails, the code gives other numbers than before. If that is on purpose, raise
`cass_tune.identity.RESULTS_VERSION` (stored results are then not mixed with new ones) and write down the new numbers
here; if not, it is a bug. The tolerance is for other machines and library versions, not for other code.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cass_tune.identity import RESULTS_VERSION
from cass_tune.presets import RECIPES
from cass_tune.results import Results
from cass_tune.trial import RunOptions, run_trial
from tests import tiny

FIELDS = {
    "data.label_fraction": 0.05,
    "pretrain.epochs": 1,
    "pretrain.batch_size": 16,
    "pretrain.learning_rate": 1e-4,
    "finetune.epochs": 1,
}
"""Few and small steps: Adam turns last digits into whole steps wherever a gradient is nearly zero."""
LOSSES = (1.745755, 0.187554, 0.216464)
OUTPUTS = {
    ("cnn", "test/glioma/000"): (0.10669, 0.18148, -0.13512, -0.03673),
    ("cnn", "test/meningioma/010"): (0.09762, 0.18988, -0.12188, -0.04129),
    ("cnn", "test/notumor/020"): (0.12333, 0.17847, -0.12689, -0.03474),
    ("cnn", "test/pituitary/030"): (0.11624, 0.20393, -0.14522, -0.05111),
    ("vit", "test/glioma/000"): (-2.96080, -1.01052, -0.14061, -0.68517),
    ("vit", "test/meningioma/010"): (-2.97933, -1.01910, -0.14867, -0.64323),
    ("vit", "test/notumor/020"): (-2.95504, -1.04947, -0.13092, -0.59418),
    ("vit", "test/pituitary/030"): (-2.93285, -1.08798, -0.16587, -0.56715),
}


def test_golden_numbers(tmp_path: Path) -> None:
    assert RESULTS_VERSION == 1, "write down the new version's numbers here"
    rows = list(run_trial(tiny.trial(FIELDS), Results(tmp_path), RunOptions()))
    assert [row["loss"] for row in rows] == pytest.approx(LOSSES, rel=1e-3)
    (path,) = tmp_path.glob("trials/*/predictions.parquet")
    table = pd.read_parquet(path)
    for (arm, image), expected in OUTPUTS.items():
        found = table[(table["arm"] == arm) & (table["image"] == image)]["outputs"].item()
        assert found.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4), (arm, image)


CORRECTED_FIELDS = {
    "data.label_fraction": 0.05,
    "pretrain.epochs": 2,
    "pretrain.batch_size": 16,
    "finetune.epochs": 2,
    **RECIPES["corrected"],
}
"""One epoch of warm-up and one of decay in each phase."""
CORRECTED_LOSSES = (1.784270, 1.141877, 0.176766, 0.179118, 0.167951, 0.181478)
CORRECTED_OUTPUTS = {
    ("cnn", "test/glioma/000"): (0.09355, 0.05547, -0.14413, 0.16712),
    ("cnn", "test/pituitary/030"): (0.10400, 0.06822, -0.15251, 0.13623),
    ("vit", "test/glioma/000"): (-1.19447, -0.54153, -0.31856, -0.58571),
    ("vit", "test/pituitary/030"): (-1.11787, -0.65668, -0.34317, -0.46190),
}


def test_golden_numbers_of_the_corrected_recipe(tmp_path: Path) -> None:
    rows = list(run_trial(tiny.trial(CORRECTED_FIELDS), Results(tmp_path), RunOptions()))
    assert [row["loss"] for row in rows] == pytest.approx(CORRECTED_LOSSES, rel=1e-3)
    (path,) = tmp_path.glob("trials/*/predictions.parquet")
    table = pd.read_parquet(path)
    for (arm, image), expected in CORRECTED_OUTPUTS.items():
        found = table[(table["arm"] == arm) & (table["image"] == image)]["outputs"].item()
        assert found.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4), (arm, image)
