"""The probes of a trial's frozen features: after its pretraining and before its finetuning, or once it is finished."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import nn

from cass_tune.attempt import Attempt
from cass_tune.config import ARMS
from cass_tune.data.loader import Batches
from cass_tune.data.pixels import Pixels, load_pixels
from cass_tune.data.splits import Parts, split
from cass_tune.identity import PROBES_VERSION
from cass_tune.patience import patiently
from cass_tune.pretrain_steps import start_of, stored_pretraining
from cass_tune.results import Record
from cass_tune.training.feature_probes import Features, extract, knn_probe

logger = logging.getLogger(__name__)

PARTS = ("labelled", "validation", "test")


def probe_features(attempt: Attempt, start: Callable[[str], nn.Module], parts: Parts, pixels: Pixels) -> None:
    """Store the probes that the options ask for, of both arms, unless they are stored.

    Args:
        attempt: of the trial.
        start: returns an arm as finetuning finds it; it is left as it is.
        parts: which images are for what.
        pixels: the images.

    Raises:
        Interrupted: it was asked to stop; what was measured so far is measured again.
        HoldLost: another process has taken the trial over.
        StorageError: they could not be stored.
    """
    missing = attempt.folder.missing_probes(attempt.options.probes)
    if not missing:
        return
    arms = (attempt.folder.probes() or {}).get("arms", {})
    batches = attempt.batches(pixels, "probes")
    found = {arm: {**arms.get(arm, {}), **_of_arm(attempt, start(arm), batches, parts, missing)} for arm in ARMS}
    record = {
        "version": PROBES_VERSION,
        "digest": attempt.folder.digest,
        "devices": attempt.environment["devices"],
        "threads": attempt.threads,
        "labelled": len(parts.labelled),
        "arms": found,
    }

    def write() -> None:
        attempt.lease.check()
        attempt.folder.write_probes(record)

    patiently(write, attempt.check_stop)


def probe_later(attempt: Attempt) -> None:
    """Store the probes of a finished trial, from where its finetuning started; without that, only say so.

    Args:
        attempt: of a trial that has a result.

    Raises:
        as `probe_features`.
    """
    source = None
    if attempt.trial.pretrain.method != "none":
        source = stored_pretraining(attempt)
        if source is None:
            logger.warning("no probes: the end of the pretraining is not stored any more (--keep-stages)")
            return
    attempt.take_over(attempt.folder.environment() or attempt.machine([]))
    attempt.prepare()
    parts = split(attempt.listing, attempt.trial.data, attempt.trial.seed)
    pixels = load_pixels(attempt.listing, attempt.trial.data.image_size_px, attempt.check_stop)
    probe_features(attempt, partial(start_of, attempt, source), parts, pixels)


def _of_arm(
    attempt: Attempt, model: nn.Module, batches: Batches, parts: Parts, probes: Sequence[str]
) -> dict[str, Record]:
    started = time.perf_counter()
    found = {name: extract(model, batches.evaluation(getattr(parts, name)), attempt.check_stop) for name in PARTS}
    features = {"dimensions": found["labelled"].values.shape[1], "seconds": time.perf_counter() - started}
    return {"features": features, **{name: _timed(attempt, name, found) for name in probes}}


def _timed(attempt: Attempt, probe: str, parts: Mapping[str, Features]) -> Record:
    """Return one probe of an arm; of features that are not finite there is nothing to measure."""
    started, classes = time.perf_counter(), len(attempt.listing.classes)
    if not all(part.are_finite for part in parts.values()):
        logger.warning("%s probe: the features are not finite", probe)
        return {"problem": "the features are not finite"}
    if probe == "knn":
        found = knn_probe(parts, classes)
    else:
        from cass_tune.training.linear_probe import linear_probe

        is_balanced = attempt.trial.finetune.class_weights == "balanced"
        found = linear_probe(parts, classes, is_balanced=is_balanced, between=attempt.check_stop)
    return {**found, "seconds": time.perf_counter() - started}
