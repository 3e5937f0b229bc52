"""What trials will take: samples, hours and room, checked by hand for the paper's grid."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
from torch import nn

from cass_tune.checkpoints import Checkpoints
from cass_tune.config import Data, Trial, to_json, with_field
from cass_tune.data.listings import Listings
from cass_tune.data.loader import Batches
from cass_tune.data.splits import split
from cass_tune.estimate import (
    CHECKPOINTS,
    EARLIER,
    MOST_FOLDERS,
    PARAMETERS,
    PUBLISHED,
    SHARE,
    TOGETHER,
    Estimator,
    PartSizes,
    free_bytes,
    kept_with,
    published,
    seconds,
    training_samples,
)
from cass_tune.methods import method_class
from cass_tune.options import Settings
from cass_tune.overview import room_lines, time_lines
from cass_tune.pace import PHASES, Pace, images_passed, kind
from cass_tune.plan import Wanted, resolve
from cass_tune.results import Folder, Results, StudyFolder
from cass_tune.storage import place, write_json
from cass_tune.training.pretrain import Pretraining, state_bytes
from cass_tune.training.state import State
from tests import tiny
from tests.grids import COUNTS, INPUTS, listing, paper_grid
from tests.small import local

LISTING = listing()
LISTINGS = Listings([Data()], lambda _: LISTING)
TRAIN = 4570
"""5712 training images less a fifth, class by class."""
MISSING = "missing"


def estimator(root: Path, **settings: Any) -> Estimator:
    return Estimator(Results(root), LISTINGS, Settings(**settings))


def own_of(estimate: Any) -> int:
    return sum(estimate.own.values())


def rows(folder: Folder, phase: str, epochs: int, seconds: float, device: str = "cuda (V100)") -> None:
    """Write what an earlier trial has left."""
    if not (folder.path / "config.json").exists():
        write_json(folder.path / "config.json", {"digest": folder.digest})
    folder.write_environment({"devices": [device]})
    with folder.row_file(phase) as lines:
        for epoch in range(1, epochs + 1):
            lines.append(json.dumps({"phase": phase, "epoch": epoch, "seconds": seconds}))


def learned(root: Path, items: Sequence[Wanted], study: StudyFolder | None = None, **settings: Any) -> Estimator:
    found = estimator(root, **settings)
    found.learn_earlier(items, items, {str(item.digest): MISSING for item in items}, study)
    return found


def asked_for(study: StudyFolder, items: Sequence[Wanted], counts: Mapping[str, Any]) -> None:
    """Write the plan of an earlier command."""
    study.write_plan({"trials": [item.record() for item in items], "data": {"counts": counts}})


class TestSamples:
    """Images that pass forward and backward through one network."""

    def test_sizes_do_not_depend_on_the_seed(self) -> None:
        sizes = PartSizes(LISTINGS)
        for seed in (0, 1):
            for share in (0.01, 0.1, 1.0):
                trial = with_field(with_field(Trial(), "data.label_fraction", share), "seed", seed)
                parts = split(LISTING, trial.data, seed)
                found = sizes(trial)
                assert (found.pretrain, found.labelled) == (len(parts.pretrain), len(parts.labelled))
                assert found.pretrain == TRAIN or found.pretrain + found.validation == 5712

    def test_of_one_trial(self) -> None:
        """Both networks, without the last partial batch; then each of them with its labels."""
        trial = with_field(Trial(), "pretrain.batch_size", 32)
        sizes = PartSizes(LISTINGS)(trial)
        assert training_samples(trial, 100, sizes) == 2 * 100 * (sizes.pretrain // 32 * 32) + 2 * 50 * sizes.labelled
        assert training_samples(trial, 0, sizes) == 2 * 50 * sizes.labelled

    def test_of_the_papers_cells(self, tmp_path: Path) -> None:
        """In passes of all images through both networks: 3150 + 499.5 against 600 + 499.5, 3.32 times as many."""
        items = paper_grid(controls=False)
        found = estimator(tmp_path).estimate(items)
        assert (len(items), own_of(found)) == (27, 600)
        images = PartSizes(LISTINGS)(items[0].trial).pretrain
        batches = {size: images // size * size for size in (8, 16, 32)}
        labelled = [PartSizes(LISTINGS)(item.trial).labelled for item in items]
        finetuning = 2 * 50 * sum(labelled)
        assert found.samples == 2 * 200 * sum(batches.values()) + finetuning
        assert found.samples_alone == 2 * 3 * 350 * sum(batches.values()) + finetuning
        unit = 2 * images
        assert found.samples_alone / unit == pytest.approx(3649.5, rel=0.005)
        assert found.samples / unit == pytest.approx(1099.5, rel=0.005)
        assert found.samples_alone / found.samples == pytest.approx(3.32, abs=0.005)

    def test_of_the_whole_grid(self, tmp_path: Path) -> None:
        """With a control for each label fraction: 3150 + 555 against 600 + 555."""
        found = estimator(tmp_path).estimate(paper_grid())
        assert found.samples_alone / found.samples == pytest.approx(3705 / 1155, abs=0.005)

    def test_what_is_stored_is_not_counted(self, tmp_path: Path) -> None:
        items = paper_grid()
        stage = Results(tmp_path).stage(items[0].segments[0].stage)
        write_json(stage.path / "config.json", {"digest": stage.digest})
        write_json(stage.end(100) / "run.json", {})
        assert own_of(estimator(tmp_path).estimate(items)) == 550, "the end of 50 epochs is missing"
        write_json(stage.end(50) / "run.json", {})
        assert own_of(estimator(tmp_path).estimate(items)) == 500

    @pytest.mark.parametrize("epoch", [50, 120, 199])
    def test_what_a_checkpoint_holds_is_not_counted(self, tmp_path: Path, epoch: int) -> None:
        """As the budget counts it; ends that were passed before must be computed again for who needs them."""
        items = paper_grid()
        done = [{"phase": "pretrain", "epoch": n + 1} for n in range(epoch)]
        stage = Results(tmp_path).stage(items[0].segments[0].stage)
        write_json(stage.path / "config.json", {"digest": stage.digest})
        write_json(stage.checkpoints / "000002-abcdef.json", {"values": {"rows": done, "batch": 3}})
        again = {50: 0, 120: 100, 199: 100}
        found = estimator(tmp_path).estimate(items)
        assert own_of(found) == 400 + 200 - epoch + again[epoch]
        assert found.room is not None and found.room.ends == 9

    def test_what_a_finetuning_has_finished_is_not_counted(self, tmp_path: Path) -> None:
        items = [item for item in paper_grid() if item.is_control][-1:]
        folder, labelled = Results(tmp_path).trial(str(items[0].digest)), PartSizes(LISTINGS)(items[0].trial).labelled
        assert estimator(tmp_path).estimate(items).samples == 2 * 50 * labelled
        cnn, vit = ([{"phase": f"finetune_{arm}", "epoch": n + 1} for n in range(20)] for arm in ("cnn", "vit"))
        write_json(folder.path / "config.json", {"digest": folder.digest})
        write_json(folder.checkpoints / "000001-abcdef.json", {"values": {"done": {}, "part": {"rows": cnn}}})
        assert estimator(tmp_path).estimate(items).samples == (30 + 50) * labelled
        later = {"values": {"done": {"cnn": {"rows": cnn}}, "part": {"rows": vit}}}
        write_json(folder.checkpoints / "000002-abcdef.json", later)
        local(folder.checkpoints / "000003-abcdef.json").write_bytes(b"{damaged")
        found = estimator(tmp_path).estimate(items)
        assert found.samples == 30 * labelled, "patience ended the first arm"


class TestHours:
    """Of devices, by earlier rows, a probe, or published rates."""

    def test_published_rates_are_of_both_networks(self) -> None:
        config, counts = to_json(Trial()), LISTING.counts()
        judge = published(24.0, counts)
        epoch = judge(config, "pretrain")
        assert epoch == pytest.approx(TRAIN / 24, rel=0.001)
        both = [judge(config, f"finetune_{arm}") for arm in ("cnn", "vit")]
        validation = 0.2 * 5712 / 3
        assert sum(each or 0.0 for each in both) == pytest.approx((TRAIN + validation) / 24, rel=0.001)
        assert sum(SHARE.values()) == 1.0

    def test_the_notebooks_epoch(self) -> None:
        """190.4 s for 4569 images on a V100, and 22 h 12 min for 100 epochs of 5712 images on a T4."""
        assert 4569 / PUBLISHED["V100"] == pytest.approx(190.4, rel=0.001)
        assert 100 * 5712 / PUBLISHED["T4"] == pytest.approx(22.2 * 3600, rel=0.001)

    @pytest.mark.parametrize(("path", "value"), [("data.image_size_px", 224), ("pretrain.cnn", "resnet18.a1_in1k")])
    def test_published_rates_are_of_these_networks_alone(self, path: str, value: object, tmp_path: Path) -> None:
        config = to_json(with_field(Trial(), path, value))
        assert published(24.0, LISTING.counts())(config, "pretrain") is None

    def test_nothing_is_known(self, tmp_path: Path) -> None:
        times = estimator(tmp_path).estimate(paper_grid()).times
        assert [time.name for time in times] == ["V100", "T4"]
        assert times[0].hours == pytest.approx(times[1].hours * 7.15 / 24.0)
        assert 66 < times[0].hours < 72  # 600 + 555 epochs of 190 s make 61 h, and validation
        (line,) = time_lines(times, None)
        assert line.startswith("hours: at published rates (nothing was measured here) about ")
        assert "GPU-hours on a V100 (24 images/s)" in line and "GPU-hours on a T4 (7.15 images/s)" in line
        assert estimator(tmp_path, device="cpu").estimate(paper_grid()).times == ()
        assert time_lines((), 3.0) == [
            "hours: not known before a trial of this kind has run here, or a probe at the start of a run"
        ]

    def test_by_rows_on_the_disk(self, tmp_path: Path) -> None:
        items = paper_grid({"pretrain.batch_size": (16,), "pretrain.epochs": (50, 100)})
        longer = next(item for item in items if item.trial.pretrain.epochs == 100)
        results = Results(tmp_path)
        rows(results.stage(longer.segments[0].stage), "pretrain", 20, 180.0)
        trial = results.trial(str(longer.digest))
        for arm, each in (("cnn", 40.0), ("vit", 160.0)):
            rows(trial, f"finetune_{arm}", 10, each)
        found = learned(tmp_path, items)
        (time,) = found.estimate(items).times
        config = to_json(longer.trial)
        tested = (1312 + 0.2 * 5712) / 3 / images_passed(config, LISTING.counts(), "finetune_cnn")
        expected = 100 * 180 + 3 * (50 + tested) * (40 + 160)
        assert time.hours == pytest.approx(expected / 3600)
        assert (time.device, time.source, time.unjudged, time.name) == ("cuda", EARLIER, 0, None)
        (line,) = time_lines([time], None)
        assert line == f"hours: about {time.hours:.0f} GPU-hours, by earlier trials of the same kind"
        assert found.unknown_kinds(items, found.estimate(items).own) == {}

    def test_what_was_not_measured_is_judged_by_published_rates(self, tmp_path: Path) -> None:
        """After the controls alone the finetuning is known, and no pretraining."""
        items = paper_grid()
        found, rates = estimator(tmp_path), estimator(tmp_path).estimate(items).times
        config = to_json(items[0].trial)
        found.measured(
            {kind(config, phase): SHARE[phase[9:]] / 24.0 for phase in ("finetune_cnn", "finetune_vit")}, EARLIER
        )
        times = found.estimate(items).times
        assert [(time.name, time.unjudged, time.is_measured) for time in times] == [("V100", 0, True), ("T4", 0, True)]
        assert times[0].hours == pytest.approx(rates[0].hours), "the V100's own rate was measured"
        assert times[0].hours < times[1].hours < rates[1].hours
        line, cost = time_lines(times, 3.0)
        assert line == (
            f"hours: about {times[0].hours:.0f} GPU-hours with the rate of a V100 (24 images/s), "
            f"about {times[1].hours:.0f} GPU-hours with the rate of a T4 (7.15 images/s), "
            "by earlier trials of the same kind, for the rest at published rates"
        )
        assert cost.startswith(f"cost: about {3 * times[0].hours:.2f} with the rate of a V100, ")

    def test_patience_may_make_it_less(self, tmp_path: Path) -> None:
        trial = with_field(Trial(), "finetune.patience", 10)
        found = estimator(tmp_path).estimate(resolve([trial], {trial: INPUTS}))
        assert found.may_be_fewer and not estimator(tmp_path).estimate(paper_grid()).may_be_fewer
        assert time_lines(found.times, None)[0].endswith("; less where --finetune.patience ends a finetuning before")

    def test_by_images_of_the_same_kind(self, tmp_path: Path) -> None:
        """An epoch with all labels, from one with a tenth of them."""
        items = paper_grid({"data.label_fraction": (0.1, 1.0)})
        few, all_ = (next(w for w in items if w.trial.data.label_fraction == share) for share in (0.1, 1.0))
        rows(Results(tmp_path).trial(str(few.digest)), "finetune_cnn", 2, 30.0)
        found = learned(tmp_path, items)
        images = [images_passed(to_json(w.trial), LISTING.counts(), "finetune_cnn") for w in (few, all_)]
        assert found.judge(to_json(few.trial), "finetune_cnn") == 30.0
        assert found.judge(to_json(all_.trial), "finetune_cnn") == pytest.approx(30.0 * images[1] / images[0])

    def test_another_batch_size_is_another_kind(self, tmp_path: Path) -> None:
        items = paper_grid({"pretrain.batch_size": (8, 16)})
        eight = next(item for item in items if item.trial.pretrain.batch_size == 8)
        rows(Results(tmp_path).stage(eight.segments[0].stage), "pretrain", 2, 100.0, "cpu (AMD EPYC, 1 thread)")
        found = learned(tmp_path, items, local=True)
        estimate = found.estimate(items)
        (time,) = estimate.times
        assert time.hours == pytest.approx(100 * 100 / 3600)
        assert time.unjudged == 100 + 3 * 2 * 50, "batch 16, and any finetuning"
        line, cost = time_lines([time], 3.0)
        assert line.endswith("; at least: 400 epochs cannot be judged")
        assert cost == "cost: at least 8.33, at 3 per machine-hour"
        unknown = found.unknown_kinds(items, estimate.own)
        assert sorted(phase for _, phase in unknown.values()) == ["finetune_cnn", "finetune_vit", "pretrain"]
        assert [trial.pretrain.batch_size for trial, phase in unknown.values() if phase == "pretrain"] == [16]

    @pytest.mark.parametrize(("settings", "device", "judged"), [({}, "cuda", 100.0), ({"device": "cpu"}, "cpu", 900.0)])
    def test_rows_of_another_device_do_not_count(
        self, tmp_path: Path, settings: Mapping[str, Any], device: str, judged: float
    ) -> None:
        items = paper_grid({"data.label_fraction": (0.1, 1.0)})
        few, all_ = (next(w for w in items if w.trial.data.label_fraction == share) for share in (0.1, 1.0))
        results = Results(tmp_path)
        rows(results.trial(str(few.digest)), "finetune_cnn", 2, 900.0, "cpu (AMD EPYC, 1 thread)")
        rows(results.trial(str(all_.digest)), "finetune_vit", 2, 100.0)
        found = learned(tmp_path, items, **settings)
        assert found.device == device
        known = {
            phase: found.judge(to_json(item.trial), phase)
            for item, phase in ((few, "finetune_cnn"), (all_, "finetune_vit"))
        }
        assert [value for value in known.values() if value is not None] == [judged]

    def test_what_ran_on_the_cpu_is_expected_to_run_there_again(self, tmp_path: Path) -> None:
        items = paper_grid({"pretrain.batch_size": (8,)})
        rows(Results(tmp_path).stage(items[0].segments[0].stage), "pretrain", 2, 900.0, "cpu (AMD EPYC, 1 thread)")
        found = learned(tmp_path, items, local=True)
        (time,) = found.estimate(items).times
        assert (time.device, time.hours) == ("cpu", pytest.approx(25.0))
        assert time_lines([time], 0.1)[0].startswith("hours: about 25 machine-hours, by earlier trials")

    def test_few_folders_are_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        items = paper_grid()
        for item in items:
            rows(Results(tmp_path).trial(str(item.digest)), "finetune_cnn", 1, 30.0)
        read: list[str] = []
        original = Folder.rows
        monkeypatch.setattr(Folder, "rows", lambda self: read.append(self.id) or original(self))
        found = learned(tmp_path, items)
        assert len(read) == MOST_FOLDERS
        assert found.judge(to_json(items[0].trial), "finetune_cnn") == pytest.approx(30.0, rel=0.9)

    @pytest.mark.parametrize("study", ["paper_grid", "other"])
    def test_by_other_seeds_of_any_study(self, tmp_path: Path, study: str) -> None:
        """Earlier commands asked for them, this one does not; of its own trials none has run."""
        before, items = paper_grid(), paper_grid(seeds=(1, 2, 3))
        results = Results(tmp_path)
        asked_for(results.study(study, "brain_mri-paper"), before, LISTING.counts())
        rows(results.stage(before[0].segments[0].stage), "pretrain", 2, 100.0)
        assert before[0].trial.pretrain.batch_size == items[0].trial.pretrain.batch_size
        config = to_json(items[0].trial)
        assert learned(tmp_path, items).judge(config, "pretrain") is None
        found = learned(tmp_path, items, results.study("paper_grid", "brain_mri-paper"))
        assert found.judge(config, "pretrain") == 100.0

    def test_by_images_of_other_data_of_the_same_name(self, tmp_path: Path) -> None:
        before, items = paper_grid(), paper_grid(seeds=(1,))
        results = Results(tmp_path)
        half = {part: {name: n // 2 for name, n in of.items()} for part, of in LISTING.counts().items()}
        asked_for(results.study("other", "brain_mri-paper"), before, half)
        rows(results.stage(before[0].segments[0].stage), "pretrain", 2, 100.0)
        found = learned(tmp_path, items, results.study("paper_grid", "brain_mri-paper"))
        assert found.judge(to_json(items[0].trial), "pretrain") == pytest.approx(200.0)

    def test_folders_of_one_device_do_not_hide_those_of_another(self, tmp_path: Path) -> None:
        items = [item for item in paper_grid({"data.label_fraction": (0.01, 0.1, 0.3, 0.5, 1.0)}) if item.is_control]
        *many, last = [Results(tmp_path).trial(str(item.digest)) for item in items]
        for folder in many:
            rows(folder, "finetune_cnn", 1, 900.0, "cpu (AMD EPYC, 1 thread)")
        rows(last, "finetune_cnn", 1, 10.0)
        assert len(many) > MOST_FOLDERS
        assert learned(tmp_path, items).judge(to_json(items[-1].trial), "finetune_cnn") == 10.0

    @pytest.mark.parametrize(("gpus", "part", "wall"), [("auto", 1.0, 1.0), (0.25, 1.0, 4.0)])
    def test_a_probe_had_the_gpu_alone(self, tmp_path: Path, gpus: Any, part: float, wall: float) -> None:
        """Of four trials on one each takes up to four times as long."""
        items = paper_grid({"pretrain.batch_size": (8,)})
        found = estimator(tmp_path, gpus_per_trial=gpus)
        config = to_json(items[0].trial)
        tiny = dict.fromkeys((kind(config, phase) for phase in PHASES[1:]), 1e-12)
        found.measured({kind(config, "pretrain"): 0.01, **tiny}, "by a probe of 3 s")
        (time,) = found.estimate(items).times
        images = images_passed(config, LISTING.counts(), "pretrain")
        assert time.hours == pytest.approx(part * 100 * images * 0.01 / 3600)
        assert found.judge(config, "pretrain") == pytest.approx(wall * images * 0.01), "as the budget counts it"
        assert time_lines([time], None)[0].split(", ")[1].startswith("by a probe of 3 s")
        assert (TOGETHER in time.notes) == (wall > 1)

    def test_published_rates_are_of_a_whole_gpu(self, tmp_path: Path) -> None:
        one, other = (estimator(tmp_path, gpus_per_trial=n).estimate(paper_grid()).times for n in ("auto", 0.25))
        assert [time.hours for time in other] == pytest.approx([time.hours for time in one])
        assert TOGETHER in other[0].notes and TOGETHER not in one[0].notes

    @pytest.mark.parametrize("gpus", [0.25, 1.0])
    def test_earlier_trials_shared_the_gpu_as_these_will(self, tmp_path: Path, gpus: float) -> None:
        items = [item for item in paper_grid() if item.is_control][-1:]
        folder = Results(tmp_path).trial(str(items[0].digest))
        for arm in ("cnn", "vit"):
            rows(folder, f"finetune_{arm}", 50, 100.0)
        found = learned(tmp_path, items, gpus_per_trial=gpus)
        (time,) = found.estimate(items).times
        assert 2 * 50 * 100 < time.hours * 3600 / gpus < 2 * 55 * 100 and time.notes == ()

    def test_what_it_costs(self, tmp_path: Path) -> None:
        times = estimator(tmp_path).estimate(paper_grid()).times
        line = time_lines(times, 3.0)[1]
        costs = [f"{3 * time.hours:.2f}" for time in times]
        assert line == f"cost: about {costs[0]} on a V100, {costs[1]} on a T4, at 3 per GPU-hour"

    def test_what_cannot_be_judged(self) -> None:
        judged = {"pretrain": 10.0}
        config, counts = to_json(Trial()), LISTING.counts()
        assert seconds(config, counts, {"pretrain": 3}, lambda _, phase: judged.get(phase)) == (30.0, 0)
        epochs = {"pretrain": 3, "finetune_cnn": 2}
        assert seconds(config, counts, epochs, lambda _, phase: judged.get(phase)) == (30.0, 2)
        assert seconds(config, counts, {"finetune_cnn": 0}, lambda *_: None) == (0.0, 0)


def of_before_pipelines(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "data": {name: value for name, value in config["data"].items() if name != "pipeline"}}


def test_pace_of_a_kind_and_of_any() -> None:
    config, counts = to_json(Trial()), LISTING.counts()
    pace = Pace()
    assert not pace.has_learned
    pace.learn(config, counts, [{"phase": "pretrain", "seconds": 100.0}])
    assert pace.has_learned and pace.knows(config, "pretrain") and not pace.knows(config, "finetune_cnn")
    assert pace.of_kind(config, counts, "finetune_cnn") is None
    faster = to_json(with_field(Trial(), "data.pipeline", "opencv-1"))
    assert not pace.knows(faster, "pretrain") and pace.knows(of_before_pipelines(config), "pretrain")
    per_image = 100.0 / images_passed(config, counts, "pretrain")
    passed = images_passed(config, counts, "finetune_cnn")
    assert pace.seconds(config, counts, "finetune_cnn") == pytest.approx(passed * per_image)


class TestRoom:
    """On the disk."""

    def test_of_the_papers_grid(self, tmp_path: Path) -> None:
        """1.35 GB for an end or a checkpoint of 112.4 million parameters with Adam's state, 0.45 GB without."""
        room = estimator(tmp_path).estimate(paper_grid()).room
        assert room is not None
        assert (room.ends, room.stages / 1e9) == (9, pytest.approx(9 * 1.35, rel=0.002))
        assert room.weights / 1e9 == pytest.approx(30 * 0.45, rel=0.002)
        assert room.checkpoints / 1e9 == pytest.approx(3 * 1.35, rel=0.002)
        assert room.free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)  # others write, too
        line = room_lines(room)[0]
        assert line.startswith(
            "disk: at most 12.1 GB for 9 ends of pretrainings, 13.5 GB for finetuned networks, "
            "4.05 GB of checkpoints per running trial; "
        )

    def test_as_many_checkpoints_as_there_are_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        most = 0
        prune = Checkpoints._prune

        def counted(self: Checkpoints) -> None:
            nonlocal most
            most = max(most, len(self.names()))
            prune(self)

        monkeypatch.setattr(Checkpoints, "_prune", counted)
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        for _ in range(5):
            checkpoints.write(State())
        assert most == CHECKPOINTS

    def test_without_the_finetuned_networks(self, tmp_path: Path) -> None:
        room = estimator(tmp_path, keep_weights="none").estimate(paper_grid()).room
        assert room is not None and room.weights == 0
        assert "finetuned" not in room_lines(room)[0]

    def test_it_does_not_fit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("cass_tune.estimate.free_bytes", lambda root: 20 * 10**9)
        room = estimator(tmp_path).estimate(paper_grid()).room
        assert room is not None and not room.is_enough
        first, warning = room_lines(room)
        assert first.endswith("; 20 GB free") and warning.startswith("warning: this does not fit: make room")
        small = estimator(tmp_path).estimate(paper_grid({"pretrain.batch_size": (8,)})).room
        assert small is not None and small.is_enough and len(room_lines(small)) == 1

    def test_networks_of_unknown_size(self, tmp_path: Path) -> None:
        items = paper_grid({"pretrain.epochs": (50, 100)}, cnn="resnet18.a1_in1k")
        found = estimator(tmp_path)
        assert found.estimate(items).room is None
        (line,) = room_lines(None)
        assert line == "disk: not known before the networks are built, at the start of a run"

        stage = Results(tmp_path).stage(items[0].segments[0].stage)
        write_json(stage.path / "config.json", {"digest": stage.digest})
        write_json(stage.end(50) / "run.json", {})
        (tmp_path / "stages" / stage.id / "epoch-0050" / "cnn.safetensors").write_bytes(b"x" * 12_000)
        seen = found.estimate(items, items).room
        assert seen is not None and seen.ends == 1, "that of 100 epochs"
        assert seen.stages == pytest.approx(12_000, rel=0.01)

        found.parameters[("resnet18.a1_in1k", 384, 1000)] = 11_689_512
        built = found.room(items)
        assert built is not None and built.stages == 12 * (11_689_512 + PARAMETERS["vit_base_patch16_384"])

    @pytest.mark.parametrize(
        "fields",
        [
            {"pretrain.method": "dino", "dino.outputs": 256},
            {"pretrain.method": "dino", "dino.outputs": 20_000, "pretrain.embedding_dim": 8},
            {"pretrain.method": "supervised"},
            {},
            {"pretrain.predictor": True},
        ],
        ids=lambda fields: " ".join(map(str, fields.values())) or "cass",
    )
    def test_what_a_method_keeps_is_counted(self, fields: dict[str, Any], tmp_path: Path) -> None:
        """Against the tensors of a state after a step."""
        trial = tiny.trial({"dino.local_crop_px": 16, "dino.local_crops": 1, "dino.frozen_epochs": 0, **fields})
        images = tiny.listing({"train": {"cat": 4, "dog": 4}})
        views = method_class(trial.pretrain.method).views(trial)
        batches = Batches(tiny.pixels(images), seed=0, stream="pretrain", views=views)
        training = Pretraining(trial, tiny.arms(trial), batches, images.of_split("train"))
        list(training.run(1))
        actual = sum(tensor.numel() * tensor.element_size() for tensor in training.state().tensors.values())
        assert state_bytes(trial, tiny.arms(trial)) == pytest.approx(actual, rel=0.1)

        (item,) = resolve([trial], {trial: INPUTS})
        found = estimator(tmp_path)
        found.parameters = {(n, 32, trial.pretrain.embedding_dim): _count(tiny.arms(trial)[a]) for a, n in NAMES}
        found.state_bytes[kept_with(trial)] = state_bytes(trial, tiny.arms(trial))
        room = found.room([item])
        assert room is not None and room.stages == pytest.approx(actual, rel=0.1)

    def test_what_dino_keeps_is_not_known_before_its_networks_are_built(self, tmp_path: Path) -> None:
        items = _of_method("dino")
        assert estimator(tmp_path).estimate(items).room is None
        assert estimator(tmp_path).estimate(_of_method("supervised")).room is not None

    @pytest.mark.parametrize("name", ["test_resnet", "test_vit", "resnet50"])
    def test_known_sizes(self, name: str) -> None:
        model = timm.create_model(name, pretrained=False, num_classes=1000)
        assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]

    def test_free_room(self, tmp_path: Path) -> None:
        assert free_bytes(tmp_path / "not" / "there") == shutil.disk_usage(tmp_path).free
        assert free_bytes(place("s3://bucket/prefix")) is None


def test_the_listing_is_as_large_as_the_papers() -> None:
    assert sum(LISTING.counts()["train"].values()) == 4 * COUNTS["train"] == 5712


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


NAMES = (("cnn", tiny.CNN), ("vit", tiny.VIT))


def _of_method(method: str) -> list[Wanted]:
    trials = [with_field(item.trial, "pretrain.method", method) for item in paper_grid() if item.segments]
    return resolve(trials, dict.fromkeys(trials, INPUTS))


def test_rates_of_cass_say_nothing_of_another_pretraining(tmp_path: Path) -> None:
    """Its finetuning alone is judged, and the line says what is not."""
    items = _of_method("dino")
    times = estimator(tmp_path).estimate(items).times
    assert len(times) == len(PUBLISHED) and {time.unjudged for time in times} == {1050}, "the epochs of pretraining"
    assert "; at least: 1050 epochs cannot be judged" in time_lines(times, None)[0]
    of_cass = estimator(tmp_path).estimate(paper_grid()).times
    assert all(time.unjudged == 0 for time in of_cass)
    assert times[0].hours < 0.5 * of_cass[0].hours


def test_a_pace_is_of_a_method_and_of_what_it_does_to_an_image() -> None:
    counts = LISTING.counts()
    trials = [
        Trial(),
        *(with_field(Trial(), "pretrain.method", method) for method in ("dino", "supervised", "my.module:Mine")),
        *(with_field(with_field(Trial(), "pretrain.method", "dino"), f"dino.{name}", 96) for name in DINO_WORK),
    ]
    pace = Pace()
    for seconds_of_epoch, trial in enumerate(trials, 1):
        assert not pace.knows(to_json(trial), "pretrain")
        pace.learn(to_json(trial), counts, [{"phase": "pretrain", "seconds": float(seconds_of_epoch)}])
        assert pace.of_kind(to_json(trial), counts, "pretrain") == seconds_of_epoch
    assert pace.knows(to_json(with_field(trials[1], "dino.momentum", 0.9)), "pretrain")


DINO_WORK = ("local_crops", "local_crop_px", "outputs")
