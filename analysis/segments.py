"""Where the pretraining of a trial is stored."""

from __future__ import annotations

from cass_tune.identity import Segment
from cass_tune.results import Record


def segments_of(wanted: Record, result: Record | None) -> list[Segment] | None:
    """Return where a trial's pretraining is stored, in order; nothing for a control, None where it is not recorded.

    Args:
        wanted: what the plan says of the trial.
        result: its result, if it is finished.
    """
    config = wanted["config"]["pretrain"]
    if config["method"] == "none":
        return []
    stage = (result or {}).get("stage") or {}
    parts = stage.get("segments") or stage.get("parts") or wanted.get("segments")
    if parts:
        return [Segment(stage=part["stage"], start=part["start"], end=part["end"]) for part in parts]
    digest = stage.get("digest") or wanted.get("stage")  # as earlier versions recorded it
    return [Segment(stage=digest, start=0, end=stage.get("epoch", config["epochs"]))] if digest else None
