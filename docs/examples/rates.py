"""Which learning rates suit CASS? The ViT's may be lower than the CNN's, never higher: 3 of the 4 cells of a grid."""

from __future__ import annotations

from collections.abc import Iterator

from analysis import write_report
from cass_tune.config import Trial
from cass_tune.plan import Axes, grid
from cass_tune.study import Study


def cells(base: Trial, axes: Axes) -> Iterator[Trial]:
    """Yield the trials of one seed; their controls without pretraining are added."""
    for trial in grid(base, axes):
        if (trial.pretrain.vit_learning_rate or 0) <= trial.pretrain.learning_rate:
            yield trial


STUDY = Study(
    name="rates",
    title="Learning rates of the two networks",
    axes={"pretrain.learning_rate": (1e-3, 1e-4), "pretrain.vit_learning_rate": (1e-3, 1e-4)},
    cells=cells,
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(write_report))
