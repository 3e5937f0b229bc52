"""Options that stand for a field of both phases, and what their `auto` becomes, before any identity is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cass_tune.checks import Checks
from cass_tune.compile_choice import CompileChoice, choose, typical
from cass_tune.config import Trial
from cass_tune.console import Console
from cass_tune.devices import auto, auto_line
from cass_tune.fitting import main_phase
from cass_tune.options import Given
from cass_tune.pace import PHASES
from cass_tune.plan import Axes
from cass_tune.results import Results


class Settling:
    """Gives each phase what an option of both says, unless it has its own or it is varied, and says what `auto` is.

    Args:
        axes: what is varied.
        checks: know the device.
        results: where choices are kept.
        console: where they are said.
    """

    def __init__(self, axes: Axes, checks: Checks, results: Results, console: Console) -> None:
        self._axes = axes
        self._checks = checks
        self._results = results
        self._console = console

    def precision(self, given: Given) -> Given:
        """Return what the user said, with fields in the place of ``--precision``.

        Raises:
            UsageError: it cannot be found out which GPUs there are.
        """
        asked: str | None = given.settings.precision
        paths = self._open(given, "precision")
        if asked == "auto" and paths:
            gpus = self._checks.gpus()
            asked = auto(gpus)
            self._console.say(auto_line(gpus))
        return given if asked is None else _with(given, paths, asked)

    def compiling(self, given: Given, cells: Callable[[], Sequence[Trial]]) -> Given:
        """Return what the user said, with fields in the place of ``--compile``.

        Args:
            given: what the user said, its precision settled.
            cells: returns all that the study has, one of which decides what `auto` is.

        Raises:
            UsageError: nothing was chosen before, and nothing can be measured now.
        """
        asked, paths = given.settings.compile, self._open(given, "compile")
        if asked is None or not paths:
            return given
        if asked != "auto":
            return _with(given, paths, asked == "on")
        choice = self._compile_choice(given, cells(), main_phase if "pretrain.compile" in paths else _finetuning)
        self._console.say(str(choice))
        return _with(given, paths, choice.is_on)

    def _open(self, given: Given, name: str) -> list[str]:
        """Return the fields that have no value of their own."""
        return [path for path in (f"pretrain.{name}", f"finetune.{name}") if path not in {*given.fields, *self._axes}]

    def _compile_choice(self, given: Given, cells: Sequence[Trial], phase: Callable[[Trial], str]) -> CompileChoice:
        trial = typical(cells, phase)
        kinds = [gpu.name for gpu in self._checks.gpus("--compile auto")]
        if not given.settings.dry_run:
            self._checks.check_device(bool(kinds))
        device, say = self._checks.device(bool(kinds)), self._console.say
        return choose(self._results, trial, phase(trial), given.settings, device=device, kinds=kinds, say=say)


def _with(given: Given, paths: Sequence[str], value: str | bool) -> Given:
    return replace(given, fields={**given.fields, **dict.fromkeys(paths, value)})


def _finetuning(trial: Trial) -> str:
    """Return the phase of the larger network's finetuning."""
    return PHASES[-1]
