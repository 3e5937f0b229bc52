"""What counts as the same in two records of one trial, without training one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cass_tune.comparing import Part, compare
from cass_tune.results import TrialFolder
from tests.analysis.synthetic import SMALL, Root

LOGITS = [0.5, math.nan, 0.0, 1.0]


def recorded(folder: Path, row: dict[str, list[Any]], outputs: list[float]) -> Root:
    root = Root(folder)
    root.plan([SMALL])
    root.learn(SMALL, "finetune_cnn", row)
    root.predict(SMALL, [("cnn", "a.png", "glioma", outputs)])
    root.finish(SMALL, 0.5)
    return root


def parts(first: Root, second: Root) -> dict[str, Part]:
    found = compare(folder(first), first.results, folder(second), second.results, [])
    return {part.name: part for part in found}


def folder(root: Root) -> TrialFolder:
    return root.results.trial(root.digest(SMALL))


def test_an_output_that_is_nan_is_the_same_again(tmp_path: Path) -> None:
    first, second = (recorded(tmp_path / name, {"loss": [1.0, 3.0]}, LOGITS) for name in ("a", "b"))
    found = parts(first, second)
    assert {"epochs: finetune_cnn", "result: cnn", "predictions"} <= set(found)
    assert {name: part.differs for name, part in found.items() if part.differs} == {}


def test_says_what_differs_and_by_how_much(tmp_path: Path) -> None:
    first = recorded(tmp_path / "a", {"loss": [1.0, 3.0]}, LOGITS)
    second = recorded(tmp_path / "b", {"loss": [1.0, 2.0]}, [0.75, *LOGITS[1:]])
    found = parts(first, second)
    assert found["epochs: finetune_cnn"].differs == "from epoch 2 on: loss was 3.0, is now 2.0 (by 1)"
    assert found["predictions"].differs == "outputs of 1 of 1 rows, by at most 0.25"


def test_a_column_that_is_gone_differs(tmp_path: Path) -> None:
    first = recorded(tmp_path / "a", {"loss": [1.0], "accuracy": [0.5]}, LOGITS)
    second = recorded(tmp_path / "b", {"loss": [1.0]}, LOGITS)
    assert parts(first, second)["epochs: finetune_cnn"].differs == "from epoch 1 on: accuracy is missing now"
    assert not parts(second, first)["epochs: finetune_cnn"].differs
