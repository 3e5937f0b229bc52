"""Run one finished trial again, from nothing, and say whether everything comes out the same, bit for bit.

    python -m cass_tune.reproduce ID [--results DIR] [--data.root DIR] [--pretrain.weights FILE] [--into DIR]

ID is a trial's identity, or its first digits, as tables and index.csv show it. The second run has a results root of its
own (``<results>/reproduced/<id>``), its pretraining included: nothing of the first is read but its configuration, and
nothing in it is changed. Interrupted, the same command goes on; when all is identical its root is deleted.

Exit code 0: identical; 1: something differs, or the trial failed; others as of every command (`cass_tune.ending`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cass_tune import ending
from cass_tune.config import ARMS, PROBES, Trial, from_json, with_field
from cass_tune.console import Console
from cass_tune.environment import commit, versions
from cass_tune.errors import UsageError, did_you_mean
from cass_tune.guard import guarded
from cass_tune.identity import RESULTS_VERSION, Inputs, segments, trial_digest
from cass_tune.options import Settings
from cass_tune.overview import failure_line
from cass_tune.plan import Wanted
from cass_tune.results import Record, Results, TrialFolder, default_root
from cass_tune.storage import AnyPath, place, read_json, remove

if TYPE_CHECKING:
    from cass_tune.comparing import Part

LISTED = 12
"""So many identities are listed, at most, when one is not found."""

PLACES = ("data.root", "data.table", "pretrain.weights", "pretrain.cnn_weights", "pretrain.vit_weights")
"""Fields that say where something lies, and may say otherwise on another machine."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    console = Console()
    return guarded(lambda: _Reproduction(_parse(argv), console).run(), console)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m cass_tune.reproduce", description=description)
    parser.add_argument("id", metavar="ID", help="identity of a finished trial, or its first digits")
    parser.add_argument("--results", metavar="DIR", help="results root (cass_tune.toml's, or results)")
    parser.add_argument("--into", metavar="DIR", help="results root of the second run (RESULTS/reproduced/ID)")
    parser.add_argument("--keep", action="store_true", help="keep that root when everything is identical, too")
    for path in PLACES:
        parser.add_argument(f"--{path.replace('_', '-')}", dest=path, metavar="PLACE", help="where it lies here")
    return parser.parse_args(argv)


def find(results: Results, text: str) -> TrialFolder:
    """Return the folder of the trial that an identity, or its first digits, stands for.

    Raises:
        UsageError: there is none, or there are several.
    """
    trials = results.root / "trials"
    there = sorted(path.name for path in trials.iterdir()) if trials.is_dir() else []
    found = [name for name in there if name.startswith(text) or text.startswith(name)]
    if len(found) == 1:
        config = read_json(trials / found[0] / "config.json")
        if config is None:
            raise UsageError(f"Trial {found[0]} has no config.json: it has not been started.")
        return results.trial(config["digest"])
    listed = ", ".join((found or there)[:LISTED]) or "none"
    more = " ..." if len(found or there) > LISTED else ""
    what = f"{len(found)} trials begin with {text!r}" if found else f"No trial {text!r} below {trials}"
    raise UsageError(f"{what}.{did_you_mean(text, there) if not found else ''} There are: {listed}{more}.")


class _Reproduction:
    """One call of the command line."""

    def __init__(self, given: argparse.Namespace, console: Console) -> None:
        self._given = given
        self._console = console
        self._results = Results(place(given.results) if given.results else default_root(Path.cwd()))
        self._folder = find(self._results, given.id)
        default = self._results.root / "reproduced" / self._folder.id
        self._into: AnyPath = place(given.into) if given.into else default
        self._again = Results(self._into)

    def run(self) -> int:
        """Run the trial again, compare, say what was found; return the exit code."""
        result = self._folder.result()
        if result is None:
            state = self._folder.status()
            raise UsageError(
                f"Trial {self._folder.id} has no result to compare with: it is {state}. Run its study first."
            )
        config = self._config(result)
        trial, inputs = self._trial(config), Inputs(**config["inputs"])
        environment = {"threads": 1, **(self._folder.environment() or {})}
        for line in self._changed(environment):
            self._console.say(f"  {line}")
        if self._again.trial(self._folder.digest).is_finished():
            where = f"already run again in {self._into}; delete that folder to do it once more"
            self._console.say(f"trial {self._folder.id} was {where}")
        else:
            self._console.say(f"trial {self._folder.id} is run again in {self._into}")
            self._train(trial, inputs, environment)
        return self._compared(trial, inputs)

    def _config(self, result: Record) -> Record:
        config: Record = read_json(self._folder.path / "config.json") or {}
        if result["results_version"] != RESULTS_VERSION:
            code = (self._folder.environment() or {}).get("commit") or "of that time"
            raise UsageError(
                f"Trial {self._folder.id} was computed by version {result['results_version']} of this code's numbers, "
                f"which is now {RESULTS_VERSION}: other numbers are wanted. Run it again with the code {code}."
            )
        return config

    def _trial(self, config: Record) -> Trial:
        trial = from_json(json.dumps(config["trial"]))
        for path in PLACES:
            value = vars(self._given)[path]
            if value is not None:
                trial = with_field(trial, path, value)
        if trial_digest(trial, Inputs(**config["inputs"])) != self._folder.digest:
            raise UsageError(
                f"The configuration of trial {self._folder.id} is not the one that it was computed from: its identity "
                "differs. It was changed by hand, or its code is newer than this."
            )
        return trial

    def _device(self, environment: Record) -> Literal["cpu", "cuda"]:
        """Return the kind of device that the trial ran on.

        Raises:
            UsageError: this machine has none.
        """
        import torch

        kinds = {name.partition(" ")[0] for name in environment.get("devices", [])} or {"cpu"}
        if "cuda" in kinds and not torch.cuda.is_available():
            raise UsageError(f"Trial {self._folder.id} ran on {environment['devices']}, and this machine has no GPU.")
        return "cuda" if "cuda" in kinds else "cpu"

    def _changed(self, environment: Record) -> list[str]:
        """Return in what the code and the libraries are others than then."""
        before, here = environment.get("versions", {}), versions()
        lines = [
            f"{name}: {before[name]} then, {here[name]} now"
            for name in here
            if before.get(name, here[name]) != here[name]
        ]
        if environment.get("commit") != commit():
            lines.append(f"code: {environment.get('commit')} then, {commit()} now")
        if len(environment.get("devices", [])) > 1:
            lines.append(f"devices: {', '.join(environment['devices'])}: numbers of mixed kinds need not repeat")
        return lines

    def _train(self, trial: Trial, inputs: Inputs, environment: Record) -> None:
        from cass_tune.data.catalog import list_images
        from cass_tune.data.listings import Listings
        from cass_tune.estimate import Estimator
        from cass_tune.execution import Execution
        from cass_tune.sharing import register
        from cass_tune.trial import check_inputs, read_inputs

        progress = self._console.counter("images")
        listings = Listings([trial.data], lambda data: list_images(data, progress))
        check_inputs(read_inputs(trial, listings.first), inputs)
        settings = Settings(
            results=str(self._into),
            local=True,
            device=self._device(environment),
            threads=environment["threads"],
            probes=tuple(probe for probe in PROBES if self._has_probe(probe)) or ("none",),
            keep_weights="all" if self._folder.weights(ARMS[0]).exists() else "none",
        )
        item = Wanted(
            trial=trial,
            name=f"trial {self._folder.id}",
            inputs=inputs,
            digest=self._folder.digest,
            segments=segments(trial, inputs),
        )
        self._again.check_writable()
        register([item], self._again)
        execution = Execution(settings, self._again, self._console, study="reproduced", preset="reproduced")
        execution.run([item], listings.first, Estimator(self._again, listings, settings), done=0)

    def _has_probe(self, probe: str) -> bool:
        return probe not in self._folder.missing_probes([probe])

    def _remove(self) -> None:
        remove(self._into)
        if isinstance(self._into, Path):
            with suppress(OSError):  # of another trial there is a second run
                self._into.parent.rmdir()

    def _compared(self, trial: Trial, inputs: Inputs) -> int:
        from cass_tune.comparing import compare

        again = self._again.trial(self._folder.digest)
        if not again.is_finished():
            failure = again.failure()
            if failure is None:
                self._console.say(ending.last_line(ending.INTERRUPTED))
                return ending.INTERRUPTED
            self._console.say(f"NOT IDENTICAL: the second run failed. {failure_line(failure)}")
            return ending.FAILED
        parts = compare(self._folder, self._results, again, self._again, segments(trial, inputs))
        self._console.say(*map(_line, parts))
        different = [part for part in parts if part.differs]
        if different:
            what = f"{len(different)} of {len(parts)} parts differ"
            self._console.say(
                f"NOT IDENTICAL: {what}, {different[0].name} first. The second run stays in {self._into}."
            )
            return ending.FAILED
        values = sum(part.compared for part in parts)
        self._console.say(f"IDENTICAL: all {values} values of {len(parts)} parts.")
        if not (self._given.keep or self._given.into):
            self._remove()
        return ending.DONE


def _line(part: Part) -> str:
    return f"  {part.name:24} {part.compared:8} values  {'DIFFERS: ' + part.differs if part.differs else 'identical'}"


if __name__ == "__main__":
    sys.exit(main())
