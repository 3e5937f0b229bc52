"""A study: which trials it wants, and its command line: plan, run what is missing, report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cass_tune import ending
from cass_tune.config import SECTIONS, Data, Pretrain, Trial, with_field
from cass_tune.console import Console
from cass_tune.data.listing import Listing
from cass_tune.data.listings import Listings
from cass_tune.ephemeral import ephemeral
from cass_tune.errors import UsageError
from cass_tune.estimate import Estimate, Estimator, PartSizes, Sizes
from cass_tune.execution import Execution
from cass_tune.guard import guarded
from cass_tune.identity import RESULTS_VERSION, Inputs
from cass_tune.options import Given, Settings, command_line, option, parse
from cass_tune.overview import failure_line, plan_lines, trial_lines
from cass_tune.plan import (
    OPEN,
    Axes,
    Wanted,
    describe_data,
    grid,
    replicate,
    resolve,
    select,
    to_probe,
    to_run,
    with_controls,
)
from cass_tune.presets import PRESETS, as_method, values_of
from cass_tune.results import Results, StudyFolder, find_study
from cass_tune.settling import Settling
from cass_tune.sharing import in_order, register, wanted_ends
from cass_tune.status import status_lines
from cass_tune.storage import place

Report = Callable[[StudyFolder, Mapping[str, object]], str]

DRY_RUN = (
    "Dry run: nothing was run, and these were not checked: that timm has the networks and their weights, "
    "and that there is a device for them."
)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A page of a paper.

    Args:
        name: of the study's module and folder.
        title: what is asked, and which table it reproduces.
        axes: what is varied: the paper's values by ``"section.field"``.
        published: which published numbers belong beside it (`analysis.published`), by column.
        cells: yields the trials of one seed from a base and the axes; the full grid by default.
        passes: the paper's numbers of pretraining epochs at which other studies leave a pretraining that this one runs
            through: they are stored on the way.
    """

    name: str
    title: str
    axes: Axes
    published: Mapping[str, object] = field(default_factory=dict)
    cells: Callable[[Trial, Axes], Iterable[Trial]] = grid
    passes: tuple[int, ...] = ()

    @property
    def settings(self) -> type[Settings]:
        """The options of the command line that are not fields of the trial."""
        return Settings

    def command(self, given: Given, console: Console, report: Report) -> Command:
        """Return one call of the command line."""
        return Command(self, given, console, report)

    def main(self, report: Report, argv: Sequence[str] | None = None) -> int:
        """Run the command line and return its exit code.

        Args:
            report: writes the tables of a study's folder and returns them as text.
            argv: arguments; those of the process by default.
        """
        console = Console()

        def work() -> int:
            given = parse(
                sys.argv[1:] if argv is None else argv,
                prog=f"python -m studies.{self.name}",
                description=self.title,
                axes=self.axes,
                folder=Path.cwd(),
                kind=self.settings,
            )
            if given.settings.status:
                console.say(*self._status(given))
                return ending.DONE
            return self.command(given, console, report).run()

        return guarded(work, console)

    def _status(self, given: Given) -> Iterator[str]:
        """Yield the state of every variant of this study that the options name."""
        data, preset = given.fields.get("data.name"), given.settings.preset
        found = find_study(self.name, place(given.settings.results))
        chosen = [
            study
            for study in found
            if (data is None or study.path.name.startswith(f"{data.rpartition(':')[2]}-"))
            and (preset is None or study.path.name.endswith(f"-{preset}"))
        ]
        if not chosen:
            there = ", ".join(study.path.name for study in found)
            raise UsageError(f"{self.name} has not run with these data and this preset; there are: {there}.")
        for study in chosen:
            yield from status_lines(study)


class Command:
    """One call of a study's command line."""

    def __init__(self, study: Study, given: Given, console: Console, report: Report) -> None:
        self.study = study
        self.settings: Settings = given.settings
        self.given = given
        self.console = console
        self.report = report
        self.results = Results(self.settings.results)
        self.preset = self.settings.preset or ("paper" if "data.name" in given.fields else "demo")
        self.axes = self._axes()
        self.execution = Execution(self.settings, self.results, console, study=study.name, preset=self.preset)

    def run(self) -> int:
        """Say what is wanted, run what is missing, report; return the exit code."""
        self.console.say(self._first_line())
        self._settle(self._every_cell)
        trials = self._trials()
        unchecked: list[str] = []
        listings: Listings | None = collect(unchecked, self._listings, trials)
        inputs = self._inputs(trials, listings, unchecked)
        estimator = Estimator(self.results, listings, self.settings) if listings else None
        self._refuse(trials, estimator, unchecked)
        wanted = resolve(trials, inputs, self._passes())
        redo, stops = self.settings.redo, self.settings.on_collapse == "stop"
        missing = in_order(to_run(wanted, self.results, redo, collapsed_too=not stops))
        late = to_probe([item for item in wanted if item not in missing], self.results, self.settings.chosen_probes)
        states = self._states(wanted)
        estimate = None if unchecked or not estimator else self._estimate(estimator, wanted, missing, states)
        why, price = " ".join(unchecked), self.settings.price
        self.console.say(*plan_lines(wanted, missing, states, listings, estimate, unchecked=why, price=price))
        if late:
            self.console.say(f"probes: finished trials that get the ones they lack, without training: {len(late)}")
        if self.settings.dry_run or listings is None or estimator is None:
            self.console.say(*(f"  {line}" for line in trial_lines(wanted, states)), DRY_RUN)
            return ending.DONE
        return self._run(wanted, missing, late, listings.first, estimator)

    def _settle(self, cells: Callable[[], Sequence[Trial]]) -> None:
        """Put fields in the place of the options that stand for one of both phases.

        Args:
            cells: returns all that the study has.
        """
        settling = Settling(self.axes, self.execution.checks, self.results, self.console)
        self.given = settling.precision(self.given)
        self.given = settling.compiling(self.given, cells)

    def _estimate(
        self, estimator: Estimator, wanted: Sequence[Wanted], missing: Sequence[Wanted], states: Mapping[str, str]
    ) -> Estimate:
        if missing:
            estimator.learn_earlier(wanted, missing, states, self._folder(estimator.listings.first))
        return estimator.estimate(missing, wanted)

    def _refuse(self, trials: Sequence[Trial], estimator: Estimator | None, unchecked: Sequence[str]) -> None:
        """Raise every mistake at once; a dry run lives with data and weights that are not on this machine."""
        misfits: list[str] = []
        if estimator is not None:
            collect(misfits, check_against_data, trials, estimator.sizes)
        if misfits or (unchecked and not self.settings.dry_run):
            if not self.settings.dry_run:
                collect(misfits, self.execution.checks.check, trials, names_alone=True)
            raise UsageError(*dict.fromkeys([*unchecked, *misfits]))

    def _run(
        self,
        wanted: Sequence[Wanted],
        missing: Sequence[Wanted],
        late: Sequence[Wanted],
        listing: Listing,
        estimator: Estimator,
    ) -> int:
        self.results.check_writable()
        warning = ephemeral(self.results.root)
        if missing and warning:
            self.console.say(f"warning: {warning}")
        folder = self._folder(listing)
        if missing or late:
            self.execution.checks.check([item.trial for item in (*missing, *late)])
        folder.write_plan(self._plan(wanted, listing))
        register(wanted, self.results)
        rest = [item for item in wanted if item not in missing]
        for item in rest:
            self.results.trial(str(item.digest)).tidy()
        if missing or late:
            done = list(self._states(rest).values()).count("done") - len(late)
            self.execution.run(missing, listing, estimator, done=done, late=late)
        self.console.say(*self.execution.keeping.tidied(wanted_ends(wanted)))
        self.console.say("", self.report(folder, self.study.published).rstrip())
        return self._exit_code(wanted)

    def _folder(self, listing: Listing) -> StudyFolder:
        return self.results.study(self.study.name, f"{listing.name}-{self.preset}")

    def _axes(self) -> Axes:
        preset = PRESETS[self.preset]
        own = {path: preset.scale(path, tuple(values)) for path, values in self.study.axes.items()}
        chosen = {path: self.given.fields.get(path, values) for path, values in own.items()}
        return {path: tuple(_absolute(path, value) for value in values) for path, values in chosen.items()}

    def _passes(self) -> tuple[int, ...]:
        """Return which shorter pretrainings are stored on the way, for other studies."""
        is_kept = self.settings.keep_stages != "unfinished"
        return PRESETS[self.preset].scale("pretrain.epochs", self.study.passes) if is_kept else ()

    def _first_line(self) -> str:
        data = self.given.fields.get("data.name", "phantom")
        if self.settings.preset:
            why = f"preset {self.preset}, as asked for, on {data}"
        elif self.given.source:
            why = f"preset {self.preset}, because {self.given.source} names the data {data}"
        else:
            why = (
                "no data named, so small networks on the built-in phantom images "
                "(the study itself: --data.name brain_mri --data.root DIR)"
            )
        return f"{self.preset.upper()} {self.study.name}: {why}."

    def _trials(self) -> list[Trial]:
        """Return every trial, seed by seed; all broken rules at once."""
        trials = replicate(self._every_cell(), self.settings.seeds or PRESETS[self.preset].seeds)
        return select(trials, self.settings.only, self.axes)

    def _every_cell(self) -> list[Trial]:
        """Return every cell of the grid, and the controls, of one seed; all broken rules at once."""
        base, problems = self._base()
        for path, values in self.axes.items():
            if len(set(values)) < len(values) or not values:
                given = " ".join(map(str, values)) or "none"
                problems.append(f"{option(path)} takes different values, but got {given}.")
            for value in values:
                collect(problems, with_field, base, path, value)
        problems += self._data_problems(base)
        if problems:
            raise UsageError(*dict.fromkeys(problems))
        cells = collect(problems, self._cells, base)
        if problems:
            raise UsageError(*dict.fromkeys(problems))
        return cells

    def _cells(self, base: Trial) -> list[Trial]:
        """Return the cells, each with the values of its method, and their controls."""
        given = {*self.given.fields, *self.axes}
        cells = [as_method(trial, given) for trial in self.study.cells(base, self.axes)]
        return with_controls(cells)

    def _data_problems(self, base: Trial) -> list[str]:
        if base.data.name != "phantom" or not base.data.root:
            return []
        return [
            "--data.root is not used by phantom, which is built in: name the data that lie there "
            "(--data.name brain_mri, folder or csv), or leave --data.root out."
        ]

    def _base(self) -> tuple[Trial, list[str]]:
        problems: list[str] = []
        chosen = values_of(self.preset, self.settings.recipe)
        for path, value in self.given.fields.items():
            section, _, name = path.partition(".")
            if path not in self.axes:
                chosen[section][name] = _absolute(path, value)
        sections: dict[str, Any] = {
            name: collect(problems, kind, **chosen[name]) or kind() for name, kind in SECTIONS.items()
        }
        return Trial(**sections), problems

    def _listings(self, trials: Sequence[Trial]) -> Listings:
        return Listings((trial.data for trial in trials), self._listing)

    def _listing(self, data: Data) -> Listing:
        from cass_tune.data.catalog import list_images

        listing = list_images(data, self.console.counter("reading images"))
        if listing.spatial_dims == 3:
            raise UsageError(
                f"--data.name {data.name} has volumes, and every network of this version takes images. "
                f"Give a set of images; python -m cass_tune.data {data.name} shows what is in this one."
            )
        return listing

    def _inputs(
        self, trials: Sequence[Trial], listings: Listings | None, unchecked: list[str]
    ) -> dict[Trial, Inputs | None]:
        """Return what each trial reads; each distinct choice of weights is read once."""
        from cass_tune.weights import weights_identity

        choices = {weights_key(trial.pretrain): trial.pretrain for trial in trials}
        known = {key: collect(unchecked, weights_identity, pretrain) for key, pretrain in choices.items()}
        inputs: dict[Trial, Inputs | None] = {}
        for trial in trials:
            weights = known[weights_key(trial.pretrain)]
            inputs[trial] = Inputs(data=listings(trial.data).fingerprint, **weights) if listings and weights else None
        return inputs

    def _plan(self, wanted: Sequence[Wanted], listing: Listing) -> dict[str, Any]:
        return {
            "study": self.study.name,
            "title": self.study.title,
            "preset": self.preset,
            "demo": self.preset == "demo",
            "recipe": self.settings.recipe,
            "axes": list(self.axes),
            "data": describe_data(listing),
            "results_version": RESULTS_VERSION,
            "command": command_line(self.study.name, self.preset, self.given),
            "trials": [item.record() for item in wanted],
        }

    def _states(self, wanted: Sequence[Wanted]) -> dict[str, str]:
        """Return the states of trials by their identities; of unknown ones nothing."""
        return {item.digest: self.results.trial(item.digest).status() for item in wanted if item.digest}

    def _exit_code(self, wanted: Sequence[Wanted]) -> int:
        states = [
            "failed" if state in OPEN and digest in self.execution.failed else state
            for digest, state in self._states(wanted).items()
        ]
        if self.execution.common_failure:
            self.console.say(
                "Stopped: the first trials failed with the same error before any training step, so the others would "
                f"too. Mend it and run the same command again. {failure_line(self.execution.common_failure)}"
            )
            return ending.FAILED
        left, left_to_others = self.execution.left, self.execution.left_to_others
        if left or left_to_others:
            self.console.say(ending.budget_line(left, self.settings.budget_hours or 0.0, left_to_others))
            return ending.FAILED
        unprobed = self.execution.stop.reason and to_probe(wanted, self.results, self.settings.chosen_probes)
        if unprobed or not {*OPEN}.isdisjoint(states):
            self.console.say(ending.last_line(ending.INTERRUPTED))
            return ending.INTERRUPTED
        return ending.DONE if all(state == "done" for state in states) else ending.FAILED


def check_against_data(trials: Sequence[Trial], sizes: PartSizes) -> None:
    """Raise a UsageError with every way in which a trial does not fit the data (a batch larger than the set, ...).

    Args:
        trials: to be run.
        sizes: of their parts.
    """
    from cass_tune.data.splits import check_batch

    problems: list[str] = []
    for trial in trials:
        found: Sizes | None = collect(problems, sizes, trial)
        if found:
            collect(problems, check_batch, trial, found.pretrain)
    if problems:
        raise UsageError(*dict.fromkeys(problems))


def collect(problems: list[str], function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Return what the function returns; on a UsageError add its texts to the problems and return None."""
    try:
        return function(*args, **named)
    except UsageError as error:
        problems.extend(error.problems)
        return None


def weights_key(pretrain: Pretrain) -> tuple[str, ...]:
    """Return what a choice of starting weights is known by."""
    return (pretrain.cnn, pretrain.vit, pretrain.weights_of("cnn"), pretrain.weights_of("vit"))


def _absolute(path: str, value: Any) -> Any:
    """Make a path absolute, because a trial in Ray runs in another working folder."""
    is_weights = path.startswith("pretrain.") and path.endswith("weights") and value not in ("timm", "random")
    is_place = path == "data.root" or is_weights
    return str(Path(value).expanduser().absolute()) if is_place and value else value
