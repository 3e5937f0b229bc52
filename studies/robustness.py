"""How much does a method lose with another batch size or length? CASS's second claim (arXiv 2206.04170).

CASS and DINO with batch 8, 16 and 32 at 100 epochs, and 50, 100 and 200 epochs at batch 16, all labels: one setting is
changed at a time, from the common middle (`cass_tune.plan.star`). The table gives each method's range and its worst
drop from the middle. Published F1 on Brain MRI of CASS: the rows of `studies.batch_ablation` and
`studies.epoch_ablation`; those of DINO could not be seen.

Expected cost of one seed: 2 x 100 + 200 epochs of CASS on 4,570 images (21 h at the 24 images/s published for a V100),
550 epochs of DINO, which shares none of them and takes several times as long, and finetuning 11 x 50 epochs.

    python -m studies.robustness                                           a demonstration
    python -m studies.robustness --data.name brain_mri --data.root DIR     the study, on a GPU
"""

from __future__ import annotations

from analysis import write_report
from cass_tune.plan import star
from cass_tune.study import Study

STUDY = Study(
    name="robustness",
    title="What other batch sizes and epochs cost CASS and DINO",
    axes={
        "pretrain.method": ("cass", "dino"),
        "pretrain.batch_size": (8, 16, 32),
        "pretrain.epochs": (50, 100, 200),
    },
    published={"dataset": "brain_mri", "method": "CASS", "origin": "paper"},
    cells=star,
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(write_report))
