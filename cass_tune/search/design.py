"""What a search is, and what one suggestion of it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cass_tune.config import Trial
from cass_tune.identity import digest
from cass_tune.pruning import Goal
from cass_tune.results import Record
from cass_tune.search.settings import GPU_HOURS, SearchSettings
from cass_tune.search.space import Space, apply, ask

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One suggestion.

    Args:
        trial: that it stands for.
        fields: that the space sets for its parameters.
        asked: the parameters and their distributions (`cass_tune.search.history.params_record`).
        lineage: in a population (`cass_tune.search.population`), where it stems from.
    """

    trial: Trial
    fields: Mapping[str, Any]
    asked: Record
    lineage: Record | None = None


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a search is; with another one, another search begins.

    Args:
        name: of the study.
        space: of its trials.
        base: the trial whose fields the space sets.
        given: fields that the user has set.
        settings: of the command.
    """

    name: str
    space: Space
    base: Trial
    given: Collection[str] = ()
    settings: SearchSettings

    def trial(self, fields: Mapping[str, Any], params: Mapping[str, Any]) -> Trial:
        """Return the trial of a suggestion, see `cass_tune.search.space.apply`."""
        return apply(self.base, fields, params, self.given)

    def drawn(self, trial: optuna.Trial) -> Draw:
        """Return what the space makes of one of Optuna's trials.

        Raises:
            UsageError: the space fails, is empty or contradicts a rule.
        """
        from cass_tune.search import history

        fields = ask(self.space, trial)
        return Draw(trial=self.trial(fields, trial.params), fields=fields, asked=history.params_record(trial))

    def known(self, number: int) -> int:
        """Return how many suggestions must have ended before this one is made: so many, from the first on.

        In a population all of the generations before; otherwise all but the last `parallel` - 1 before it.
        """
        parallel = self.settings.parallel
        return number - number % parallel if self.settings.is_population else max(0, number - parallel + 1)

    def seed(self, number: int) -> int:
        """Return the seed of what is drawn for a suggestion."""
        return int(digest({"search_seed": self.settings.search_seed, "number": number})[:8], 16)

    @property
    def goal(self) -> Goal:
        """What is to be high."""
        arms = tuple(arm for arm in ("cnn", "vit") if arm in self.settings.objective_arms)
        return Goal(metric=self.settings.objectives[0], arms=arms)

    @property
    def asks_for_hours(self) -> bool:
        """Whether the hours of training are a second objective."""
        return GPU_HOURS in self.settings.objectives

    def record(self, base_digest: str) -> Record:
        """Return everything that suggestions depend on but the space, which is code, as plain JSON.

        Args:
            base_digest: identity of the base trial.
        """
        names = ["objectives", "algorithm", "startup_trials", "search_seed", "parallel", "on_collapse"]
        names += ["generation_epochs"] if self.settings.is_population else []
        chosen = {name: getattr(self.settings, name) for name in names}
        return {"base": base_digest, "arms": list(self.goal.arms), "prunes": self.settings.prunes, **chosen}
