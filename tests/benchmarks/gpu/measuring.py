"""The parts of the measurement, each as rows for a table and a JSON file."""

from __future__ import annotations

import argparse
import gc
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from cass_tune.config import ARMS, Trial, with_field
from cass_tune.data.augmentation import ON_DEVICE, Operation, draw
from cass_tune.data.loader import Batches, normalise
from cass_tune.probe import _random_pixels
from cass_tune.randomness import generator
from cass_tune.training.models import build_arm
from cass_tune.training.precision import Precision
from tests import tiny
from tests.benchmarks.gpu.stepping import (
    Images,
    Measured,
    Ready,
    Rung,
    as_torch_is,
    as_trials_do,
    ladder,
    matrix_peak,
    measure,
    measure_training,
    operations_per_image,
    step_of,
)

Row = dict[str, Any]


def described(options: argparse.Namespace, batch: int, precision: str) -> Trial:
    """Return the trial whose steps are measured."""
    fields = {
        "pretrain.cnn": options.cnn,
        "pretrain.vit": options.vit,
        "pretrain.embedding_dim": 1000,
        "pretrain.batch_size": batch,
        "pretrain.precision": precision,
        "data.image_size_px": options.size,
    }
    return tiny.trial(fields)


def prepared(options: argparse.Namespace, batch: int) -> tuple[dict[str, nn.Module], Images]:
    """Return both networks on the device, and a batch for it."""
    device = torch.device(options.device)
    trial = described(options, batch, "fp32")
    arms = {arm: build_arm(trial, arm).to(device) for arm in ARMS}
    return arms, Images(batch=batch, size_px=options.size, device=device)


def ours(
    options: argparse.Namespace,
    precision: str,
    arms: dict[str, nn.Module],
    images: Images,
    *,
    seconds: float,
    batches: Any = None,
    compiled: bool = False,
) -> Measured:
    """Return how fast this package's pretraining is, with the kernels that a trial has."""
    with as_trials_do(images.device, options.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kernels that have no deterministic form
        trial = with_field(described(options, images.batch, precision), "pretrain.compile", compiled)
        return measure_training(trial, arms, batches or Ready(images), images, seconds)


def peaks(options: argparse.Namespace, precisions: list[str]) -> Row:
    """Return the most operations per second that matrices are multiplied with, by precision."""
    device = torch.device(options.device)
    return {name: matrix_peak(name, device, options.matrix, options.seconds / 3) for name in precisions}


def rungs(options: argparse.Namespace, narrow: str, peak: Row) -> Iterator[Row]:
    """Yield every rung at every batch, and this package's own training with the same images, and with its loader."""
    for batch in options.batches:
        arms, images = prepared(options, batch)
        operations = operations_per_image(arms, options.size)
        row = partial(_row, batch=batch, operations=operations, peak=peak)
        for rung in ladder(narrow):
            if rung.compiled and batch not in options.compile_batches:
                continue
            with as_torch_is(options.threads):
                yield row(rung.name, rung.precision, *_tried(_measured, options, rung, arms, images))
        for name in ("fp32", narrow):
            found = _tried(ours, options, name, arms, images, seconds=options.seconds)
            yield row(f"ours, {name}", name, *found)
        if batch in options.compile_batches:
            found = _tried(ours, options, narrow, arms, images, seconds=options.seconds, compiled=True)
            yield row(f"ours, {narrow}, compiled", narrow, *found)
        loader = Batches(
            _random_pixels(options.size),
            seed=0,
            stream="bench",
            workers=options.workers,
            pin_memory=options.device == "cuda",
        )
        found = _tried(ours, options, narrow, arms, images, seconds=options.seconds, batches=loader)
        yield row(f"ours, {narrow}, loading ({options.workers} workers)", narrow, *found)
        _free(options)


def _measured(options: argparse.Namespace, rung: Rung, arms: dict[str, nn.Module], images: Images) -> Measured:
    return measure(step_of(rung, arms, images), images, options.seconds)


def arms_alone(options: argparse.Namespace, precisions: list[str], peak: Row) -> Iterator[Row]:
    """Yield each network alone, by precision, the CNN with and without channels last, the transformer by attention."""
    batch = max(options.batches)
    arms, images = prepared(options, batch)
    for arm in ARMS:
        one = {arm: arms[arm]}
        row = partial(_row, batch=batch, operations=operations_per_image(one, options.size), peak=peak)
        for name in precisions:
            rung = Rung(name=arm, precision=name, fused=True, asynchronous=True)
            ways = {"": rung, ", channels last": replace(rung, channels_last=True)} if arm == "cnn" else {"": rung}
            for how, each in ways.items():
                with as_torch_is(options.threads):
                    found = _tried(_measured, options, each, one, images)
                yield row(f"{arm}{how}, {name}", name, *found)
            if arm == "vit":
                with as_trials_do(images.device, options.threads), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = _tried(_measured, options, rung, one, images)
                yield row(f"{arm}, deterministic attention, {name}", name, *found)
    _free(options)


def evaluation(options: argparse.Namespace, precision: str) -> Iterator[Row]:
    """Yield how fast both networks are without gradients, by the size of a batch."""
    arms, _ = prepared(options, 2)
    for batch in options.evaluation:
        images = Images(batch=batch, size_px=options.size, device=torch.device(options.device))
        chosen = Precision(name=precision, device=images.device)

        @torch.inference_mode()
        def step(images: Images = images, chosen: Precision = chosen) -> None:
            with chosen.kernels(), chosen.forward():
                for model in arms.values():
                    model.eval()(normalise(images.uint8, images.device))

        with as_torch_is(options.threads):
            found, problem = _tried(measure, step, images, options.seconds / 3)
        yield {"batch": batch, "precision": precision, **(asdict(found) if found else {"problem": problem})}
    _free(options)


def synchronisations(options: argparse.Namespace, precision: str) -> Iterator[Row]:
    """Yield how often one step of this package's training waits for the device, by the route of its augmentation."""
    for pipeline in ("torchvision-1", ON_DEVICE):
        yield {"pipeline": pipeline, "per_step": _synchronisations(options, precision, pipeline)}


def _synchronisations(options: argparse.Namespace, precision: str, pipeline: str) -> int | None:
    """Return how often a step waits; None: no GPU, not known."""
    if options.device != "cuda":
        return None
    drawn = tuple(_drawn(options.size, image) if pipeline == ON_DEVICE else () for image in range(min(options.batches)))
    arms, images = prepared(options, min(options.batches))
    ours(options, precision, arms, images, seconds=0.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seen: list[int] = []

        def counting(batches: Ready) -> Any:
            for number, batch in enumerate(batches.training()):
                if number in (1, 2):  # what begins an epoch, and the clock, wait outside
                    torch.cuda.set_sync_debug_mode("warn" if number == 1 else "default")
                    seen.append(len(caught))
                yield replace(batch, operations=(drawn,) if any(drawn) else ())

        class Counted(Ready):
            def training(self, *_: object, **__: object) -> Any:
                return counting(Ready(images))

        with as_trials_do(images.device, options.threads):
            warnings.simplefilter("always")
            trial = described(options, images.batch, precision)
            measure_training(trial, arms, Counted(images), images, 0.0)
        torch.cuda.set_sync_debug_mode("default")
        found = [item for item in caught[seen[0] : seen[1]] if "synchroniz" in str(item.message)]
    for item in found:
        logging.getLogger(__name__).warning("a step waits: %s:%s", item.filename, item.lineno)
    return len(found)


def _drawn(size: int, image: int) -> tuple[Operation, ...]:
    """Return operations of every kind for an image, of more than one draw."""
    return tuple(each for number in range(9) for each in draw(generator(0, "bench", image, number), size, size))


def _tried(work: Callable[..., Measured], *args: Any, **named: Any) -> tuple[Measured | None, str]:
    """Return what was measured, or why it could not be."""
    try:
        return work(*args, **named), ""
    except Exception as error:  # memory, a compiler that is not there
        return None, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _row(
    name: str, precision: str, found: Measured | None, problem: str, *, batch: int, operations: float, peak: Row
) -> Row:
    if found is None:
        return {"name": name, "batch": batch, "problem": problem}
    share = found.images_per_second * operations / peak[precision]
    return {"name": name, "batch": batch, **asdict(found), "share_of_peak": share}


def _free(options: argparse.Namespace) -> None:
    gc.collect()
    if options.device == "cuda":
        torch.cuda.empty_cache()
