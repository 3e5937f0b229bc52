"""The finetuning of a trial: one arm after the other, each evaluated and kept when it is finished."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from cass_tune.attempt import Attempt
from cass_tune.checkpoints import Checkpointer, Checkpoints
from cass_tune.config import ARMS
from cass_tune.data.pixels import Pixels
from cass_tune.data.splits import Parts
from cass_tune.finetune_ends import inherited, keep_end
from cass_tune.lines import Lines
from cass_tune.patience import patiently
from cass_tune.results import Record
from cass_tune.tensors import read_tensors
from cass_tune.training.finetune import Evaluation, Finetuning
from cass_tune.training.models import save_arm
from cass_tune.training.state import State, below

logger = logging.getLogger(__name__)

PARTS = ("validation", "test")


class FinetuneSteps:
    """Finetunes both arms in the trial's folder.

    Args:
        attempt: the attempt that computes it.
        found: the trial's last checkpoint, or None.
    """

    def __init__(self, attempt: Attempt, found: State | None) -> None:
        self._attempt = attempt
        self._found = found
        self._training: Finetuning | None = None
        self.done: dict[str, Record] = dict(found.values["done"]) if found else {}
        """By finished arm: rows, class weights, and what result.json says of it."""
        self.outputs: dict[str, Tensor] = found.part("done") if found else {}
        """Logits of the finished arms, by ``<arm>/<part>``."""

    def run(
        self, checkpoints: Checkpoints, start: Callable[[str], nn.Module], parts: Parts, pixels: Pixels
    ) -> Iterator[Record]:
        """Yield the rows of both arms, those of finished epochs marked as reused.

        Args:
            checkpoints: of the trial.
            start: returns an arm as finetuning finds it.
            parts: which images are for what.
            pixels: the images.

        Raises:
            Interrupted: the attempt was asked to stop.
            HoldLost: another process has taken the trial over.
        """
        attempt = self._attempt
        with (
            attempt.folder.row_file(attempt.name) as lines,
            attempt.saving(checkpoints, self._state, attempt.lease) as checkpointer,
        ):
            for row in attempt.folder.lost_rows(self._restored()):
                lines.append(json.dumps(row, allow_nan=False))
            for arm in ARMS:
                if arm in self.done and self._is_evaluated(arm, parts, pixels):
                    yield from [{**row, "reused": True} for row in self.done[arm]["rows"]]
                    continue
                training = self._begin(arm, start, parts, pixels, lines)
                yield from [{**row, "reused": True} for row in training.rows]
                yield from self._train(training, lines, checkpointer)
                self._conclude(training, parts)
            if not attempt.options.test:
                checkpointer.save()  # from which the test goes on, some day
            patiently(lines.flush, attempt.check_stop)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The parts of the data on which the finetuned arms are evaluated."""
        return PARTS if self._attempt.options.test else PARTS[:1]

    def record(self, arm: str) -> Record:
        """Return what the trial's result says of a finished arm; nothing of the test where that is left out."""
        left_out = set(PARTS) - set(self.evaluated)
        return {name: value for name, value in self.done[arm]["record"].items() if name not in left_out}

    def _is_evaluated(self, arm: str, parts: Parts, pixels: Pixels) -> bool:
        """Test a finished arm from its stored weights where that was left out; return whether it could be done."""
        attempt = self._attempt
        if not attempt.options.test or "test" in self.done[arm]["record"]:
            return True
        path, sha256 = attempt.folder.weights(arm), self.done[arm]["weights"]
        try:
            tensors = patiently(lambda: read_tensors(path, sha256), attempt.check_stop)
        except (ValueError, FileNotFoundError) as error:
            logger.warning("the %s is finetuned again, because its weights cannot be tested: %s", arm, error)
            del self.done[arm], self.outputs[f"{arm}/validation"]
            return False
        batches = attempt.batches(pixels, f"finetune/{arm}")
        model = attempt.blank_arm(arm).to(attempt.device)
        training = Finetuning(attempt.trial, arm, model, attempt.listing, parts, batches, attempt.check_stop)
        training.model.load_state_dict(tensors)
        found = training.evaluate(parts.test)
        self.done[arm]["record"] = {**self.done[arm]["record"], "test": found.metrics}
        self.outputs[f"{arm}/test"] = found.outputs
        return True

    def _restored(self) -> list[Record]:
        """Return the rows that the checkpoint holds."""
        finished = [row for done in self.done.values() for row in done["rows"]]
        return [*finished, *self._found.values["part"].get("rows", ())] if self._found else finished

    def seconds(self) -> dict[str, float]:
        """Return the training time of each finished arm."""
        return {arm: sum(row["seconds"] for row in done["rows"]) for arm, done in self.done.items()}

    def _begin(
        self, arm: str, start: Callable[[str], nn.Module], parts: Parts, pixels: Pixels, lines: Lines
    ) -> Finetuning:
        """Return an arm's finetuning where it was left, where that of a shorter trial ended, or at its start."""
        attempt, found = self._attempt, self._saved(arm)
        state = found or inherited(attempt, arm)
        model = attempt.blank_arm(arm).to(attempt.device) if state else start(arm)
        batches = attempt.batches(pixels, f"finetune/{arm}")
        training = Finetuning(
            attempt.trial,
            arm,
            model,
            attempt.listing,
            parts,
            batches,
            attempt.between_steps,
            checkpointing=attempt.options.activation_checkpointing,
        )
        if state:
            training.load(state)
        if not found:
            for row in training.rows:
                lines.append(json.dumps(row, allow_nan=False))
        self._training = training
        attempt.begin(training, resumed=found is not None)
        return training

    def _saved(self, arm: str) -> State | None:
        """Return the state of an arm that the checkpoint holds."""
        found = self._found if self._found and self._found.values["arm"] == arm else None
        return State(tensors=found.part("part"), values=found.values["part"]) if found else None

    def _train(self, training: Finetuning, lines: Lines, checkpointer: Checkpointer) -> Iterator[Record]:
        keep_end(self._attempt, training)  # where an attempt was stopped after the last epoch and before this
        for row in training.run():
            lines.append(json.dumps(row, allow_nan=False))
            keep_end(self._attempt, training)
            checkpointer.after_epoch()
            yield row

    def _conclude(self, training: Finetuning, parts: Parts) -> None:
        """Evaluate and keep a finetuned arm; from here on it is done."""
        attempt, arm, sha256 = self._attempt, training.arm, list[str]()
        found = {name: training.evaluate(getattr(parts, name)) for name in self.evaluated}
        if attempt.options.keep_weights == "all":
            name, size = getattr(attempt.trial.pretrain, arm), attempt.trial.data.image_size_px
            path, classes = attempt.folder.weights(arm), attempt.listing.classes

            def save() -> None:
                sha256[:] = [save_arm(training.model, path, name=name, image_size_px=size, classes=classes)]

            attempt.store(save)
        self.done[arm] = {
            "rows": training.rows,
            "class_weights": dict(training.class_weights),
            "record": self._record(training, found),
            "weights": sha256[0] if sha256 else None,
        }
        self.outputs.update({f"{arm}/{name}": evaluation.outputs for name, evaluation in found.items()})
        self._training = None
        attempt.end()

    def _record(self, training: Finetuning, evaluations: Mapping[str, Evaluation]) -> Record:
        return {
            "model": getattr(self._attempt.trial.pretrain, training.arm),
            "parameters": sum(p.numel() for p in training.model.parameters()),
            "best_epoch": training.best.epoch,
            **{name: evaluation.metrics for name, evaluation in evaluations.items()},
        }

    def _state(self) -> State:
        """Return the finished arms, and the one in progress."""
        part = self._training.state() if self._training else State()
        values: dict[str, Any] = {
            "done": dict(self.done),
            "arm": self._training.arm if self._training else None,
            "part": part.values,
            **self._attempt.machine(self._attempt.devices),
        }
        return State(tensors=below(done=self.outputs, part=part.tensors), values=values)
