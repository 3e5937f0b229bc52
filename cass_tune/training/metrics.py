"""Test and validation metrics, all from one set of outputs at once: nothing accumulates, so nothing is ever not reset.

The published F1 and recall count every class whose sigmoid exceeds 0.5 (an image may get none or several classes),
micro-averaged. Of one class for each image, the others take the class of the highest output; of several labels, those
whose sigmoid exceeds 0.5.
"""

from __future__ import annotations

from typing import Any

import torch
import torchmetrics.functional.classification as tm
from torch import Tensor

from cass_tune.training.losses import targets

HALF = 0.5


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the metrics of one evaluation as plain numbers.

    Args:
        logits: float32 on the CPU, shape (images, classes).
        labels: int64: positions of classes, shape (images,); or in a multi-label set 1 for every label that an image
            has, shape (images, classes).

    Returns:
        micro_f1_at_half, micro_recall_at_half (published) and macro_f1_at_half, of every class by its own sigmoid;
        macro_f1, balanced_accuracy, accuracy; auroc and mean_average_precision (of each class against the rest, mean),
        auroc_by_class (None where undefined), n. Of one class for each image macro_f1, balanced_accuracy (mean recall)
        and accuracy go by the highest output, and confusion_matrix is there (rows are true classes). Of several labels
        macro_f1 is that at a half, balanced_accuracy is the mean over labels of (sensitivity + specificity) / 2, and
        accuracy the share of images whose labels are all right. Means are taken over the classes for which a metric is
        defined: F1 needs an image that has the class or is given it, recall one that has it, AUROC one that has it and
        one that does not (auroc is None without any).
    """
    return score_metrics(torch.sigmoid(logits), logits.argmax(dim=1), labels)


def score_metrics(scores: Tensor, predicted: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return what `classification_metrics` returns, of scores and predictions.

    Args:
        scores: float on the CPU, between 0 and 1, shape (images, classes).
        predicted: int64 class positions, shape (images,); not looked at in a multi-label set.
        labels: as in `classification_metrics`.
    """
    target = targets(labels, scores.shape[1])
    found = _of_labels(scores, labels) if labels.ndim == 2 else _of_classes(predicted, labels, scores.shape[1])
    return {**_of_scores(scores, target), **found, "n": len(labels)}


def _of_scores(scores: Tensor, target: Tensor) -> dict[str, Any]:
    """Return what is measured of every class by its own score, whatever the task."""
    classes = scores.shape[1]
    there = target.sum(dim=0) > 0
    return {
        "micro_f1_at_half": float(tm.multilabel_f1_score(scores, target, classes, average="micro")),
        "micro_recall_at_half": float(tm.multilabel_recall(scores, target, classes, average="micro")),
        "macro_f1_at_half": _macro_f1_at_half(scores, target),
        **_auroc(scores, target),
        "mean_average_precision": _mean_average_precision(scores[:, there], target[:, there]),
    }


def _of_classes(predicted: Tensor, labels: Tensor, classes: int) -> dict[str, Any]:
    recalls = tm.multiclass_recall(predicted, labels, classes, average="none")
    there = targets(labels, classes).sum(dim=0) > 0
    return {
        "macro_f1": float(tm.multiclass_f1_score(predicted, labels, classes, average="macro")),
        "balanced_accuracy": float(recalls[there].mean()),
        "accuracy": float(tm.multiclass_accuracy(predicted, labels, classes, average="micro")),
        "confusion_matrix": tm.multiclass_confusion_matrix(predicted, labels, classes).tolist(),
    }


def _of_labels(scores: Tensor, target: Tensor) -> dict[str, Any]:
    given = scores > HALF
    has, has_not = target.sum(dim=0), (1 - target).sum(dim=0)
    both = (has > 0) & (has_not > 0)
    sensitivity = (given & (target == 1)).sum(dim=0)[both] / has[both]
    specificity = (~given & (target == 0)).sum(dim=0)[both] / has_not[both]
    return {
        "macro_f1": _macro_f1_at_half(scores, target),
        "balanced_accuracy": float((sensitivity + specificity).mean() / 2) if bool(both.any()) else None,
        "accuracy": float((given == target.bool()).all(dim=1).float().mean()),
    }


def _macro_f1_at_half(scores: Tensor, target: Tensor) -> float:
    given = scores > HALF
    hits = (given & target.bool()).sum(dim=0)
    either = given.sum(dim=0) + target.sum(dim=0)
    there = either > 0
    return float((2 * hits[there] / either[there]).mean()) if bool(there.any()) else 0.0


def _auroc(scores: Tensor, target: Tensor) -> dict[str, Any]:
    has = target.sum(dim=0)
    defined = (has > 0) & (has < len(target))
    count, by_class = int(defined.sum()), list[float | None]([None] * len(has))
    for number in defined.nonzero().flatten().tolist():
        by_class[number] = float(tm.binary_auroc(scores[:, number], target[:, number]))
    mean = next((value for value in by_class if value is not None), None)
    if count > 1:
        mean = float(tm.multilabel_auroc(scores[:, defined], target[:, defined], count, average="macro"))
    return {"auroc": mean, "auroc_by_class": by_class}


def _mean_average_precision(scores: Tensor, target: Tensor) -> float | None:
    """Return the mean of the classes' average precisions (each the step-wise sum of Davis and Goadrich 2006)."""
    if not target.shape[1]:
        return None
    found = [float(tm.binary_average_precision(scores[:, n], target[:, n])) for n in range(target.shape[1])]
    return sum(found) / len(found)
