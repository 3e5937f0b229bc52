"""How long from the command to the first training step after a kill, with and without Ray.

python -m tests.benchmarks.resume_time
"""

from __future__ import annotations

import signal
import statistics
import tempfile
import time
from pathlib import Path
from random import Random

from cass_tune.storage import read_json
from tests.faults.driver import Driver
from tests.faults.scenes import Scene

ROUNDS = 3


def resumed(scene: Scene, since: float) -> float | None:
    """Return the seconds from a moment to the first attempt after it that goes on from a checkpoint, or None."""
    times = []
    for path in Path(scene.root).glob("trials/*/attempts/*.json"):
        record = read_json(path)
        if record and record["resumed"] and path.stat().st_mtime > since:
            times.append(path.stat().st_mtime - since)
    return min(times, default=None)


def measure(scene: Scene) -> list[float]:
    """Kill a driver at work and start it again, some times."""
    found = []
    driver = scene.start()
    for _ in range(ROUNDS):
        driver.wait_until(lambda: bool(list(Path(scene.root).glob("*/*/checkpoints/*.json"))), "a checkpoint")
        driver.wait_until(scene.is_at_work, "a trial at work")
        time.sleep(1)
        driver.send(signal.SIGKILL)
        driver.end()
        since = time.time()
        driver = scene.start()
        found.append(_wait(scene, driver, since))
    driver.stop()
    return found


def _wait(scene: Scene, driver: Driver, since: float) -> float:
    driver.wait_until(lambda: resumed(scene, since) is not None, "a resumed trial")
    return resumed(scene, since) or 0.0


def main() -> None:
    """Print both measurements."""
    for name, local in (("without Ray (--local)", True), ("with Ray", False)):
        with tempfile.TemporaryDirectory() as folder:
            seconds = measure(Scene(Path(folder), Random(0), local=local))
        shown = ", ".join(f"{value:.1f}" for value in seconds)
        print(f"{name}: median {statistics.median(seconds):.1f} s from the command to the first resumed step ({shown})")


if __name__ == "__main__":
    main()
