"""The store of pretrainings: what is there of one, where it can go on from, and the publishing of its ends.

The end of an epoch holds both arms, as timm can load them, and what else going on from there needs (``state``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from cass_tune.checkpoints import Checkpoints, sha256
from cass_tune.config import ARMS, Trial
from cass_tune.results import Record, StageFolder
from cass_tune.storage import AnyPath, local_copy, whole_file
from cass_tune.training.models import save_arm
from cass_tune.training.pretrain import Pretraining
from cass_tune.training.state import State, below

logger = logging.getLogger(__name__)

STATE = "state"
_PARTS = (*ARMS, STATE)


def is_whole(stage: StageFolder, epoch: int) -> bool:
    """Return whether the end of an epoch is stored and every file has its checksum; of a damaged one it warns."""
    if not stage.has_end(epoch):
        return False
    try:
        files = stage.end_record(epoch)["files"]
        for part in _PARTS:
            with local_copy(_file(stage, epoch, part)) as path:
                if sha256(path) != files[part]:
                    raise ValueError(f"the content of {part}.safetensors was changed")
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        logger.warning("%s is damaged (%s); the pretraining is computed again", stage.end(epoch), error)
        return False
    return True


def load_arm(stage: StageFolder, epoch: int, arm: str) -> dict[str, Tensor]:
    """Return an arm's parameters and buffers at the end of an epoch."""
    with local_copy(_file(stage, epoch, arm)) as path:
        return load_file(path)


def stored_rows(stage: StageFolder, epochs: int) -> list[Record]:
    """Return the rows of a stored pretraining of so many epochs, marked as reused."""
    return [{**row, "epochs": epochs, "reused": True} for row in stage.end_record(epochs).get("rows", [])]


def furthest(stage: StageFolder, checkpoints: Checkpoints, epochs: int) -> State | None:
    """Return the latest state from which a pretraining of so many epochs can go on, or None: it starts anew."""
    checkpoint = checkpoints.newest(lambda values: _progress(values) <= (epochs, 0), _progress)
    reached = _progress(checkpoint.values) if checkpoint else (0, 0)
    for epoch in reversed(stage.ends()):
        if reached < (epoch, 0) <= (epochs, 0) and is_whole(stage, epoch):
            return _end_state(stage, epoch)
    return checkpoint


def _progress(values: Mapping[str, Any]) -> tuple[int, int]:
    return len(values["rows"]), values["batch"]


def _end_state(stage: StageFolder, epoch: int) -> State:
    arms = {arm: load_arm(stage, epoch, arm) for arm in ARMS}
    with local_copy(_file(stage, epoch, STATE)) as path:
        rest = load_file(path)
    record = stage.end_record(epoch)
    kept = {key: record["environment"][key] for key in ("devices", "threads")}
    return State(
        tensors={**below(arms=below(**arms)), **rest},
        values={**record["values"], "rows": record["rows"], **kept},
    )


def publish(stage: StageFolder, pretraining: Pretraining, trial: Trial, record: Mapping[str, Any]) -> None:
    """Store the end of the epoch that has just been finished.

    Args:
        stage: where to.
        pretraining: between two epochs.
        trial: whose networks these are.
        record: what else goes into run.json.

    Raises:
        StorageError: it could not be written; what is there does not count as an end.
    """
    epoch, state = pretraining.epoch, pretraining.state()
    for arm in ARMS:
        name, size = getattr(trial.pretrain, arm), trial.data.image_size_px
        save_arm(pretraining.arms[arm], _file(stage, epoch, arm), name=name, image_size_px=size)
    rest = {key: value.contiguous() for key, value in state.on_cpu().tensors.items() if not key.startswith("arms/")}
    with whole_file(_file(stage, epoch, STATE)) as temporary:
        save_file(rest, temporary)
    files: dict[str, str] = {}
    for part in _PARTS:
        with local_copy(_file(stage, epoch, part)) as path:
            files[part] = sha256(path)
    values = dict(state.values)
    stage.write_end(epoch, {**record, "rows": values.pop("rows"), "values": values, "files": files})


def _file(stage: StageFolder, epoch: int, part: str) -> AnyPath:
    return stage.end(epoch) / f"{part}.safetensors"
