"""How many images a trial trained on per second."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from statistics import harmonic_mean

import pandas as pd

from analysis.results import read_plans, wanted_trials
from analysis.spending import segments_of
from cass_tune.config import ARMS
from cass_tune.results import Record, StudyFolder

RATES = ("pretrain_images_per_second", *(f"{arm}_images_per_second" for arm in ARMS))
"""What is measured: the pretraining, and the finetuning of each arm."""


def rates_table(study: StudyFolder) -> pd.DataFrame:
    """Return the images per second of every finished trial: those of a phase over the time that training on them took.

    Epochs of a phase train on equally many images, so this is the harmonic mean of what their rows say.

    Returns:
        One row per finished trial: digest, and `RATES`; NaN where no row tells it, and for a control's pretraining.
    """
    stage_rows = functools.cache(lambda digest: study.results.stage(digest).rows())
    rows = []
    for _, _, wanted in wanted_trials(read_plans(study)):
        folder = study.results.trial(wanted["digest"])
        result = folder.outcome()
        if result is not None:
            segments = segments_of(wanted, result) or []
            pretraining = (row for s in segments for row in stage_rows(s.stage) if s.start < row["epoch"] <= s.end)
            own = folder.rows()
            finetuning = ([row for row in own if row["phase"] == f"finetune_{arm}"] for arm in ARMS)
            values = map(_rate, (pretraining, *finetuning))
            rows.append({"digest": wanted["digest"], **dict(zip(RATES, values, strict=True))})
    return pd.DataFrame(rows, columns=["digest", *RATES]).astype(dict.fromkeys(RATES, "float64"))


def _rate(rows: Iterable[Record]) -> float:
    known = [row["images_per_second"] for row in rows if row.get("images_per_second")]
    return harmonic_mean(known) if known else math.nan
