"""CASS, DINO and transfer side by side: the main table (https://arxiv.org/abs/2206.04170), with what each costs.

Methods x 1, 10 and 100 % of the labels, for both networks: CASS, DINO (each network alone, its paper's schedule),
supervised pretraining with all labels of the pretrained images (a reference that no label fraction limits), and the
control that is finetuned from the starting weights. Published F1 on Brain MRI with all labels: CASS 0.9909 / 0.9276,
DINO 0.99 / 0.8841 (ResNet-50 / ViT-B/16); published hours of pretraining: CASS 7.2, DINO 26.4.

Expected cost of one seed: 100 epochs of 4,570 images by each method (5 h for CASS at the 24 images/s published for a
V100; DINO takes several times as long: ten views of each image), done once, and finetuning 12 x 50 epochs of each
network.

    python -m studies.method_comparison                                           a demonstration
    python -m studies.method_comparison --data.name brain_mri --data.root DIR     the study, on a GPU
"""

from __future__ import annotations

from analysis import write_report
from cass_tune.study import Study

STUDY = Study(
    name="method_comparison",
    title="CASS against DINO, supervised pretraining and transfer",
    axes={"pretrain.method": ("cass", "dino", "supervised"), "data.label_fraction": (0.01, 0.1, 1.0)},
    published={
        "dataset": "brain_mri",
        "method": ["CASS", "DINO"],
        "origin": "paper",
        "pretrain_batch_size": 16,
        "pretrain_epochs": 100,
    },
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(write_report))
