"""How many images a trial trained on per second."""

from __future__ import annotations

import pandas as pd

from cass_tune.config import ARMS

_PHASES = {"pretrain": "pretrain", **{arm: f"finetune_{arm}" for arm in ARMS}}

RATES = tuple(f"{part}_images_per_second" for part in _PHASES)
"""What is measured: the pretraining, and the finetuning of each arm."""


def rates_table(epochs: pd.DataFrame) -> pd.DataFrame:
    """Return the images per second of every trial: those of a phase over the time that training on them took.

    Epochs of a phase train on equally many images, so this is the harmonic mean of what their rows say.

    Args:
        epochs: of `analysis.epochs.load_epochs`.

    Returns:
        One row per trial that has rows: digest, and `RATES`, NaN where no row tells it.
    """
    known = epochs.loc[epochs["images_per_second"] > 0]
    seconds = (1 / known["images_per_second"]).groupby([known["digest"], known["phase"]], observed=True).mean()
    table = (1 / seconds).unstack().reindex(columns=list(_PHASES.values()))
    table.columns = RATES
    table.index = pd.Index(table.index.astype("str"), name="digest")
    return table.astype("float64").reset_index()
