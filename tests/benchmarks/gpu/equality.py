"""Whether a precision changes results by more than chance: the same trials in each, seed by seed."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.statistics import summarise
from cass_tune.config import ARMS, Trial, with_fields
from cass_tune.results import Results
from cass_tune.trial import RunOptions, run_trial
from tests import tiny


def trial(options: argparse.Namespace, precision: str, seed: int) -> Trial:
    """Return a small trial, on real images where there are some."""
    fields: dict[str, Any] = {
        "data.label_fraction": options.label_fraction,
        "data.pretrain_fraction": 1.0,
        "data.image_size_px": options.equality_size,
        "pretrain.batch_size": 16,
        "finetune.batch_size": 16,
        "pretrain.epochs": options.epochs,
        "finetune.epochs": options.epochs,
        "pretrain.precision": precision,
        "finetune.precision": precision,
    }
    if options.root:
        fields |= {"data.name": "brain_mri", "data.root": str(Path(options.root).absolute())}
    return with_fields(tiny.trial({"seed": seed}), fields)


def compared(options: argparse.Namespace, precisions: list[str]) -> Iterator[dict[str, Any]]:
    """Yield for every arm and precision the test macro-F1 over seeds, and its difference from fp32, seed by seed.

    `within_noise` says that the 95 % interval of the mean difference (Student's t) holds 0, which few seeds allow
    more easily: its width is in the record.
    """
    scores = {name: {seed: _scores(options, name, seed) for seed in options.seeds} for name in precisions}
    for arm in ARMS:
        base = {seed: found[arm] for seed, found in scores["fp32"].items()}
        for name in precisions:
            own = {seed: found[arm] for seed, found in scores[name].items()}
            mean, difference = summarise(own.values()), summarise(own[seed] - base[seed] for seed in own)
            record = {"arm": arm, "precision": name, "macro_f1": mean.mean, "sd": mean.sd, "seeds": mean.n}
            if name != "fp32":
                record |= {"difference": difference.mean, "low": difference.low, "high": difference.high}
                record["within_noise"] = None if mean.n < 2 else bool(difference.low <= 0 <= difference.high)
            yield {key: None if isinstance(value, float) and pd.isna(value) else value for key, value in record.items()}


def _scores(options: argparse.Namespace, precision: str, seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        results, described = Results(folder), trial(options, precision, seed)
        how = RunOptions(device=options.device, workers=options.workers, probes=(), keep_weights="none")
        for _ in run_trial(described, results, how):
            pass
        (path,) = Path(folder).glob("trials/*/result.json")
        arms = json.loads(path.read_text())["arms"]
        return {arm: arms[arm]["test"]["macro_f1"] for arm in ARMS}
