"""Running the missing trials of a study: checks on this machine, then Ray, or one after the other in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cass_tune.config import ARMS, Trial
from cass_tune.console import Console, Progress
from cass_tune.data.listing import Listing
from cass_tune.errors import UsageError
from cass_tune.options import Settings
from cass_tune.overview import failure_line, headline, work
from cass_tune.plan import Wanted
from cass_tune.results import Results

if TYPE_CHECKING:
    from ray.tune import ResultGrid

    from cass_tune.trial import RunOptions


class Execution:
    """Runs trials as the settings say.

    Args:
        settings: of the run.
        results: root of all records.
        console: where the progress is shown.
        study: name of the study.
        preset: name of the preset; `paper` needs a GPU or an explicit ``--device cpu``.
    """

    def __init__(self, settings: Settings, results: Results, console: Console, *, study: str, preset: str) -> None:
        self.settings = settings
        self.results = results
        self.console = console
        self.study = study
        self.preset = preset

    def prepare(self, trials: Sequence[Trial], listing: Listing) -> None:
        """Do once on this machine what would otherwise fail, or be waited for, in every trial.

        Raises:
            UsageError: no such device, model or weights; every one is named.
        """
        import torch

        from cass_tune.data.pixels import load_pixels

        self._check_device(torch.cuda.is_available())
        _check_models(trials)
        if not self.settings.address:
            for size in sorted({trial.data.image_size_px for trial in trials}):
                load_pixels(listing, size, self.console.counter(f"resizing images to {size} px"))

    def _check_device(self, has_gpu: bool) -> None:
        if self.settings.address:
            return
        if self.settings.device == "cuda" and not has_gpu:
            raise UsageError("--device cuda, but torch sees no GPU on this machine. Give --device cpu, or auto.")
        self._refuse_paper_without_gpu(has_gpu)

    def _refuse_paper_without_gpu(self, has_gpu: bool) -> None:
        if self.preset == "paper" and self.settings.device == "auto" and not has_gpu:
            raise UsageError(
                "--preset paper trains ResNet-50 and ViT-B/16 at 384 px, and there is no GPU here. "
                "Give --device cpu to do it all the same, or --preset demo for small networks on the same data."
            )

    def run(self, missing: Sequence[Wanted], wanted: Sequence[Wanted], listing: Listing) -> ResultGrid | None:
        """Run the missing ones of the wanted trials; a failing one leaves the others running.

        Returns:
            Ray's own record, or None after ``--local``.
        """
        works = {str(item.digest): work(item, listing) for item in missing}
        progress = Progress(self.console, works, finished=len(wanted) - len(missing))
        return self._run_here(missing, progress) if self.settings.local else self._run_by_ray(missing, progress)

    def _options(self, device: str) -> RunOptions:
        from cass_tune.trial import RunOptions

        names = ("threads", "workers", "on_collapse", "keep_weights")
        return RunOptions(device=device, **{name: getattr(self.settings, name) for name in names})

    def _device(self, has_gpu: bool) -> str:
        return ("cuda" if has_gpu else "cpu") if self.settings.device == "auto" else self.settings.device

    def _run_here(self, missing: Sequence[Wanted], progress: Progress) -> None:
        import torch

        from cass_tune.trial import run_trial

        options = self._options(self._device(torch.cuda.is_available()))
        with progress.shown():
            for item in missing:
                digest, folder = str(item.digest), self.results.trial(str(item.digest))
                progress.start(digest)
                try:
                    for row in run_trial(item.trial, self.results, options, item.inputs):
                        progress.row(digest, row)
                except Exception:  # recorded by run_trial; the other trials go on
                    progress.fail(digest, failure_line(folder.failure()))
                else:
                    progress.finish(digest, headline(folder.result() or {}))

    def _run_by_ray(self, missing: Sequence[Wanted], progress: Progress) -> ResultGrid:
        from cass_tune import runner

        self.console.say(f"Ray runs the trials; its own records are in {self.results.ray(self.study)}.")
        with runner.ray_session(self.settings.address):
            gpus = runner.cluster_gpus()
            self._refuse_paper_without_gpu(gpus > 0)
            device = self._device(gpus > 0)
            asked = self.settings.gpus_per_trial
            gpu = float(device == "cuda") if isinstance(asked, str) else asked
            resources = {"cpu": float(self.settings.cpus_per_trial), "gpu": gpu}
            runner.check_resources(resources["cpu"], resources["gpu"])
            options = self._options(device)
            return runner.run_trials(
                missing, self.results, options, study=self.study, resources=resources, progress=progress
            )


def _check_models(trials: Sequence[Trial]) -> None:
    """Build each distinct arm once: names, weights and image size are then known to fit."""
    from cass_tune.training.models import build_arm

    problems: dict[str, None] = {}
    done: set[tuple[str, str, int, int]] = set()
    for trial in trials:
        for arm in ARMS:
            key = (getattr(trial.pretrain, arm), trial.pretrain.weights_of(arm), trial.data.image_size_px,
                   trial.pretrain.embedding_dim)  # fmt: skip
            if key in done:
                continue
            done.add(key)
            try:
                build_arm(trial, arm)
            except UsageError as error:
                problems.update(dict.fromkeys(error.problems))
    if problems:
        raise UsageError(*problems)
