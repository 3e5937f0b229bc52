"""Hyperparameter and ablation studies of self-supervised pretraining for medical images."""
