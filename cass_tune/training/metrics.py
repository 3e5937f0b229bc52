"""Test and validation metrics, all from one set of outputs at once: nothing accumulates, so nothing is ever not reset.

The published F1 and recall count every class whose sigmoid exceeds 0.5 (an image may get none or several classes),
micro-averaged; the others take the class of the highest output.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import torchmetrics.functional.classification as tm
from torch import Tensor


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the metrics of one evaluation as plain numbers.

    Args:
        logits: float32 on the CPU, shape (images, classes).
        labels: int64 class positions, shape (images,).

    Returns:
        micro_f1_at_half, micro_recall_at_half (published), macro_f1, balanced_accuracy (mean recall), accuracy (by the
        highest output), auroc (one class against the rest, mean; None with a single class), n, and confusion_matrix
        (rows are true classes). Recall and AUROC are means over the classes that the labels have.
    """
    return score_metrics(torch.sigmoid(logits), logits.argmax(dim=1), labels)


def score_metrics(scores: Tensor, predicted: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return what `classification_metrics` returns, of scores and predictions.

    Args:
        scores: float on the CPU, between 0 and 1, shape (images, classes).
        predicted: int64 class positions, shape (images,).
        labels: int64 class positions, shape (images,).
    """
    classes = scores.shape[1]
    one_hot = F.one_hot(labels, classes)
    there = one_hot.sum(dim=0) > 0
    recalls = tm.multiclass_recall(predicted, labels, classes, average="none")
    values = {
        "micro_f1_at_half": tm.multilabel_f1_score(scores, one_hot, classes, average="micro"),
        "micro_recall_at_half": tm.multilabel_recall(scores, one_hot, classes, average="micro"),
        "macro_f1": tm.multiclass_f1_score(predicted, labels, classes, average="macro"),
        "balanced_accuracy": recalls[there].mean(),
        "accuracy": tm.multiclass_accuracy(predicted, labels, classes, average="micro"),
    }
    matrix = tm.multiclass_confusion_matrix(predicted, labels, classes)
    return {
        **{name: float(value) for name, value in values.items()},
        "auroc": _auroc(scores[:, there], one_hot[:, there]),
        "n": len(labels),
        "confusion_matrix": matrix.tolist(),
    }


def _auroc(scores: Tensor, one_hot: Tensor) -> float | None:
    classes = one_hot.shape[1]
    return float(tm.multilabel_auroc(scores, one_hot, classes, average="macro")) if classes > 1 else None
