"""The options of a study's command line, from the arguments and from ``cass_tune.toml``; all mistakes at once.

tyro reads the arguments and writes the help; the texts are then brought to each field's type here, so that every
unknown option, wrong type and broken rule is reported together.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import shlex
import sys
import tomllib
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cass_tune.config import PROBES, SECTIONS, options_of
from cass_tune.errors import UsageError, did_you_mean
from cass_tune.presets import PRESETS, values_of
from cass_tune.results import CONFIG_FILE


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a study is run: everything on the command line that is not a field of the trial."""

    dry_run: bool = False
    """List the trials and what is finished; run nothing."""
    status: bool = False
    """Show what the trials asked for so far are doing, from the files below --results alone: --preset and --data.name
    choose among a study's data and presets, no other option matters."""
    preset: Literal["demo", "paper"] | None = None
    """Networks, image size, epochs and seeds: `demo` (small, for a laptop) or `paper` (the default with data)."""
    recipe: Literal["as_described", "corrected"] = "as_described"
    """`as_described`: the published method, the mistakes of its code mended; `corrected`: also its weak choices."""
    seeds: tuple[int, ...] | None = None
    """Replicas, for example 0 1 2."""
    only: tuple[str, ...] = ()
    """Run these cells alone, for example pretrain.batch-size=8,16 data.label-fraction=0.1."""
    results: str = "results"
    """Folder of all results, or s3://BUCKET/PREFIX."""
    local: bool = False
    """Run in this process, one trial after the other, without Ray (a debugger works)."""
    address: str | None = None
    """Ray cluster to run on: auto or HOST:PORT; by default Ray is started on this machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of every trial; auto takes a GPU where there is one."""
    precision: Literal["fp32", "tf32", "bf16", "fp16", "auto"] | None = None
    """That of both phases, where they have none of their own (`--pretrain.precision`, `--finetune.precision`); `auto`
    becomes, before anything runs, bf16 or else fp16 where every GPU for the trials has it, and fp32 otherwise."""
    compile: Literal["on", "off", "auto"] | None = None
    """Whether networks are compiled for the training (torch.compile), where a phase says nothing of its own; `auto` is
    settled before anything runs, by measuring whether it pays, once for all trials of these networks."""
    gpus_per_trial: float | Literal["auto"] = "auto"
    """Which part of a GPU one trial has, at most 1; auto is none on cpu, and on cuda the fraction that does most work
    per second: 1 until that is measured."""
    cpus_per_trial: int = 1
    """CPUs that Ray sets aside for one trial."""
    threads: int = 1
    """CPU threads of one operation; recorded, because it changes last digits."""
    workers: int = 0
    """Processes per trial that load images; 0 loads in the trial itself. Numbers are the same for any."""
    redo: Literal["failed", "all", "none"] = "failed"
    """Which trials that have run before run again; `all` keeps the earlier results beside the new ones."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """What to do when the outputs of a pretraining become constant."""
    keep_weights: Literal["all", "none"] = "all"
    """Whether the finetuned networks of each trial are kept."""
    keep_stages: Literal["all", "wanted", "unfinished"] = "wanted"
    """Which stored pretrainings are kept: what the trials of any study start from, what unfinished trials need, or all
    that was ever stored."""
    checkpoint_every_minutes: float = 5.0
    """Longest time between two checkpoints of a trial: so much work is lost at most."""
    activation_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Whether activations are computed again in the backward pass instead of being kept: the same numbers with less
    memory and more time; auto does so where a batch does not fit into the memory of a GPU otherwise."""
    max_failures: int = 2
    """How often an error of a trial may be followed by another attempt; lost machines do not count."""
    preemption_command: str | None = None
    """Shell command, run every 5 s where trials run: exit status 0 means that the machine will be taken away."""
    probes: tuple[Literal["linear", "knn", "none"], ...] = PROBES
    """Probes of the frozen features, between pretraining and finetuning: `linear`, `knn` or both, or `none`. Finished
    trials that lack them get them, without training, where the end of their pretraining is kept."""
    probe_every: int = 0
    """Epochs of pretraining between two kNN probes on the validation images, as columns of its rows; 0: never."""
    log_to: tuple[Literal["mlflow", "wandb"], ...] = ()
    """Where Ray Tune also logs every epoch of every trial, beside TensorBoard's files among its own records: `mlflow`
    (MLFLOW_TRACKING_URI), `wandb` (WANDB_PROJECT, WANDB_MODE), each with its own settings in the environment."""
    budget_hours: float | None = None
    """Hours by the clock, from the start of the command, within which every trial that is started must be able to
    finish; the others are left for the next time."""
    price: float | None = None
    """Price of an hour of one GPU (on the CPU: of this machine), in any currency: the plan then shows the cost."""
    probe_seconds: float = 60.0
    """Most seconds that may be spent, before the first trial, on measuring training steps of kinds that have not run
    here before; 0 measures none."""

    def __post_init__(self) -> None:
        problems = [
            f"{option(name)} must be at least {least}, but got {getattr(self, name)}."
            for name, least in _LEAST.items()
            if getattr(self, name) < least
        ]
        problems += _gpu_problems(self.gpus_per_trial)
        problems += _probe_problems(self.probes)
        if not 0 < self.checkpoint_every_minutes < math.inf:
            problems.append(
                f"--checkpoint-every-minutes must be more than 0, but got {self.checkpoint_every_minutes:g}."
            )
        problems += [
            f"{option(name)} must be a finite number above 0, but got {value:g}."
            for name in ("budget_hours", "price")
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf
        ]
        if not 0 <= self.probe_seconds < math.inf:
            problems.append(f"--probe-seconds must be a finite number of at least 0, but got {self.probe_seconds:g}.")
        if self.seeds is not None and len(set(self.seeds)) < len(self.seeds):
            problems.append(f"--seeds must differ from one another, but got {_words(self.seeds)}.")
        if self.seeds is not None and (not self.seeds or min(self.seeds) < 0):
            problems.append(f"--seeds must be whole numbers of at least 0, but got {_words(self.seeds)}.")
        if self.local and (self.gpus_per_trial != "auto" or self.cpus_per_trial != 1):
            problems.append("--local runs without Ray, which alone heeds --gpus-per-trial and --cpus-per-trial.")
        if len(set(self.log_to)) < len(self.log_to):
            problems.append(f"--log-to must differ from one another, but got {_words(self.log_to)}.")
        if self.local and self.log_to:
            problems.append(f"--local runs without Ray, which logs to {_words(self.log_to)}: leave one of them out.")
        if self.local and self.address:
            problems.append("--local runs without Ray and --address names a Ray cluster: give one of them.")
        if problems:
            raise UsageError(*problems)

    @property
    def chosen_probes(self) -> tuple[str, ...]:
        """The probes that are asked for, in one order; empty for `none`."""
        return tuple(probe for probe in PROBES if probe in self.probes)


_REPLACES = {"local": ("address", "gpus_per_trial", "cpus_per_trial", "log_to"), "address": ("local",)}
"""What an option on the command line makes void in cass_tune.toml."""

LEAST_SHARE = 0.01
"""Of a GPU; Ray counts in ten thousandths."""
_LEAST = {"cpus_per_trial": 1, "threads": 1, "workers": 0, "max_failures": 0, "probe_every": 0}


def _words(values: Iterable[Any]) -> str:
    return " ".join(map(str, values)) or "none"


def _probe_problems(probes: Sequence[str]) -> list[str]:
    if probes and len(set(probes)) == len(probes) and ("none" not in probes or len(probes) == 1):
        return []
    return [f"--probes takes linear, knn or both, each once, or none alone, but got {' '.join(probes) or 'nothing'}."]


def _gpu_problems(gpus: float | str) -> list[str]:
    if isinstance(gpus, str) or LEAST_SHARE <= gpus <= 1:
        return []
    why = "A trial uses one GPU or a part of one." if gpus > 1 else "For trials without a GPU give --device cpu."
    return [
        f"--gpus-per-trial must be auto, or a fraction of at least {LEAST_SHARE} and at most 1 (0.25: four trials "
        f"share a GPU), but got {gpus:g}. {why}"
    ]


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the user said.

    Args:
        settings: of the run.
        fields: value by ``"section.field"``; of an axis a tuple.
        source: where the data were named: ``"the command line"``, ``"cass_tune.toml"`` or None.
    """

    settings: Settings
    fields: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None


def parse(
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    axes: Collection[str],
    folder: Path,
    kind: type[Settings] = Settings,
) -> Given:
    """Read the options of a study.

    Args:
        argv: arguments after the program's name.
        prog: shown in the help.
        description: shown in the help.
        axes: ``"section.field"`` of every axis: these take a list; with a mapping, the help shows the study's values.
        folder: where ``cass_tune.toml`` may lie.
        kind: the options that are not fields of the trial.

    Raises:
        UsageError: every unknown option, wrong type and broken rule, of the arguments and of the file. Without any of
            the first two, the rules of the trial's fields are left to the trial.
        SystemExit: after ``--help``, or an option without its value.
    """
    problems: list[str] = []
    argument_texts = _read_arguments(argv, prog, description, axes, kind, problems)
    file_texts = _read_file(folder / CONFIG_FILE, axes, kind, problems)
    for here, rest in _REPLACES.items():
        for there in rest if here in argument_texts else ():
            file_texts.pop(there, None)
    values: dict[str, Any] = {}
    for source, texts in ((CONFIG_FILE, file_texts), ("the command line", argument_texts)):
        for path, text in texts.items():
            _convert_into(values, path, text, _hint(path, axes, kind), problems, source)
    own = {name: value for name, value in values.items() if "." not in name}
    try:
        settings = kind(**own)
    except UsageError as error:
        problems.extend(error.problems)
        settings = kind()
    if problems:
        raise UsageError(*problems, *_broken_rules(values))
    fields = {path: value for path, value in values.items() if "." in path}
    sources = {"the command line": argument_texts, CONFIG_FILE: file_texts}
    named_by = [source for source, texts in sources.items() if "data.name" in texts]
    return Given(settings=settings, fields=fields, source=named_by[0] if named_by else None)


def command_line(study: str, preset: str, given: Given) -> str:
    """Return a command that asks for the same trials, whatever ``cass_tune.toml`` says, without the results root.

    Args:
        study: its name; one outside ``studies`` is taken for a file of the working folder.
        preset: that the study took.
        given: what the user said.
    """
    main: Any = sys.modules.get("__main__")
    own = Path(getattr(main, "__file__", None) or "")
    is_file = own.stem == study and own.parent.name != "studies"
    words = ["python", *([own.name] if is_file else ["-m", f"studies.{study}"]), "--preset", preset]
    common = {item.name for item in dataclasses.fields(Settings)} - {"recipe", "seeds", "only"}
    names = [item.name for item in dataclasses.fields(given.settings) if item.name not in common]
    chosen = {name: getattr(given.settings, name) for name in names}
    changed = {name: value for name, value in chosen.items() if value != getattr(type(given.settings)(), name)}
    for path, value in {**given.fields, **changed}.items():
        words += [option(path), *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return shlex.join(words)


def _broken_rules(values: Mapping[str, Any]) -> list[str]:
    """Return the broken rules of the trial's fields: of each section with all values given, beside those of the preset.

    Of an axis each value is looked at, with the first ones of the other axes.
    """
    preset = values.get("preset") or ("paper" if "data.name" in values else "demo")
    problems: list[str] = []
    for section, chosen in values_of(preset, values.get("recipe", Settings.recipe)).items():
        given = {path.partition(".")[2]: value for path, value in values.items() if path.startswith(f"{section}.")}
        lists = {name: value if isinstance(value, tuple) else (value,) for name, value in given.items()}
        first = {**chosen, **{name: items[0] for name, items in lists.items() if items}}
        for changed in [{}, *({name: item} for name, items in lists.items() for item in items[1:])]:
            try:
                SECTIONS[section](**{**first, **changed})
            except UsageError as error:
                problems.extend(error.problems)
    return list(dict.fromkeys(problems))


def _hint(path: str, axes: Collection[str], kind: type[Settings]) -> Any:
    section, _, name = path.rpartition(".")
    hint = get_type_hints(SECTIONS[section] if section else kind)[name]
    return tuple[hint, ...] if path in axes else hint


def _known(axes: Collection[str], kind: type[Settings]) -> dict[str, Any]:
    names = [f.name for f in dataclasses.fields(kind)]
    paths = [f"{section}.{name}" for section, cls in SECTIONS.items() for name in options_of(cls)]
    return {path: _hint(path, axes, kind) for path in (*names, *paths)}


def option(path: str) -> str:
    """Return a field's command-line name, for example ``--pretrain.batch-size``."""
    return f"--{path.replace('_', '-')}"


def _read_file(path: Path, axes: Collection[str], kind: type[Settings], problems: list[str]) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{path} cannot be read: {error}.")
        return {}
    texts: dict[str, Any] = {}
    for key, value in content.items():
        inner = value if isinstance(value, dict) else {"": value}
        for name, item in inner.items():
            texts[f"{key}.{name}".rstrip(".").replace("-", "_")] = item
    known = _known(axes, kind)
    for name in [name for name in texts if name not in known]:
        problems.append(f"{path.name}: unknown key {name!r}.{did_you_mean(name, known)}")
        del texts[name]
    return texts


def _read_arguments(
    argv: Sequence[str],
    prog: str,
    description: str,
    axes: Collection[str],
    kind: type[Settings],
    problems: list[str],
) -> dict[str, Any]:
    import tyro

    options = _options_class(axes, kind)
    parsed, unknown = tyro.cli(options, prog=prog, description=description, args=list(argv), return_unknown_args=True)
    names = [option(path) for path in _known(axes, kind)]
    problems += _given_twice(argv)
    for word in unknown:
        if word.startswith("--"):
            name = word.partition("=")[0]
            problems.append(f"Unknown option {name}.{did_you_mean(name, [*names, '--data'])} `--help` lists all.")
    if unknown and not any(word.startswith("--") for word in unknown):
        problems.append(f"Unexpected words: {' '.join(unknown)}. Options look like --section.field VALUE; see --help.")
    texts: dict[str, Any] = {}
    for item in dataclasses.fields(parsed):
        value = getattr(parsed, item.name)
        if item.name in SECTIONS:
            inner = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            short = inner.pop("short", None)
            if short is not None:
                inner["name"] = inner["name"] or short
            texts.update({f"{item.name}.{name}": text for name, text in inner.items() if text is not None})
        elif value is not None and value is not False:
            texts[item.name] = value
    return texts


def _given_twice(argv: Sequence[str]) -> list[str]:
    words = [word.partition("=")[0].replace("_", "-") for word in argv if word.startswith("--")]
    names = [option("data.name") if word == "--data" else word for word in words]
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    return [f"{name} is given {names.count(name)} times: give it once (an axis takes a list)." for name in repeated]


def _options_class(axes: Collection[str], kind: type[Settings]) -> Any:
    """A dataclass for tyro in which every option is text and may be left out."""
    sections = [
        (name, cls, dataclasses.field(default=cls()))
        for name, cls in ((name, _section_class(name, axes)) for name in SECTIONS)
    ]
    settings = [_option_field(kind, f, f.name, axes) for f in dataclasses.fields(kind)]
    return dataclasses.make_dataclass("Options", [*settings, *sections], frozen=True, kw_only=True)


def _section_class(section: str, axes: Collection[str]) -> type:
    kind = SECTIONS[section]
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    items = [_option_field(kind, fields[name], f"{section}.{name}", axes) for name in options_of(kind)]
    if section == "data":
        import tyro

        short = tyro.conf.arg(name="", metavar="NAME", help="Short form of --data.name.", help_behavior_hint="")
        items.insert(0, ("short", Annotated[str | None, short], None))
    return dataclasses.make_dataclass(f"{kind.__name__}Options", items, frozen=True, kw_only=True)


def _option_field(owner: type, item: Any, path: str, axes: Collection[str]) -> tuple[str, Any, Any]:
    import tyro

    hint = _hint(path, axes, owner if issubclass(owner, Settings) else Settings)
    text = _texts(owner)[item.name]
    if hint is bool and issubclass(owner, Settings):
        flag = tyro.conf.arg(help=text, help_behavior_hint="")
        return item.name, Annotated[bool, tyro.conf.FlagCreatePairsOff, flag], False
    default = "" if item.default in (None, ()) else f"(default: {_default(item.default)})"
    if path in PRESETS["demo"].fields:
        default = f"(paper: {item.default}, demo: {PRESETS['demo'].fields[path]})"
    if isinstance(axes, Mapping) and path in axes:
        default = _axis_default(path, tuple(axes[path]))
    argument = tyro.conf.arg(help=text, metavar=_metavar(hint), help_behavior_hint=default)
    many = get_origin(_plain(hint)) is tuple
    return item.name, Annotated[(tuple[str, ...] if many else str) | None, argument], None


def _default(value: Any) -> str:
    return _words(value) if isinstance(value, tuple) else str(value)


def _axis_default(path: str, values: tuple[Any, ...]) -> str:
    paper, demo = (" ".join(map(str, PRESETS[preset].scale(path, values))) for preset in ("paper", "demo"))
    return f"(this study: {paper})" if paper == demo else f"(this study: {paper}, demo: {demo})"


@functools.cache
def _texts(owner: type) -> dict[str, str]:
    """Return the sentence under each field of a dataclass."""
    import docstring_parser

    params = [p for cls in reversed(owner.__mro__[:-1]) for p in docstring_parser.parse_from_object(cls).params]
    return {param.arg_name: " ".join((param.description or "").split()) for param in params}


def _plain(hint: Any) -> Any:
    """The type without None."""
    if get_origin(hint) in (Union, types.UnionType):
        rest = [part for part in get_args(hint) if part is not type(None)]
        return rest[0] if len(rest) == 1 else hint
    return hint


def _alternatives(hint: Any) -> tuple[Any, ...]:
    plain = _plain(hint)
    return get_args(plain) if get_origin(plain) in (Union, types.UnionType) else (plain,)


def _metavar(hint: Any) -> str:
    plain = _plain(hint)
    if get_origin(plain) is tuple:
        inner = _metavar(get_args(plain)[0])
        return f"{inner} [{inner} ...]"
    names = {int: "INT", float: "FLOAT", str: "TEXT", bool: "true|false"}
    return "|".join("|".join(get_args(a)) if get_origin(a) is Literal else names[a] for a in _alternatives(plain))


def _convert_into(values: dict[str, Any], path: str, text: Any, hint: Any, problems: list[str], source: str) -> None:
    hint = _plain(hint)
    try:
        if get_origin(hint) is tuple:
            parts = text if isinstance(text, list | tuple) else (text,)
            values[path] = tuple(_convert(part, get_args(hint)[0]) for part in parts)
        elif isinstance(text, list | tuple):
            raise ValueError
        else:
            values[path] = _convert(text, hint)
    except ValueError:
        shown = " ".join(text) if isinstance(text, tuple) else text
        problems.append(f"{option(path)} takes {_metavar(hint)}, but got {shown!r} ({source}).")


_BOOLS = {"true": True, "false": False}


def _convert(text: Any, hint: Any) -> Any:
    for kind in _alternatives(hint):
        if get_origin(kind) is Literal:
            if text in get_args(kind):
                return text
        elif kind is bool:
            if isinstance(text, bool):
                return text
            if isinstance(text, str) and text in _BOOLS:
                return _BOOLS[text]
        elif isinstance(text, bool | dict | list):  # of the file
            continue
        else:
            try:
                return kind(str(text))
            except ValueError:
                continue
    raise ValueError(text)
