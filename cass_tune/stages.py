"""The store of pretrainings: what is there of one, where it can go on from, and the publishing of its ends.

The end of an epoch holds both arms, as timm can load them, and what else going on from there needs (``state``). Its
record has the checksum of every file, which is verified when the file is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cass_tune.checkpoints import Checkpoints
from cass_tune.config import ARMS, Trial
from cass_tune.errors import StorageError
from cass_tune.patience import patience
from cass_tune.results import Record, StageFolder
from cass_tune.storage import AnyPath
from cass_tune.tensors import read_tensors, write_tensors
from cass_tune.training.models import save_arm
from cass_tune.training.pretrain import Pretraining
from cass_tune.training.state import State, below

logger = logging.getLogger(__name__)

STATE = "state"
RECORDED = {"rows", "values", "environment", "trial", "files"}
"""What the record of an end says."""


@dataclass(frozen=True, kw_only=True)
class End:
    """The stored end of an epoch.

    Args:
        record: its rows and environment, and the checksums of its files.
        parts: tensors by file and name; an arm's are its parameters and buffers.
    """

    record: Record
    parts: dict[str, dict[str, Tensor]]


def load_arms(stage: StageFolder, epoch: int) -> End | None:
    """Return both arms at the end of an epoch, or None: not stored, or damaged, which is said and counts no longer.

    Args:
        stage: where they lie.
        epoch: finished epochs.

    Raises:
        StorageError: they cannot be read, which does not mean that they are damaged.
    """
    return _read(stage, epoch, ARMS)


def _read(stage: StageFolder, epoch: int, parts: Iterable[str]) -> End | None:
    if not stage.has_end(epoch):
        return None
    record = stage.end_record(epoch)
    try:
        if not record.keys() >= RECORDED:
            raise ValueError("run.json is not whole")
        files = record["files"]
        return End(record=record, parts={part: read_tensors(_file(stage, epoch, part), files[part]) for part in parts})
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        if stage.disown_end(epoch, record):
            logger.warning("%s is damaged (%s); the pretraining is computed again", stage.end(epoch), error)
        return None


def furthest(stage: StageFolder, checkpoints: Checkpoints, epochs: int) -> State | None:
    """Return the latest state from which a stage can be brought to so many epochs, or None: it starts anew.

    This process must hold the stage.
    """
    checkpoint = checkpoints.newest(
        lambda values: _progress(values) <= (epochs, 0),
        is_own=lambda values: values["epochs"] == epochs,
        progress=_progress,
    )
    reached = _progress(checkpoint.values) if checkpoint else (0, 0)
    for epoch in reversed(stage.ends()):
        if reached < (epoch, 0) <= (epochs, 0):
            state = end_state(stage, epoch)
            if state:
                return state
    return checkpoint


def _progress(values: Mapping[str, Any]) -> tuple[int, int]:
    return len(values["rows"]), values["batch"]


def end_state(stage: StageFolder, epoch: int) -> State | None:
    """Return the state at the end of an epoch, or None; arguments and errors as in `load_arms`."""
    found = _read(stage, epoch, (*ARMS, STATE))
    if found is None:
        return None
    record, arms = found.record, {arm: found.parts[arm] for arm in ARMS}
    machine = {key: record["environment"].get(key, []) for key in ("devices", "threads", "nondeterministic")}
    return State(
        tensors={**below(arms=below(**arms)), **found.parts[STATE]},
        values={**record["values"], "rows": record["rows"], **machine},
    )


def publish(
    stage: StageFolder, pretraining: Pretraining, trial: Trial, record: Mapping[str, Any], check: Callable[[], None]
) -> None:
    """Store the end of the epoch that has just been finished, unless another process has: the first complete one stays.

    Args:
        stage: where to.
        pretraining: between two epochs.
        trial: whose networks these are.
        record: what else goes into run.json.
        check: raises when this process may no longer write here; called before every file.

    Raises:
        StorageError: it could not be written; what is there does not count as an end.
    """
    epoch = pretraining.epoch
    check()
    if end_state(stage, epoch):
        return
    check()
    stage.remove_end(epoch)  # what a damaged end, or a process that was killed, has left takes room
    try:
        _write_end(stage, pretraining, trial, record, check)
    except StorageError:
        check()
        with suppress(OSError), patience(0):  # on a full disk its room is needed
            stage.remove_end(epoch)
        raise


def _write_end(
    stage: StageFolder, pretraining: Pretraining, trial: Trial, record: Mapping[str, Any], check: Callable[[], None]
) -> None:
    epoch, state = pretraining.epoch, pretraining.state()
    files: dict[str, str] = {}
    for arm in ARMS:
        check()
        name, size = getattr(trial.pretrain, arm), trial.data.image_size_px
        files[arm] = save_arm(pretraining.arms[arm], _file(stage, epoch, arm), name=name, image_size_px=size)
    rest = {key: value for key, value in state.tensors.items() if not key.startswith("arms/")}
    check()
    files[STATE] = write_tensors(_file(stage, epoch, STATE), rest)
    check()
    values = dict(state.values)
    stage.write_end(epoch, {**record, "rows": values.pop("rows"), "values": values, "files": files})


def _file(stage: StageFolder, epoch: int, part: str) -> AnyPath:
    return stage.end(epoch) / f"{part}.safetensors"
