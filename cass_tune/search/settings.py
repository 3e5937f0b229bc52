"""The options of a search that a study does not have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cass_tune.errors import UsageError
from cass_tune.options import Settings, option

GPU_HOURS = "gpu_hours"
"""The second objective: hours of training of a trial alone, its pretraining included."""


GENERATION_EPOCHS = 5
"""Of finetuning, by default, of each generation of a population."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings(Settings):
    """How a search is run."""

    trials: int = 20
    """Suggestions in all, those of earlier commands included; a larger number goes on with the same search."""
    objectives: tuple[Literal["macro_f1", "balanced_accuracy", "accuracy", "auroc", "gpu_hours"], ...] = ("macro_f1",)
    """What is looked for: a metric of the validation images, of the best epoch, mean of the arms; `gpu_hours` behind it
    asks for the front of both (on the CPU: hours of this machine)."""
    objective_arms: tuple[Literal["cnn", "vit"], ...] = ("cnn", "vit")
    """The networks whose mean the metric is."""
    algorithm: Literal["tpe", "random", "pbt"] = "tpe"
    """`tpe`: Optuna's tree-structured Parzen estimator; `random`: what it is to be compared with; `pbt`: population
    based training, of --parallel trials, which changes their finetuning while it runs."""
    interval_epochs: int | None = None
    """Epochs of finetuning of each generation of `pbt`, after which the worst go on from the best; by default 5."""
    startup_trials: int = 10
    """Suggestions that `tpe` draws at random before it learns."""
    search_seed: int = 0
    """Seed of the suggestions; --seeds is that of the trials."""
    pruner: Literal["auto", "asha", "none"] = "auto"
    """`asha`: a finetuning stops at 1/27, 1/9 and 1/3 of its epochs unless it is among the best third; auto: `asha`
    with one objective, `none` with two."""
    parallel: int = 4
    """Suggestion n is made when all but the last so many minus one before it have ended, from their results: at most so
    many trials run at once, and the same ones on any machine."""
    on_collapse: Literal["warn", "stop"] = "stop"
    """What to do when the outputs of a pretraining become constant; a trial that is stopped counts as pruned."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        try:
            super().__post_init__()
        except UsageError as error:
            problems.extend(error.problems)
        problems += [
            f"{option(name)} must be at least {least}, but got {getattr(self, name)}."
            for name, least in (("trials", 1), ("startup_trials", 0), ("search_seed", 0), ("parallel", 1))
            if getattr(self, name) < least
        ]
        problems += self._objective_problems()
        problems += self._population_problems()
        if self.seeds is not None and len(self.seeds) > 1:
            problems.append(
                f"--seeds: a search trains every suggestion with one seed, but got {len(self.seeds)}. Give one, and "
                "run a study of what it finds with several."
            )
        if self.redo == "all":
            problems.append(
                "--redo all: a search keeps what it has found. Give --redo failed or none, or new --results."
            )
        if self.only:
            problems.append("--only chooses cells of a grid; a search has none. Change its space instead.")
        if problems:
            raise UsageError(*problems)

    def _objective_problems(self) -> list[str]:
        problems = []
        got = " ".join(self.objectives) or "none"
        first, *rest = self.objectives or ("",)
        if first in ("", GPU_HOURS) or rest not in ([], [GPU_HOURS]):
            problems.append(f"--objectives takes one metric, and {GPU_HOURS} behind it or nothing, but got {got}.")
        if not self.objective_arms or len(set(self.objective_arms)) < len(self.objective_arms):
            problems.append(
                f"--objective-arms takes cnn, vit or both, but got {' '.join(self.objective_arms) or 'none'}."
            )
        if self.pruner == "asha" and len(self.objectives) > 1:
            problems.append(f"--pruner asha compares one number, but --objectives is {got}. Give --pruner none.")
        return problems

    def _population_problems(self) -> list[str]:
        if not self.is_population:
            given = self.interval_epochs
            return [] if given is None else [f"--interval-epochs {given} is a part of --algorithm pbt; leave it out."]
        problems = []
        if self.interval_epochs is not None and self.interval_epochs < 1:
            problems.append(f"--interval-epochs must be at least 1, but got {self.interval_epochs}.")
        if self.parallel == 1:
            problems.append(
                "--parallel, the size of the population of --algorithm pbt, must be at least 2, but got 1: a trial "
                "alone has no other to go on from. Give 8, for example."
            )
        if self.parallel > 0 and self.trials % self.parallel:
            problems.append(
                f"--trials must be a multiple of --parallel {self.parallel}, which is the size of the population of "
                f"--algorithm pbt, so that every generation is whole, but got {self.trials}. "
                f"Give {-(-self.trials // self.parallel) * self.parallel}, for example."
            )
        if len(self.objectives) > 1:
            problems.append(f"--algorithm pbt ranks by one number, but --objectives is {' '.join(self.objectives)}.")
        if self.pruner == "asha":
            problems.append(
                "--pruner asha stops trials, and --algorithm pbt lets its worst go on from the best instead. Give "
                "--pruner none or auto."
            )
        return problems

    @property
    def is_population(self) -> bool:
        """Whether the trials are generations of a population."""
        return self.algorithm == "pbt"

    @property
    def generation_epochs(self) -> int:
        """Epochs of finetuning of each generation of a population; 0: there is none."""
        return (self.interval_epochs or GENERATION_EPOCHS) if self.is_population else 0

    @property
    def prunes(self) -> bool:
        """Whether trials are stopped early because others are better."""
        is_auto = self.pruner == "auto" and len(self.objectives) == 1 and not self.is_population
        return self.pruner == "asha" or is_auto
