"""What is tried once before the first trial: the device, the packages, the networks and their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from cass_tune.collector import import_spared
from cass_tune.compile_speed import check_apart
from cass_tune.config import ARMS, Trial
from cass_tune.devices import Gpu, check_precisions, gpus_here
from cass_tune.errors import UsageError
from cass_tune.estimate import NETWORKS_ALONE, kept_with
from cass_tune.extras import needs
from cass_tune.options import Settings

if TYPE_CHECKING:
    from torch import nn


class Checks:
    """Tries once, before the first trial, what would otherwise fail in every one.

    Args:
        settings: of the run.
        preset: name of the preset; `paper` needs a GPU or an explicit ``--device cpu``.
    """

    def __init__(self, settings: Settings, preset: str) -> None:
        self.settings = settings
        self.preset = preset
        self.parameters: dict[tuple[str, int, int], int] = {}
        """Of the networks that `check` has built, by timm name, image size and width of the output."""
        self.state_bytes: dict[object, int] = {}
        """Of an end of pretraining, where a method keeps more than both networks, by `cass_tune.estimate.kept_with`."""
        self._compiles = False
        self._blank: dict[object, nn.Module] = {}
        """Networks that `check` has built, without their tensors' content, by `_arm_key`."""

    def check(self, trials: Sequence[Trial], *, names_alone: bool = False) -> None:
        """Try once on this machine what would otherwise fail in every trial.

        Args:
            trials: to be run.
            names_alone: leave the networks unbuilt and their weights unfetched: there are other mistakes to mend first.

        Raises:
            UsageError: no such device, model or weights; every one is named.
        """
        import_spared("cass_tune.training.models")  # and with it timm
        import torch

        problems = _problems(self.check_device, torch.cuda.is_available())
        if not problems and not self.settings.address:
            problems += _problems(self.check_precisions, trials)
        for name in self.settings.log_to:
            problems += _problems(needs, name, "trackers", f"--log-to {name}")
        self._compiles = any(trial.pretrain.compile or trial.finetune.compile for trial in trials)
        if self._compiles and not problems and not self.settings.address:
            problems += _problems(check_apart, self.device(torch.cuda.is_available()))
        if any(trial.data.pipeline == "opencv-1" for trial in trials):
            problems += _problems(needs, "cv2", "opencv", "--data.pipeline opencv-1")
        names_alone = names_alone or bool(problems)
        for trial, arm in _distinct_arms(trials):
            checks = [_check_packages, _check_name] if names_alone else [_check_packages, self._build]
            problems += [problem for check in checks for problem in _problems(check, trial, arm)]
        if problems:
            raise UsageError(*dict.fromkeys(problems))
        if not names_alone:
            self._count_kept(trials)

    def _count_kept(self, trials: Sequence[Trial]) -> None:
        """Count what methods keep beside the networks; of your own it may remain unknown."""
        from cass_tune.training.pretrain import state_bytes

        for trial in {kept_with(trial): trial for trial in trials}.values():
            if trial.pretrain.method not in NETWORKS_ALONE:
                arms = {arm: self._blank[_arm_key(trial, arm)] for arm in ARMS}
                with suppress(Exception):  # a constructor may want what tensors without content do not have
                    self.state_bytes[kept_with(trial)] = state_bytes(trial, arms)

    def _build(self, trial: Trial, arm: str) -> None:
        from cass_tune.methods import method_class
        from cass_tune.training.activation_checkpointing import check_checkpointing
        from cass_tune.training.compiling import check_compiling
        from cass_tune.training.models import build_arm

        model: nn.Module = build_arm(trial, arm)
        if trial.pretrain.method != "none":
            method_class(trial.pretrain.method).check(trial, arm, model)
        if self._compiles:
            check_compiling(model, f"--pretrain.{arm} {getattr(trial.pretrain, arm)}")
        if self.settings.activation_checkpointing == "on":
            check_checkpointing(model, f"--pretrain.{arm} {getattr(trial.pretrain, arm)}")
        key = (getattr(trial.pretrain, arm), trial.data.image_size_px, trial.pretrain.embedding_dim)
        self.parameters[key] = sum(parameter.numel() for parameter in model.parameters())
        self._blank[_arm_key(trial, arm)] = model.to("meta")

    def check_device(self, has_gpu: bool) -> None:
        """Raise a UsageError when this machine does not have the device that is asked for; a cluster is not asked."""
        if self.settings.address:
            return
        if self.settings.device == "cuda" and not has_gpu:
            raise UsageError("--device cuda, but torch sees no GPU on this machine. Give --device cpu, or auto.")
        self.refuse_paper_without_gpu(has_gpu)

    def gpus(self, asked: str = "--precision auto") -> tuple[Gpu, ...]:
        """Return the kinds of GPU that trials may run on, none where they run on the CPU; a cluster is asked.

        Args:
            asked: option that needs them.

        Raises:
            UsageError: it cannot be found out, or only by asking a cluster, which a dry run does not.
        """
        if self.device(True) == "cpu":
            return ()
        if not self.settings.address:
            return gpus_here()
        if self.settings.dry_run:
            raise UsageError(
                f"{asked}: a dry run does not ask the cluster at --address which GPUs it has. Give what it would "
                "become (--precision bf16, --compile off), or leave --dry-run out."
            )
        from cass_tune import runner

        return runner.gpus_of(self.settings.address)

    def check_precisions(self, trials: Sequence[Trial]) -> None:
        """Raise a UsageError when the trials' precision is not there; without one, nobody is asked."""
        if any(phase.precision != "fp32" for trial in trials for phase in (trial.pretrain, trial.finetune)):
            check_precisions(trials, self.gpus())

    def refuse_paper_without_gpu(self, has_gpu: bool) -> None:
        """Raise a UsageError when the paper's networks would be trained on a CPU without being asked to."""
        if self.preset == "paper" and self.settings.device == "auto" and not has_gpu:
            raise UsageError(
                "--preset paper trains ResNet-50 and ViT-B/16 at 384 px, and there is no GPU here. "
                "Give --device cpu to do it all the same, or --preset demo for small networks on the same data."
            )

    def device(self, has_gpu: bool) -> str:
        """Return where trials run: ``cpu`` or ``cuda``."""
        if self.settings.device != "auto":
            return self.settings.device
        return "cuda" if has_gpu else "cpu"


def _distinct_arms(trials: Sequence[Trial]) -> list[tuple[Trial, str]]:
    """Return one trial and arm for everything that `_arm_key` tells apart; a control's networks are those of others."""
    found: dict[object, tuple[Trial, str]] = {}
    networks: set[object] = set()
    for trial in sorted(trials, key=lambda trial: trial.pretrain.method == "none"):
        for arm in ARMS:
            network = _network_key(trial, arm)
            if trial.pretrain.method != "none" or network not in networks:
                found.setdefault(_arm_key(trial, arm), (trial, arm))
            networks.add(network)
    return list(found.values())


def _network_key(trial: Trial, arm: str) -> tuple[object, ...]:
    """Return what a network depends on."""
    pretrain = trial.pretrain
    size, width = trial.data.image_size_px, pretrain.embedding_dim
    return (arm, getattr(pretrain, arm), pretrain.weights_of(arm), size, width)


def _arm_key(trial: Trial, arm: str) -> tuple[object, ...]:
    """Return what a network, and whether the method can train it, depends on."""
    pretrain, dino = trial.pretrain, trial.dino
    crops = (dino.local_crops, dino.local_crop_px) if pretrain.method == "dino" else ()
    return (*_network_key(trial, arm), pretrain.method, pretrain.predictor, pretrain.variance_weight > 0, *crops)


def _check_packages(trial: Trial, arm: str) -> None:
    """Raise a UsageError when the method needs a package that is not installed."""
    from cass_tune.methods import method_class

    if trial.pretrain.method != "none":
        method_class(trial.pretrain.method).check(trial, arm, None)


def _check_name(trial: Trial, arm: str) -> None:
    from cass_tune.training.models import check_name

    weights = trial.pretrain.weights_of(arm)
    check_name(getattr(trial.pretrain, arm), arm, needs_weights=weights == "timm")


def _problems(function: Callable[..., None], *args: object) -> list[str]:
    """Return the texts of the UsageError that a function raises, or nothing."""
    try:
        function(*args)
    except UsageError as error:
        return list(error.problems)
    return []
