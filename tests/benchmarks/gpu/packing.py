"""Several trials at once on one device: images per second of all together."""

from __future__ import annotations

import argparse
import multiprocessing
from dataclasses import asdict
from typing import Any

START_S = 600.0
"""How long all processes may take to be ready, or to answer."""


def together(options: argparse.Namespace, precision: str, processes: int) -> dict[str, Any]:
    """Run so many trials at once, each in a process of its own, and return what they pass together.

    Args:
        options: of the command; the smallest batch is taken.
        precision: of the trials.
        processes: how many.
    """
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(processes), context.Queue()
    started = [
        context.Process(target=_trial, args=(options, precision, barrier, answers), daemon=True)
        for _ in range(processes)
    ]
    for process in started:
        process.start()
    try:
        found = [answers.get(timeout=START_S) for _ in started]
    finally:
        for process in started:
            process.join(timeout=10)
            process.kill()
    problems = [item for item in found if isinstance(item, str)]
    if problems:
        return {"processes": processes, "problem": problems[0]}
    rates = [item["images_per_second"] for item in found]
    memory = [item["memory_gib"] for item in found if item["memory_gib"] is not None]
    return {
        "processes": processes,
        "images_per_second": sum(rates),
        "slowest": min(rates),
        "memory_gib": sum(memory) if memory else None,
    }


def _trial(options: argparse.Namespace, precision: str, barrier: Any, answers: Any) -> None:
    """Train as a trial does; the clock starts when all are ready."""
    try:
        from tests.benchmarks.gpu.measuring import ours, prepared

        arms, images = prepared(options, min(options.batches))
        ours(options, precision, arms, images, seconds=0.0)  # kernels are chosen, memory is taken
        barrier.wait(START_S)
        answers.put(asdict(ours(options, precision, arms, images, seconds=options.seconds)))
    except BaseException as error:  # memory that is not there, most of all
        answers.put(f"{type(error).__name__}: {str(error)[:200]}")  # before the others say that they wait in vain
        barrier.abort()
