"""Does longer pretraining help? CASS, epoch ablation (https://arxiv.org/abs/2206.04170).

Pretraining for 50, 100 and 200 epochs at batch 16, all labels, the same finetuning for each; beside each arm the
control without pretraining. Published F1 on Brain MRI (micro, sigmoid above 0.5): ResNet-50 0.9795, 0.9909, 0.9864;
ViT-B/16 0.9262, 0.9276, 0.9476; no intervals could be seen. The demo runs 5, 10 and 20 epochs.

Expected cost of one seed: 50 + 100 + 200 epochs of 4,570 images through both networks (19 h at the 24 images/s
published for a V100, 62 h at the 7 images/s of a T4), and finetuning 4 x 50 epochs of each.

    python -m studies.epoch_ablation                                           a demonstration: minutes on two cores
    python -m studies.epoch_ablation --data.name brain_mri --data.root DIR     the study, on a GPU
"""

from __future__ import annotations

from analysis import write_report
from cass_tune.study import Study

STUDY = Study(
    name="epoch_ablation",
    title="CASS pretraining epochs 50, 100, 200 against F1",
    axes={"pretrain.epochs": (50, 100, 200)},
    published={"dataset": "brain_mri", "method": "CASS", "origin": "paper", "pretrain_batch_size": 16},
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(write_report))
