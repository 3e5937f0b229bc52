"""How many labels are needed? CASS, main table, label fractions 1, 10 and 100 % (https://arxiv.org/abs/2206.04170).

One pretraining of 100 epochs at batch 16 on all images, finetuning with 1, 10 and 100 % of the labels; beside each arm
the control without pretraining, one per label fraction. Published F1 on Brain MRI with all labels: ResNet-50 0.9909,
ViT-B/16 0.9276; the cells of 1 and 10 % could not be seen and stay empty.

Expected cost of one seed: 100 epochs of 4,570 images through both networks (5 h at the 24 images/s published for a
V100), done once, and finetuning 2 x 50 epochs at 1, 10 and 100 % of the labels.

    python -m studies.label_fraction_ablation                                           a demonstration
    python -m studies.label_fraction_ablation --data.name brain_mri --data.root DIR     the study, on a GPU
"""

from __future__ import annotations

from analysis import write_report
from cass_tune.study import Study

STUDY = Study(
    name="label_fraction_ablation",
    title="CASS with 1, 10 and 100 % of the labels against F1",
    axes={"data.label_fraction": (0.01, 0.1, 1.0)},
    published={
        "dataset": "brain_mri",
        "method": "CASS",
        "origin": "paper",
        "pretrain_batch_size": 16,
        "pretrain_epochs": 100,
    },
    passes=(50, 100),
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(write_report))
