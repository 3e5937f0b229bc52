"""The page's own method runs through a study; a method that cannot be had is one clear error before anything runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cass_tune.config import ARMS
from cass_tune.ending import DONE
from cass_tune.errors import UsageError
from cass_tune.methods import Method, Progress, method_class
from cass_tune.results import Results
from tests import small, tiny
from tests.training.pieces import numbers, trained_in_pieces

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "docs" / "examples"
SIMCLR = ("--pretrain.method", "simclr:SimCLR")
USAGE = 2


@pytest.fixture
def _examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


def words(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was said, on lines of any length."""
    said = capsys.readouterr()
    return " ".join((said.out + said.err).split())


def test_the_example_is_short_and_on_the_page() -> None:
    lines = [line for line in (EXAMPLES / "simclr.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 30
    assert "examples/simclr.py" in (ROOT / "docs" / "methods.md").read_text()


@pytest.mark.usefixtures("_examples")
def test_a_study_of_it(tmp_path: Path) -> None:
    """With a control, as any study."""
    assert small.run("--local", *SIMCLR, "--pretrain.learning-rate", "1e-3", results=tmp_path) == DONE
    wanted = small.wanted(tmp_path)
    assert {Results(tmp_path).trial(digest).status() for digest in wanted.values()} == {"done"}
    assert len(wanted) == 2 and sum(name.startswith("none") for name in wanted) == 1


@pytest.mark.usefixtures("_examples")
def test_its_loss_is_the_papers_and_its_resuming_exact() -> None:
    described = tiny.trial({"pretrain.method": "simclr:SimCLR"})
    method: Any = method_class("simclr:SimCLR")(described, tiny.arms(described), ("cat", "dog"))
    views = [{arm: torch.randn(4, 3, tiny.SIZE_PX, tiny.SIZE_PX) for arm in ARMS} for _ in "ab"]
    heads: dict[str, list[torch.Tensor]] = {arm: [] for arm in ARMS}
    for arm in ARMS:
        method.heads[arm].register_forward_hook(lambda m, i, output, arm=arm: heads[arm].append(output.detach()))
    value, _ = method.loss(views, torch.zeros(4, dtype=torch.int64), Progress(step=0, epoch=0))
    assert float(value.detach()) == pytest.approx(sum(nt_xent(heads[arm]) for arm in ARMS), rel=1e-4)

    from tests.methods.variants import VARIANTS, pretraining

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "simclr", {"pretrain.method": "simclr:SimCLR"})
        whole = pretraining("simclr")
        list(whole.run())
        training = trained_in_pieces(lambda: pretraining("simclr"), 3)
    assert numbers(training.rows) == numbers(whole.rows)
    assert tiny.same(training.state().tensors, whole.state().tensors)


def nt_xent(outputs: Sequence[torch.Tensor]) -> float:
    """SimCLR's equation 1 with temperature 0.5: mean over both views of all images, in float64."""
    z = torch.cat(list(outputs)).double().numpy()
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    count, similar = len(z), np.exp(z @ z.T / 0.5)
    losses = []
    for i in range(count):
        others = sum(similar[i, k] for k in range(count) if k != i)
        losses.append(-np.log(similar[i, (i + count // 2) % count] / others))
    return float(np.mean(losses))


@pytest.mark.ray
@pytest.mark.slow
def test_rays_workers_find_it_in_the_working_folder(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "simclr.py", tmp_path)
    fields = [word for option, value in small.DEFAULTS.items() for word in (option, value)]
    command = [sys.executable, "-m", "studies.batch_ablation", *SIMCLR, *fields, "--results", "results"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == DONE, done.stdout + done.stderr
    results = Results(tmp_path / "results")
    states = [
        results.trial(digest).status() for digest in small.wanted(tmp_path / "results", "batch_ablation").values()
    ]
    assert states == ["done"] * 2


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("nowhere:Mine", None, "No module named 'nowhere'"),
        ("mine_without:Mine", "Other = 1", "has no attribute 'Mine'"),
        ("mine_broken:Mine", "1 / 0", "ZeroDivisionError"),
        ("mine_plain:Mine", "class Mine: pass", "must be a class derived from cass_tune.methods.Method"),
    ],
)
@pytest.mark.parametrize("more", [["--dry-run"], ["--local"]])
def test_a_method_that_cannot_be_had_is_one_error(
    name: str,
    content: str | None,
    reason: str,
    more: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        (tmp_path / f"{name.partition(':')[0]}.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
    assert small.run("--pretrain.method", name, *more, results=tmp_path / "results") == USAGE
    text = words(capsys)
    assert text.count(f"--pretrain.method {name}") == 1 and reason in text
    assert not (tmp_path / "results" / "trials").exists()


def test_a_method_that_there_is_not_gets_a_hint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert small.run("--pretrain.method", "dinno", results=tmp_path) == USAGE
    assert "Did you mean 'dino'?" in words(capsys)


@pytest.mark.parametrize(
    "fields",
    [["--pretrain.method", "dino"], ["--pretrain.predictor", "true"], ["--pretrain.variance-weight", "1"]],
    ids=lambda fields: fields[-1],
)
def test_a_missing_extra_is_named_before_anything_runs(
    fields: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("cass_tune.extras.find_spec", lambda package: None)
    assert small.run("--local", *fields, results=tmp_path) == USAGE
    text = words(capsys)
    assert f"{' '.join(fields[:1])}" in text and 'pip install "cass-tune[baselines]"' in text
    assert text.count("the package lightly") == 1
    assert not (tmp_path / "trials").exists()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (["--dino.local-crop-px", "20"], "small crops of 20 px beside the images, which --pretrain.vit"),
        (["--pretrain.vit", "mixer_s16_224"], "--pretrain.vit mixer_s16_224 takes one size alone"),
    ],
    ids=["a part of a patch", "one size"],
)
def test_a_network_that_dino_cannot_train_is_refused_before_anything_runs(
    fields: list[str], reason: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    dino = ["--pretrain.method", "dino", "--dino.outputs", "32"]
    assert small.run("--local", *dino, *fields, results=tmp_path) == USAGE
    assert reason in words(capsys)
    assert not (tmp_path / "trials").exists()


def test_a_method_must_say_that_it_knows_the_epochs() -> None:
    assert Progress(step=3, epoch=0, steps=12).share == 0.25
    with pytest.raises(ValueError, match="knows_epochs"):
        _ = Progress(step=3, epoch=0).share
    with pytest.raises(UsageError, match="cannot be imported"):
        method_class("nowhere:Mine")
    assert issubclass(method_class("dino"), Method)
