"""The command line of a search: plan, suggest and run, test the winner, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cass_tune import ending
from cass_tune.config import Trial, with_field
from cass_tune.console import Console
from cass_tune.data.listings import Listings
from cass_tune.errors import Held, UsageError
from cass_tune.estimate import Estimator
from cass_tune.identity import ID_DIGITS, RESULTS_VERSION, Inputs, digest, segments, trial_digest
from cass_tune.leases import Lease
from cass_tune.options import Given, command_line
from cass_tune.overview import plan_lines, trial_lines
from cass_tune.plan import OPEN, Wanted, describe_data
from cass_tune.presets import as_method
from cass_tune.results import Record, StudyFolder, new_attempt
from cass_tune.search import population
from cass_tune.search.design import Design, Draw
from cass_tune.search.page import Search
from cass_tune.search.sampling import changes, random_draws
from cass_tune.search.settings import SearchSettings
from cass_tune.search.space import check_given, label
from cass_tune.search.supply import Suggestions
from cass_tune.sharing import register, wanted_ends
from cass_tune.study import DRY_RUN, Command, Report, check_against_data, collect, weights_key

MOST_DRAWS = 200
"""So many trials are drawn, at most, to judge what those that are not suggested yet will take."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is known before anything runs.

    Args:
        listings: the data, as each trial has them.
        estimator: judges trials.
        folder: of the study.
        id: of the search.
        suggestions: so far.
        wanted: their trials, in order, each once.
        missing: those of them that must run.
        likely: trials drawn at random in place of those that are not suggested yet.
    """

    listings: Listings
    estimator: Estimator
    folder: StudyFolder
    id: str
    suggestions: Suggestions
    wanted: Sequence[Wanted]
    missing: Sequence[Wanted]
    likely: Sequence[Wanted]


class SearchCommand(Command):
    """One call of a search's command line."""

    def __init__(self, study: Search, given: Given, console: Console, report: Report) -> None:
        super().__init__(study, given, console, report)
        assert isinstance(given.settings, SearchSettings)
        self.search = study
        self.options = given.settings
        self._inputs_of: dict[Any, Inputs] = {}

    def run(self) -> int:
        """Say what will be searched, run it, report; return the exit code."""
        self.console.say(self._first_line())
        self._settle(lambda: [self._base_trial()])
        base = self._base_trial()
        given = frozenset(self.given.fields)
        design = Design(name=self.study.name, space=self.search.space, base=base, given=given, settings=self.options)
        unchecked: list[str] = []
        draws = random_draws(design, min(self.options.trials, MOST_DRAWS))
        for drawn in draws:
            check_given(self.given.fields, drawn.fields)
        if self.options.is_population:
            population.check(design, draws[: self.options.parallel])
        trials = [drawn.trial for drawn in draws]
        listings: Listings | None = collect(unchecked, self._listings, [base, *trials])
        inputs = self._inputs([base, *trials], listings, unchecked)
        estimator = Estimator(self.results, listings, self.settings) if listings else None
        self._refuse([base, *trials], estimator, unchecked)
        base_inputs = inputs[base]
        if listings is None or estimator is None or base_inputs is None or None in inputs.values():
            what = f"search: {self.options.trials} trials"
            why = " ".join(unchecked)
            self.console.say(*plan_lines([], [], {}, listings, None, unchecked=why, price=None, trials=what), DRY_RUN)
            return ending.DONE
        plan = self._planned(design, listings, estimator, inputs, draws)
        self._say(plan)
        if self.options.dry_run:
            self.console.say(*(f"  {line}" for line in trial_lines(plan.wanted, self._states(plan.wanted))), DRY_RUN)
            return ending.DONE
        return self._searched(plan)

    def _base_trial(self) -> Trial:
        base, problems = self._base()
        problems += self._data_problems(base)
        if problems:
            raise UsageError(*dict.fromkeys(problems))
        if self.options.is_population:
            base = with_field(base, "finetune.epochs", self.options.generation_epochs)
        (seed,) = self.options.seeds or (0,)
        return as_method(with_field(base, "seed", seed), self.given.fields)

    # Planning

    def _planned(
        self,
        design: Design,
        listings: Listings,
        estimator: Estimator,
        inputs: Mapping[Trial, Inputs | None],
        draws: Sequence[Draw],
    ) -> _Plan:
        base_inputs = inputs[design.base]
        assert base_inputs is not None
        search_id = digest(design.record(trial_digest(design.base, base_inputs)))[:ID_DIGITS]
        folder = self.results.study(self.study.name, f"{listings.first.name}-{self.preset}")

        def resolve(trial: Trial, name: str) -> Wanted:
            check_against_data([trial], estimator.sizes)
            return self._wanted(trial, name, listings)

        suggestions = Suggestions(design, folder.search(search_id), self.results, resolve)
        for record in suggestions.records:
            self._check_unchanged(design, record)
        wanted = {r["trial"]["digest"]: suggestions.wanted(r, suggestions.trial(r)) for r in suggestions.records}
        left = self.options.trials - len(suggestions.records)
        drawn = (
            self._wanted(d.trial, label(None, d.asked["params"], d.trial.seed), listings)
            for d in (draws[-left:] if left > 0 else ())
        )
        epochs = self.options.generation_epochs
        likely = {str(item.digest): replace(item, generation_epochs=epochs) for item in drawn}
        return _Plan(
            listings=listings,
            estimator=estimator,
            folder=folder,
            id=search_id,
            suggestions=suggestions,
            wanted=list(wanted.values()),
            missing=[item for item in wanted.values() if self._must_run(suggestions, item)],
            likely=[item for name, item in likely.items() if name not in wanted],
        )

    def _wanted(self, trial: Trial, name: str, listings: Listings) -> Wanted:
        key = (listings(trial.data).fingerprint, *weights_key(trial.pretrain))
        if key not in self._inputs_of:
            problems: list[str] = []
            found = self._inputs([trial], listings, problems)[trial]
            if found is None:
                raise UsageError(*problems)
            self._inputs_of[key] = found
        inputs = self._inputs_of[key]
        return Wanted(
            trial=trial,
            name=name,
            inputs=inputs,
            digest=trial_digest(trial, inputs),
            segments=segments(trial, inputs),
        )

    def _must_run(self, suggestions: Suggestions, item: Wanted) -> bool:
        states = {r["number"]: suggestions.outcomes.get(r["number"], {}).get("state") for r in suggestions.records}
        own = [n for n, r in enumerate(suggestions.records) if r["trial"]["digest"] == item.digest]
        if any(states[n] == "failed" for n in own):
            return self.options.redo == "failed"
        return any(states[n] is None and suggestions.is_open(suggestions.records[n]) for n in own)

    def _check_unchanged(self, design: Design, record: Record) -> None:
        """Raise a UsageError when the space has another meaning than when it was asked before."""
        problem = changes(design, record)
        if problem:
            raise UsageError(
                f"The space of {self.study.name} has changed since its suggestion {record['number']}: {problem}. Give "
                "the search another name, another --search-seed, or other --results; what its trials have computed is "
                "found again."
            )

    def _say(self, plan: _Plan) -> None:
        states = self._states(plan.wanted)
        to_run = [*plan.missing, *plan.likely]
        known = {**states, **{str(item.digest): "missing" for item in plan.likely}}
        if to_run:
            plan.estimator.learn_earlier([*plan.wanted, *plan.likely], to_run, known)
        estimate = plan.estimator.estimate(to_run, plan.wanted)
        lines = plan_lines(
            [*plan.wanted, *plan.likely],
            to_run,
            states,
            plan.listings,
            estimate,
            unchecked="",
            price=self.options.price,
            trials=self._trials_line(plan),
        )
        self.console.say(*lines)

    def _trials_line(self, plan: _Plan) -> str:
        options, made = self.options, len(plan.suggestions.records)
        arms = plan.suggestions.design.goal.arms
        goal = f"validation {options.objectives[0]} of the {' and the '.join(arms)}{', mean' if len(arms) > 1 else ''}"
        goals = [goal, *options.objectives[1:]]
        pruned = "pruned by ASHA, which the hours do not know of" if options.prunes else "not pruned"
        left = options.trials - made
        size, epochs = options.parallel, options.generation_epochs
        generations = f" in generations of {size}, each of {epochs} more epochs of finetuning" if epochs else ""
        how = f"{options.algorithm}{generations}"
        text = f"search {plan.id}: {options.trials} trials by {how}, for {' and '.join(goals)}; {pruned}"
        drawn = f"; {left} to be suggested, here drawn at random" if left > 0 else ""
        return f"{text}\ntrials: {made} suggested, {len(plan.suggestions.outcomes)} of them ended{drawn}"

    # Running

    def _searched(self, plan: _Plan) -> int:
        self.results.check_writable()
        self.execution.checks.check(
            [item.trial for item in (*plan.missing, *plan.likely)] or [plan.suggestions.design.base]
        )
        try:
            lease = Lease.take_over(
                plan.folder.search(plan.id).path,
                new_attempt(),
                on_lost=lambda: self.execution.stop.request("another process runs this search"),
            )
        except Held as error:
            raise UsageError(
                f"{error}: one process at a time suggests the trials of a search (any number may run other studies on "
                "these results). Wait for it, or give another --search-seed."
            ) from error
        with lease:
            plan.folder.write_plan(self._search_plan(plan))
            self._run_trials(plan)
        self.console.say(*self.execution.keeping.tidied(wanted_ends(plan.wanted)))
        self.console.say("", self.report(plan.folder, self.study.published).rstrip())
        return self._code(plan)

    def _run_trials(self, plan: _Plan) -> None:
        suggestions, missing = plan.suggestions, list(plan.missing)
        suggestions.take(missing)
        register(plan.wanted, self.results)
        supply = _Registered(self, suggestions)
        while (item := supply.next(lambda digest: False)) is not None:
            missing.append(item)
        if missing:
            done = len(suggestions.outcomes)
            self.execution.run(missing, plan.listings.first, plan.estimator, done=done, supply=supply)

    def _search_plan(self, plan: _Plan) -> Record:
        return {
            "study": self.study.name,
            "title": self.study.title,
            "preset": self.preset,
            "demo": self.preset == "demo",
            "recipe": self.options.recipe,
            "axes": [],
            "data": describe_data(plan.listings.first),
            "results_version": RESULTS_VERSION,
            "command": command_line(self.study.name, self.preset, self.given),
            "search": {
                "id": plan.id,
                "trials": self.options.trials,
                "objectives": list(self.options.objectives),
                "arms": list(plan.suggestions.design.goal.arms),
                "algorithm": self.options.algorithm,
                "prunes": self.options.prunes,
            },
            "trials": [],
        }

    def _code(self, plan: _Plan) -> int:
        found = plan.suggestions
        if self.execution.common_failure or self.execution.left:
            return self._exit_code(plan.wanted)
        states = [outcome["state"] for outcome in found.outcomes.values()]
        winner = found.winner()
        is_tested = winner is None or self.results.trial(winner["trial"]["digest"]).is_finished()
        if len(states) < self.options.trials or not is_tested:
            failed = winner is not None and self.results.trial(winner["trial"]["digest"]).status() not in OPEN
            self.console.say(*([] if failed else [ending.last_line(ending.INTERRUPTED)]))
            return ending.FAILED if failed else ending.INTERRUPTED
        if winner is None:
            why = dict.fromkeys(outcome["why"] for outcome in found.outcomes.values())
            self.console.say(
                f"No trial of the search has reached a value: {'; '.join(list(why)[:3])}. Give more --trials, "
                "another space, or, where pretrainings collapse, --on-collapse warn, which lets them go on."
            )
        return ending.DONE if winner and "failed" not in states else ending.FAILED


class _Registered:
    """Registers at its stages every trial that a search hands out."""

    def __init__(self, command: SearchCommand, suggestions: Suggestions) -> None:
        self._command = command
        self._suggestions = suggestions

    def next(self, has_settled: Any) -> Wanted | None:
        item = self._suggestions.next(has_settled)
        if item is not None:
            register([item], self._command.results)
        return item

    def is_over(self) -> bool:
        return self._suggestions.is_over()
