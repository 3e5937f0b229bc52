"""The study that faults are injected into: ``python -m tests.faults.subject OPTIONS``, a command line as any other.

With ``CASS_TUNE_TEST_KILL="<step>:<pattern>:<count>"`` in the environment, the process kills itself between two steps
of a write: after the step (`cass_tune.storage.between_steps`) of the write of that number whose file matches.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from fnmatch import fnmatchcase

from cass_tune import storage
from cass_tune.storage import AnyPath
from cass_tune.study import Study
from tests import small

KILL = "CASS_TUNE_TEST_KILL"
SHARED = "CASS_TUNE_TEST_SHARED"
STUDY = Study(name="faults", title="A study that is disturbed", axes={"pretrain.learning_rate": (1e-3, 1e-4)})
EPOCHS = {"pretrain": 10, "finetune_cnn": 8, "finetune_vit": 8}
OPTIONS = (
    f"--seeds 0 --data.label-fraction 0.3 --data.pretrain-fraction 0.5 --device cpu "
    f"--pretrain.batch-size 8 --pretrain.epochs {EPOCHS['pretrain']} "
    f"--finetune.batch-size 8 --finetune.epochs {EPOCHS['finetune_cnn']} --probe-seconds 0"
).split()
SHARED_EPOCHS = (10, 40)
SHARED_AXES = {"data.label_fraction": (0.1, 0.3), "pretrain.epochs": tuple(10 * epochs for epochs in SHARED_EPOCHS)}
"""The demo divides a study's own epochs by 10."""
SHARED_STUDY = replace(STUDY, axes=SHARED_AXES)
"""Four cells that share one pretraining, and two controls; run in place of `STUDY` with `SHARED` in the environment."""
CELLS, CONTROLS = 2, 1
ROWS = CELLS * sum(EPOCHS.values()) + CONTROLS * 2 * EPOCHS["finetune_cnn"]
"""Epochs of the whole study."""


def install_kill(text: str) -> None:
    """Let this process kill itself as the text says."""
    step, pattern, count = text.split(":")
    left = int(count)

    def kill(here: str, path: AnyPath) -> None:
        nonlocal left
        if here != step or not fnmatchcase(str(path), pattern):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    storage.between_steps = kill


if __name__ == "__main__":
    if os.environ.get(KILL):
        install_kill(os.environ[KILL])
    chosen = SHARED_STUDY if os.environ.get(SHARED) else STUDY
    taken = {f"--{path.replace('_', '-')}" for path in chosen.axes}
    pairs = [OPTIONS[i : i + 2] for i in range(0, len(OPTIONS), 2)]
    given = [word for pair in pairs if pair[0] not in taken for word in pair]
    sys.exit(chosen.main(small.report, [*given, *sys.argv[1:]]))
