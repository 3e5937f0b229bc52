"""The paper's full grid: label fraction x pretraining batch size x epochs (https://arxiv.org/abs/2206.04170).

27 cells (1, 10, 100 % of the labels; batch 8, 16, 32; 50, 100, 200 epochs) and one control per label fraction. The
cells of `studies.batch_ablation`, `studies.epoch_ablation` and `studies.label_fraction_ablation` are among them: what
one study has run, the others find. Published rows: those of the three studies; the others could not be seen.

Expected cost of one seed: 3 x (50 + 100 + 200) epochs of 4,570 images through both networks (56 h at the 24 images/s
published for a V100) and finetuning 30 x 50 epochs of each network.

    python -m studies.paper_grid --dry-run                                 the trials, and what of them is finished
    python -m studies.paper_grid --data.name brain_mri --data.root DIR     the grid, on GPUs
"""

from __future__ import annotations

from analysis import write_report
from cass_tune.study import Study

STUDY = Study(
    name="paper_grid",
    title="CASS: label fraction x pretraining batch size x epochs against F1",
    axes={
        "data.label_fraction": (0.01, 0.1, 1.0),
        "pretrain.batch_size": (8, 16, 32),
        "pretrain.epochs": (50, 100, 200),
    },
    published={"dataset": "brain_mri", "method": "CASS", "origin": "paper"},
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(write_report))
