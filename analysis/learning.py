"""The numbers of the learning curves: epochs of a pretraining, and of the finetuning of each arm."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.frames import once
from cass_tune.config import ARMS
from cass_tune.training.healthy import collapsed_below

PRETRAINING = ("loss", *(f"{arm}_{name}" for name in ("feature_std", "effective_rank") for arm in ARMS))
"""What is shown of a pretraining: columns of its epochs."""

FINETUNING = ("loss", "validation_loss", "macro_f1")
"""What is shown of the finetuning of an arm; macro-F1 is that of the validation images."""

COLUMNS = ("phase", "measure", "series", "kind", "seed", "epoch", "value", "n")


def pretraining_curves(epochs: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """Return the record of a pretraining: loss, feature std and effective rank by epoch.

    Trials that share a pretraining count once.

    Args:
        epochs: rows of `analysis.epochs.load_epochs`.
        series: rows of `analysis.series.trial_series`.

    Returns:
        Rows of two kinds: ``seed`` (one value) and ``mean`` (over the seeds that have reached the epoch, n of them).
    """
    own = epochs.loc[epochs["phase"] == "pretrain"]
    return _curves(once(series.merge(own, on="digest"), ["series", "seed_x", "epoch"]), PRETRAINING)


def finetuning_curves(epochs: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """Return the record of the finetuning of both arms; arguments and rows as in `pretraining_curves`."""
    own = epochs.loc[epochs["phase"].isin([f"finetune_{arm}" for arm in ARMS])]
    return _curves(series.merge(own, on="digest"), FINETUNING)


def _curves(rows: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    keys = ["phase", "measure", "series", "epoch"]
    rows = rows.rename(columns={"seed_x": "seed"})
    values = rows.melt(["phase", "series", "seed", "epoch"], measures, "measure", "value").dropna(subset="value")
    means = values.groupby(keys, sort=False)["value"].agg(["mean", "count"]).reset_index()
    means = means.rename(columns={"mean": "value", "count": "n"}).assign(kind="mean")
    found = pd.concat([means, values.assign(kind="seed", n=1)])
    return found.reindex(columns=COLUMNS).astype({"seed": "Int64", "epoch": "int64", "n": "int64", "value": "float64"})


def collapsed_seeds(epochs: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """Return how many pretrainings of each series have collapsed, and below which feature std they count as that.

    Args:
        epochs: as in `pretraining_curves`.
        series: as there.

    Returns:
        series, seeds (that have any epoch), collapsed (after the last epoch that there is), threshold (missing for
        methods of your own).
    """
    own = epochs.loc[epochs["phase"] == "pretrain", ["digest", "epoch", "collapsed"]]
    last = series.merge(own, on="digest").sort_values("epoch", kind="stable")
    last = last.drop_duplicates(["series", "seed"], keep="last")
    rows = [
        {
            "series": name,
            "seeds": len(seeds),
            "collapsed": seeds["collapsed"].fillna(False).tolist().count(True),
            "threshold": collapsed_below(seeds["method"].iloc[0]),
        }
        for name, seeds in last.groupby("series", sort=False)
    ]
    found = pd.DataFrame(rows, columns=["series", "seeds", "collapsed", "threshold"])
    return found.astype({"threshold": "float64"})
