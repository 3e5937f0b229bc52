"""Does the pretraining batch size matter? CASS, section on batch-size ablation (https://arxiv.org/abs/2206.04170).

Pretraining batch 8, 16 and 32 at 100 epochs, all labels, finetuning batch 16; beside each arm the control that is
finetuned without pretraining. Published F1 on Brain MRI (micro, sigmoid above 0.5): ResNet-50 0.9895, 0.9909, 0.9848;
ViT-B/16 0.9315, 0.9276, 0.9176; no intervals could be seen.

Expected cost of one seed: 3 x 100 epochs of 4,570 images through both networks, and finetuning 4 x 50 epochs of each;
published pretraining rates are 24 images/s on a V100 and 7 on a T4, so about 16 or 54 h for the pretraining.

    python -m studies.batch_ablation                                           a demonstration: minutes on two cores
    python -m studies.batch_ablation --data.name brain_mri --data.root DIR     the study, on a GPU
"""

from __future__ import annotations

from analysis import write_report
from cass_tune.study import Study

STUDY = Study(
    name="batch_ablation",
    title="CASS pretraining batch size 8, 16, 32 against F1",
    axes={"pretrain.batch_size": (8, 16, 32)},
    published={"dataset": "brain_mri", "method": "CASS", "origin": "paper", "pretrain_epochs": 100},
    passes=(50, 100),
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main(write_report))
