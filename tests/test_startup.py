"""What may import what, and that nothing heavy starts before it is needed."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cass_tune.config import Trial, to_json
from cass_tune.results import Results

REPOSITORY = Path(__file__).parents[1]
HEAVY = ("torch", "ray", "timm", "pandas", "scipy", "sklearn", "matplotlib")
ANALYSIS_MAY_USE = {
    f"cass_tune.{name}"
    for name in (
        *("config", "ending", "errors", "identity", "objects", "plan", "presets", "results", "search"),
        *("search.history", "sharing", "storage"),
        *("data", "data.decode", "data.medmnist", "data.phantom", "leases", "training.healthy", "training.rows"),
    )
}
MAY_IMPORT_RAY = "cass_tune.runner"
PLACES = ("errors", "patience", "disk", "object_store", "objects", "storage", "lines")
"""Modules of the places where records are kept, each of which uses at most those before it."""

RUNNER = """
import json, runpy, sys
sys.argv = ["studies.batch_ablation", *sys.argv[1:]]
try:
    runpy.run_module("studies.batch_ablation", run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code
print(json.dumps({"code": code, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def python(*words: str) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("what", ["--dry-run", "--help"])
def test_nothing_heavy_is_imported_to_look(what: str, tmp_path: Path) -> None:
    out = python("-c", RUNNER, what, "--results", str(tmp_path / "results")).splitlines()
    end = json.loads(out[-1])
    assert end["code"] in (0, None)
    assert "cass_tune" in end["modules"] and len(out) > 5
    assert not set(HEAVY) & set(end["modules"])
    assert list(tmp_path.iterdir()) == []


def test_nothing_heavy_is_imported_to_see_what_runs(tmp_path: Path) -> None:
    study = Results(tmp_path).study("batch_ablation", "phantom-demo")
    wanted = {"digest": "a" * 64, "segments": [], "name": "seed=0", "config": to_json(Trial())}
    study.write_plan({"study": "batch_ablation", "demo": True, "data": {"counts": {}}, "trials": [wanted]})
    *out, end = python("-c", RUNNER, "--status", "--results", str(tmp_path)).splitlines()
    assert json.loads(end)["code"] == 0 and out[1].split() == ["a" * 12, "missing", "seed=0"]
    assert not {*HEAVY, "pyarrow"} & set(json.loads(end)["modules"])


def test_the_driver_of_trials_needs_no_torch() -> None:
    """It takes two seconds to import, and a node that only drives may have little memory."""
    command = "import cass_tune.execution, cass_tune.runner, sys; print({*sys.argv} & {*sys.modules})"
    assert python("-c", command, "torch", "cass_tune.attempt", "cass_tune.probe") == "set()\n"


def sources(package: str) -> list[Path]:
    found = sorted((REPOSITORY / package).rglob("*.py"))
    assert len(found) >= 2, f"no {package} to look at"
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere in it, blocks for type checkers aside."""
    return set(_imports(ast.parse(path.read_text(encoding="utf-8"))))


def _imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0 and node.module, "imports are absolute"
        yield node.module
        yield from (f"{node.module}.{name.name}" for name in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child)


def uses(path: Path, package: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in imports(path))


def test_the_test_sees_imports(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\ndef f():\n    from ray import tune\n"
    )
    assert imports(path) == {"typing", "typing.TYPE_CHECKING", "ray", "ray.tune"}
    assert uses(path, "ray") and not uses(path, "torch") and not uses(path, "ra")


@pytest.mark.parametrize("above", ["analysis", "studies", "tests"])
def test_the_package_never_looks_upwards(above: str) -> None:
    assert [module_name(path) for path in sources("cass_tune") if uses(path, above)] == []


def test_analysis_uses_little_of_the_package_and_nothing_heavy_of_training() -> None:
    modules = {module_name(path) for path in sources("cass_tune")}
    for path in sources("analysis"):
        used = imports(path) & modules - {"cass_tune"}
        assert used <= ANALYSIS_MAY_USE, path
        assert not any(uses(path, name) for name in ("torch", "ray", "timm", "studies")), path


def test_what_knows_places_uses_only_what_lies_below_it() -> None:
    modules = {module_name(path) for path in sources("cass_tune")} - {"cass_tune"}
    for number, name in enumerate(PLACES):
        used = imports(REPOSITORY / "cass_tune" / f"{name}.py") & modules
        assert used <= {f"cass_tune.{below}" for below in PLACES[:number]}, name


def in_runner(name: str) -> bool:
    return name == MAY_IMPORT_RAY or name.startswith(f"{MAY_IMPORT_RAY}.")


def test_one_package_imports_ray() -> None:
    packages = ("cass_tune", "analysis", "studies")
    found = [module_name(path) for package in packages for path in sources(package) if uses(path, "ray")]
    assert found and [name for name in found if not in_runner(name)] == []


IMPORTER = """
import importlib, os, signal, sys
handled = (signal.SIGINT, signal.SIGTERM)
before = (dict(os.environ), os.getcwd(), [signal.getsignal(number) for number in handled])
outside, runner = (names.split() for names in sys.argv[1:])
for name in outside: importlib.import_module(name)
assert "ray" not in sys.modules
for name in runner: importlib.import_module(name)
changed = {name for name in os.environ if os.environ[name] != before[0].get(name)}
ours = {name for name in changed if not name.startswith(("KMP", "OMP", "TORCH", "RAY_CLIENT_MODE"))}
assert ours == set(), ours
assert (os.getcwd(), [signal.getsignal(number) for number in handled]) == before[1:]
"""
"""Torch and Ray set variables of their own when they are imported."""


def test_every_module_is_imported_without_a_word_and_without_a_trace(tmp_path: Path) -> None:
    names = [module_name(path) for path in sources("cass_tune")]
    outside, runner = (" ".join(n for n in names if in_runner(n) is inside) for inside in (False, True))
    environment = {**os.environ, "CASS_TUNE_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTER, outside, runner],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_holds_the_package_alone() -> None:
    from setuptools import find_packages

    config = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    options = config["tool"]["setuptools"]["packages"]["find"]
    found = find_packages(str(REPOSITORY), include=options["include"], exclude=options.get("exclude", ()))
    assert "cass_tune" in found and "cass_tune.data" in found
    assert {name.partition(".")[0] for name in found} == {"cass_tune"}
    folders = {module_name(path.parent / "__init__.py") for path in sources("cass_tune")}
    assert folders == set(found), "a folder without __init__.py would be left out"
