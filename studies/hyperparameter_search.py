"""Which hyperparameters suit CASS? A search by Ray Tune with Optuna's TPE, where a grid would be too large.

Learning rates of both phases and both networks, recipe, weight decay with AdamW, batch size, strength of the
augmentation, and a variance term against collapse, for the validation macro-F1, mean of both networks. A finetuning
that is not among the best third at 1/27, 1/9 or 1/3 of its epochs stops (ASHA), and so does a pretraining that
collapses. The test images are looked at once, for the winner.

Expected cost of 20 trials: as many pretrainings of 100 epochs of 4,570 images through both networks (5 h each at the
24 images/s published for a V100), and finetuning; `--pretrain.epochs 20` searches at a fifth of that.

    python -m studies.hyperparameter_search --trials 12                               a demonstration
    python -m studies.hyperparameter_search --data.name brain_mri --data.root DIR     the search, on GPUs
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis import write_report
from cass_tune.presets import recipe_fields
from cass_tune.search import Search

if TYPE_CHECKING:
    import optuna


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Return the fields of one suggestion."""
    recipe = trial.suggest_categorical("recipe", ["as_described", "corrected"])
    fields = recipe_fields(recipe)
    for section in ("pretrain", "finetune"):
        fields[f"{section}.learning_rate"] = trial.suggest_float(f"{section}_cnn_rate", 1e-5, 1e-2, log=True)
        fields[f"{section}.vit_learning_rate"] = trial.suggest_float(f"{section}_vit_rate", 1e-6, 1e-3, log=True)
        if fields[f"{section}.optimiser"] == "adamw":
            fields[f"{section}.weight_decay"] = trial.suggest_float(f"{section}_decay", 1e-3, 0.3, log=True)
    fields["pretrain.batch_size"] = trial.suggest_categorical("pretrain_batch", [8, 16, 32])
    fields["data.augmentation_strength"] = trial.suggest_float("augmentation", 0.0, 2.0)
    if trial.suggest_categorical("with_variance_term", [False, True]):
        fields["pretrain.variance_weight"] = trial.suggest_float("variance_weight", 0.3, 10.0, log=True)
    return fields


STUDY = Search(name="hyperparameter_search", title="CASS: hyperparameters for the best validation F1", space=space)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(write_report))
