"""F1 of every kind of data set through the whole trial, with small networks.

    python -m tests.benchmarks.data_sets DATA [--epochs 3 5]

DATA has the folders that CASS_TUNE_TEST_DATA has. The numbers say that a set can be read, trained on and tested, and
nothing about a method: networks, images and epochs are few and small.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cass_tune.config import ARMS, with_field
from cass_tune.data.catalog import list_images
from cass_tune.identity import trial_digest
from cass_tune.results import Results
from cass_tune.trial import RunOptions, read_inputs, run_trial
from tests import tiny

CHEST = (
    "Atelectasis,Cardiomegaly,Effusion,Infiltration,Mass,Nodule,Pneumonia,Pneumothorax,Consolidation,Edema,Emphysema,"
    "Fibrosis,Pleural_Thickening,Hernia"
)
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "medmnist:breastmnist": ("medmnist", {}),
    "medmnist:retinamnist": ("medmnist", {}),
    "medmnist:pneumoniamnist": ("medmnist", {"label_fraction": 0.2, "pretrain_fraction": 0.2}),
    "isic2019": ("isic2019_ham10000_small", {}),
    "brain_mri": ("brain_mri", {"label_fraction": 0.5, "pretrain_fraction": 0.5}),
    "csv": (
        "nih_cxr_multilabel/images",
        {"table": "../labels.csv", "path_column": "image", "group_column": "patient_id", "label_columns": CHEST},
    ),
}
"""Folder and fields of each set; the last one has several labels for each image."""
COLUMNS = ("macro_f1", "micro_f1_at_half", "auroc", "mean_average_precision")


def rows(data: Path, epochs: Sequence[int]) -> list[str]:
    """Return the table as lines."""
    lines = [f"{'set':<26}{'task':<13}{'arm':<5}{'images':>7}" + "".join(f"{name:>24}" for name in COLUMNS)]
    for name, (folder, fields) in SETS.items():
        started = time.perf_counter()
        trial = tiny.trial({"data.name": name, "data.root": str(data / folder), "pretrain.batch_size": 16})
        fields = {"label_fraction": 1.0, "pretrain_fraction": 1.0, **fields}
        for path, value in {f"data.{field}": value for field, value in fields.items()}.items():
            trial = with_field(trial, path, value)
        trial = with_field(with_field(trial, "pretrain.epochs", epochs[0]), "finetune.epochs", epochs[1])
        listing = list_images(trial.data)
        with tempfile.TemporaryDirectory() as root:
            for _ in run_trial(trial, Results(root), RunOptions(probes=())):
                pass
            result = Results(root).trial(trial_digest(trial, read_inputs(trial, listing))).result()
        assert result is not None
        for arm in ARMS:
            tested = result["arms"][arm]["test"]
            shown = "".join(f"{tested[column] or 0:>24.3f}" for column in COLUMNS)
            lines.append(f"{name:<26}{listing.task:<13}{arm:<5}{tested['n']:>7}{shown}")
            print(lines[-1], flush=True)
        print(f"  {time.perf_counter() - started:.0f} s", flush=True)
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("--epochs", type=int, nargs=2, default=(3, 5), metavar=("PRETRAIN", "FINETUNE"))
    given = parser.parse_args()
    print("", *rows(given.data, given.epochs), sep="\n")


if __name__ == "__main__":
    main()
