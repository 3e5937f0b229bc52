"""How many images a trial trained on per second, and how much of its machine it used."""

from __future__ import annotations

from statistics import harmonic_mean

import pandas as pd

from cass_tune.config import ARMS

_PHASES = {"pretrain": "pretrain", **{arm: f"finetune_{arm}" for arm in ARMS}}

RATES = tuple(f"{part}_images_per_second" for part in _PHASES)
"""What is measured: the pretraining, and the finetuning of each arm."""

LOADS = ("peak_memory_gib", "utilisation")
"""The most memory of any epoch (`cass_tune.training.machine`), and the mean utilisation of the device."""


def rates_table(epochs: pd.DataFrame) -> pd.DataFrame:
    """Return the images per second of every trial, and its loads.

    The images per second are those of a phase over the time that training on them took: as epochs of a phase train on
    equally many images, the harmonic mean of what their rows say. The utilisation is the mean over the epochs' seconds.

    Args:
        epochs: of `analysis.epochs.load_epochs`.

    Returns:
        One row per trial that has rows: digest, `RATES` and `LOADS`, NaN where no row tells it.
    """
    known = epochs.loc[epochs["images_per_second"] > 0]
    rates = known.groupby(["digest", "phase"], observed=True)["images_per_second"]
    means = rates.agg(lambda values: harmonic_mean(values.tolist()))
    table = means.unstack().reindex(columns=list(_PHASES.values()))
    table.columns = RATES
    loads = _loads(epochs)
    table = table.reindex(table.index.union(loads.index)).join(loads)
    table.index = pd.Index(table.index.astype("str"), name="digest")
    return table.astype("float64").reset_index()


def _loads(epochs: pd.DataFrame) -> pd.DataFrame:
    """Return `LOADS` by digest, of trials of which any row tells one."""
    timed = epochs.loc[epochs["utilisation"].notna() & (epochs["seconds"] > 0)]
    weighted = timed.assign(busy=timed["utilisation"] * timed["seconds"]).groupby("digest", observed=True)
    sized = epochs.loc[epochs["peak_memory_gib"].notna()].groupby("digest", observed=True)
    memory, utilisation = sized["peak_memory_gib"].max(), weighted["busy"].sum() / weighted["seconds"].sum()
    return pd.DataFrame({"peak_memory_gib": memory, "utilisation": utilisation})
