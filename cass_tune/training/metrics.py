"""Test and validation metrics, all from one set of outputs at once: nothing accumulates, so nothing is ever not reset.

The published F1 and recall count every class whose sigmoid exceeds 0.5 (an image may get none or several classes),
micro-averaged. Of one class for each image, the others take the class of the highest output; of several labels, those
whose sigmoid exceeds 0.5. The formulas are torchmetrics' to the last bit, written down here because it takes a second
and a half to import, in every process of a trial.
"""

from __future__ import annotations

from typing import Any

import torch
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
    there = target.sum(dim=0) > 0
    given = (scores > HALF).long()
    return {
        "micro_f1_at_half": float(_f1(given.flatten(), target.flatten())),
        "micro_recall_at_half": float(_recall(given.flatten(), target.flatten())),
        "macro_f1_at_half": _macro_f1_at_half(scores, target),
        **_auroc(scores, target),
        "mean_average_precision": _mean_average_precision(scores[:, there], target[:, there]),
    }


def _of_classes(predicted: Tensor, labels: Tensor, classes: int) -> dict[str, Any]:
    given, target = targets(predicted, classes), targets(labels, classes)
    has = target.sum(dim=0) > 0
    either = has | (given.sum(dim=0) > 0)
    counts = torch.bincount(labels * classes + predicted, minlength=classes**2)
    return {
        "macro_f1": float((_f1(given, target) / either.sum()).sum()),
        "balanced_accuracy": float(_recall(given, target)[has].mean()),
        "accuracy": float((predicted == labels).float().mean()),
        "confusion_matrix": counts.reshape(classes, classes).tolist(),
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


def _f1(given: Tensor, target: Tensor) -> Tensor:
    """Return the F1 of each column, 0 where neither is ever 1."""
    hits, both = (given * target).sum(dim=0), given.sum(dim=0) + target.sum(dim=0)
    return 2.0 * hits / both.clamp(min=1)


def _recall(given: Tensor, target: Tensor) -> Tensor:
    """Return the recall of each column, 0 where the target is never 1."""
    return (given * target).sum(dim=0) / target.sum(dim=0).clamp(min=1)


def _hits_and_misses(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many ones, and how many zeros, of the target have at least each distinct score, descending."""
    scores, order = scores.sort(descending=True)
    last = torch.cat([scores.diff().nonzero().flatten(), torch.tensor([len(scores) - 1])])
    hits = target[order].cumsum(dim=0)[last]
    return hits, last + 1 - hits


def _area(scores: Tensor, target: Tensor) -> Tensor:
    """Return the area under the ROC curve of one class, which has both ones and zeros."""
    hits, misses = (torch.cat([n.new_zeros(1), n]) / n[-1] for n in _hits_and_misses(scores, target))
    return torch.trapezoid(hits, misses)


def _average_precision(scores: Tensor, target: Tensor) -> Tensor:
    """Return the step-wise sum of Davis and Goadrich (2006) of one class, which has ones."""
    hits, misses = _hits_and_misses(scores, target)
    recall = torch.cat([(hits / hits[-1]).flip(0), torch.zeros(1)])
    return -torch.sum(recall.diff() * (hits / (hits + misses)).flip(0))


def _auroc(scores: Tensor, target: Tensor) -> dict[str, Any]:
    has = target.sum(dim=0)
    defined = (has > 0) & (has < len(target))
    areas = {n: _area(scores[:, n], target[:, n]) for n in defined.nonzero().flatten().tolist()}
    mean = float(torch.stack(list(areas.values())).mean()) if areas else None
    return {"auroc": mean, "auroc_by_class": [float(areas[n]) if n in areas else None for n in range(len(has))]}


def _mean_average_precision(scores: Tensor, target: Tensor) -> float | None:
    if not target.shape[1]:
        return None
    found = [float(_average_precision(scores[:, n], target[:, n])) for n in range(target.shape[1])]
    return sum(found) / len(found)
