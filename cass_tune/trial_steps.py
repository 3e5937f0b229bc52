"""The steps of a trial: pretrain both arms or take them from the store, probe, finetune and test each, record it all.

Between any two training steps the state can be saved, and a trial that starts finds the last one and goes on from it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cass_tune.attempt import Attempt
from cass_tune.checkpoints import Checkpoints
from cass_tune.config import ARMS
from cass_tune.data.pixels import load_pixels
from cass_tune.data.splits import Parts, check_batch, split, split_digest, split_record
from cass_tune.finetune_steps import FinetuneSteps
from cass_tune.identity import RESULTS_VERSION
from cass_tune.patience import patiently
from cass_tune.pretrain_steps import Pretrained, pretrained, start_of
from cass_tune.probe_steps import probe_features
from cass_tune.results import Record
from cass_tune.storage import whole_file
from cass_tune.training.state import State

logger = logging.getLogger(__name__)


def trial_steps(attempt: Attempt) -> Iterator[Record]:
    """Yield the rows of all phases; everything else goes to the trial's folder, result.json last.

    Raises:
        Collapsed: under ``on_collapse="stop"``.
        Interrupted: it was asked to stop, and has saved its state.
        Held: another process computes the pretraining.
        HoldLost: another process has taken the trial or its pretraining over.
    """
    attempt.check_stop()
    checkpoints = Checkpoints(attempt.folder.checkpoints)
    found = _last_state(attempt, checkpoints)
    attempt.prepare()
    attempt.store(lambda: attempt.folder.write_environment(attempt.environment_record(attempt.devices)))
    parts = split(attempt.listing, attempt.trial.data, attempt.trial.seed)
    check_batch(attempt.trial, len(parts.pretrain))
    record = split_record(attempt.listing, attempt.trial.data)
    digest = split_digest(record)
    attempt.store(lambda: attempt.results.keep_split(digest, record))
    for text in parts.warnings + attempt.listing.warnings:
        logger.warning(text)
    pixels = load_pixels(attempt.listing, attempt.trial.data.image_size_px, attempt.check_stop)
    source = None
    if attempt.trial.pretrain.method != "none":
        source = yield from pretrained(attempt, parts, pixels)
        attempt.devices = list(dict.fromkeys([*source.devices, *attempt.devices]))
    start = partial(start_of, attempt, source)
    if attempt.options.test:  # the probes are measured on the test images
        probe_features(attempt, start, parts, pixels)
    finetuning = FinetuneSteps(attempt, found)
    yield from finetuning.run(checkpoints, start, parts, pixels)
    attempt.store(lambda: _write_predictions(attempt, finetuning, parts))
    attempt.store(lambda: attempt.folder.write_environment(attempt.environment_record(attempt.devices)))
    result = {**_result(attempt, source, finetuning, parts), "split": digest}
    attempt.lease.check()
    write = attempt.folder.finish if attempt.options.test else attempt.folder.leave_untested
    patiently(lambda: write(result), attempt.check_stop)


def _last_state(attempt: Attempt, checkpoints: Checkpoints) -> State | None:
    """Return the trial's last checkpoint whose finished arms are kept, and can be tested, as the options ask for."""

    def is_enough(arm: str, done: Mapping[str, Any]) -> bool:
        is_tested = "test" in done["record"] or not attempt.options.test
        return attempt.folder.weights(arm).exists() or (attempt.options.keep_weights == "none" and is_tested)

    found = checkpoints.newest(lambda values: all(is_enough(arm, done) for arm, done in values["done"].items()))
    if found:
        attempt.devices = attempt.take_over(found.values)
    return found


def _result(attempt: Attempt, source: Pretrained | None, finetuning: FinetuneSteps, parts: Parts) -> Record:
    return {
        "digest": attempt.folder.digest,
        "results_version": RESULTS_VERSION,
        "attempt": attempt.name,
        "seed": attempt.trial.seed,
        "task": attempt.listing.task,
        "classes": list(attempt.listing.classes),
        "class_weights": finetuning.done[ARMS[0]]["class_weights"],
        "stage": source.record if source else None,
        "collapsed": source.has_collapsed if source else False,
        "images": {
            "pretrain": len(parts.pretrain) if source else 0,
            "labelled": len(parts.labelled),
            "validation": len(parts.validation),
            **({"test": len(parts.test)} if attempt.options.test else {}),
        },
        "bad_images": attempt.listing.bad_images,
        "seconds": {"pretrain": source.seconds if source else 0.0, **finetuning.seconds()},
        "devices": attempt.machine(attempt.devices)["devices"],
        "arms": {arm: finetuning.record(arm) for arm in ARMS},
    }


def _write_predictions(attempt: Attempt, finetuning: FinetuneSteps, parts: Parts) -> None:
    """Write one row per arm and image of every part evaluated: any metric later, without a GPU.

    The label is the class of the image, or in a multi-label set the list of its labels.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("arm", "split", "image", "group", "label", "outputs")}
    for arm, name in itertools.product(ARMS, finetuning.evaluated):
        rows = finetuning.outputs[f"{arm}/{name}"].tolist()
        for position, outputs in zip(getattr(parts, name), rows, strict=True):
            item = attempt.listing.items[position]
            values = (arm, name, item.path, item.group, item.label, outputs)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
    kind = pa.string() if attempt.listing.task == "multi-class" else pa.list_(pa.string())
    outputs = pa.array(columns["outputs"], pa.list_(pa.float32()))
    table = pa.table({**columns, "label": pa.array(columns["label"], kind), "outputs": outputs})
    with whole_file(attempt.folder.predictions) as temporary:
        pq.write_table(table, temporary)
