"""Images per second and core of the published notebook's loading against ours, on JPEG files, in one run.

    python -m tests.benchmarks.data_path DATA [--size 384] [--images 96] [--rounds 5] [--wait]

DATA is the folder with ``brain_mri`` and ``isic2019_ham10000_small``; grey files and coloured ones apart. Every
round loads each image once by each way in turn, so that what else the machine does falls on all of them; the rates are
of CPU time. The notebook's way: open, resize, augment, ``ToTensor``, ``Normalize``. Ours: the cache, the same
augmentation, uint8 (``+ float``: normalised on the CPU as well, which a GPU does otherwise). Our first epoch makes the
cache and is then an epoch like the others. ``--wait`` measures the share of a pretraining that waits for images.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from cass_tune.config import ARMS, with_fields
from cass_tune.data.decode import decode_rgb
from cass_tune.data.listing import Item, Listing, fingerprint
from cass_tune.data.loader import Batch, Batches, normalise, views_of
from cass_tune.data.pixels import Pixels, load_pixels
from cass_tune.training.determinism import prepare_torch
from cass_tune.training.models import build_arm
from cass_tune.training.pretrain import Pretraining
from tests import tiny

BATCH = 16
PIPELINES = ("torchvision-1", "opencv-1")
CPU = torch.device("cpu")


def has_mode(mode: str, path: Path) -> bool:
    """Return whether a file has a mode and its published size."""
    with Image.open(path) as image:
        return image.mode == mode and min(image.size) >= 512


def files(data: Path, scratch: Path, count: int) -> dict[str, list[Path]]:
    """Return JPEG files by what they are.

    Brain MRI is there in its published size: grey files, and grey images in files of three colours. Of the skin lesions
    there are copies of a third of it; brought back to 600 x 450, they take as long to open as the published files.
    """
    brain = sorted((data / "brain_mri/Training").rglob("*.jpg"))
    small = sorted((data / "isic2019_ham10000_small/ISIC_2019_Training_Input").glob("*.jpg"))[:count]
    large = [scratch / path.name for path in small]
    for source, target in zip(small, large, strict=True):
        with Image.open(source) as image:
            image.resize((600, 450), Image.Resampling.BICUBIC).save(target, quality=90)
    return {
        "grey 512 x 512": list(islice(filter(partial(has_mode, "L"), brain), count)),
        "grey in RGB 512 x 512": list(islice(filter(partial(has_mode, "RGB"), brain), count)),
        "colour 600 x 450": large,
        "colour 200 x 150": small,
    }


def listing_of(paths: Sequence[Path]) -> Listing:
    """Return a data set of files."""
    items = tuple(
        Item(path=str(path), sha256=str(path), label="ab"[number % 2], split="train", group=str(path))
        for number, path in enumerate(paths)
    )
    return Listing(
        name="files", items=items, open_image=lambda item: decode_rgb(Path(item.path)), fingerprint=fingerprint(items)
    )


class Notebook(Dataset[Any]):
    """The published notebook's data set (CASS.ipynb, version 5).

    Args:
        paths: of the images.
        size_px: height and width, in pixels.
    """

    def __init__(self, paths: Sequence[Path], size_px: int) -> None:
        self.paths = paths
        jitter = transforms.ColorJitter(0.2, 0.2, 0.2)
        self.transform = transforms.Compose(
            [
                transforms.Resize((size_px, size_px)),
                transforms.RandomApply([jitter, transforms.RandomPerspective(distortion_scale=0.2)], p=0.3),
                transforms.RandomApply([jitter, transforms.RandomAffine(degrees=10)], p=0.3),
                transforms.RandomVerticalFlip(p=0.3),
                transforms.RandomHorizontalFlip(p=0.3),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[number]) as image:
            tensor: Any = self.transform(image.convert("RGB"))
            return tensor, number % 2


def ours(pixels: Pixels, size_px: int, pipeline: str, workers: int = 0) -> Batches:
    """Return our loader."""
    data = with_fields(tiny.BASE, {"data.image_size_px": size_px, "data.pipeline": pipeline}).data
    return Batches(pixels, seed=0, stream="pretrain", views=views_of(data), workers=workers)


def drain(batches: Any, then: Callable[[Any], object] = lambda batch: None) -> None:
    for batch in batches:
        then(batch)


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    begun = clock()
    run()
    return clock() - begun


def rates(paths: Sequence[Path], size_px: int, rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds per image of every way, of every round."""
    listing = listing_of(paths)
    everything = range(len(paths))
    notebook = DataLoader(Notebook(paths, size_px), batch_size=BATCH, shuffle=True)
    found: dict[str, list[float]] = {}
    for epoch in range(1, rounds + 1):
        with tempfile.TemporaryDirectory() as cache:
            os.environ["CASS_TUNE_CACHE"] = cache
            making = seconds(lambda: load_pixels(listing, size_px))
            pixels = load_pixels(listing, size_px)
            ways: dict[str, Callable[[], object]] = {"notebook": lambda: drain(notebook)}
            for name in PIPELINES:
                loader = ours(pixels, size_px, name)
                epochs = [loader.training(everything, BATCH, epoch, drop_last=False) for _ in range(2)]
                ways[name] = lambda epochs=epochs: drain(epochs[0])
                ways[f"{name} + float"] = lambda epochs=epochs: drain(epochs[1], lambda b: normalise(b.images, CPU))
            drain(ours(pixels, size_px, "opencv-1").evaluation(everything))  # pages and imports
            taken = {name: seconds(run) for name, run in ways.items()}
        taken |= {f"{name}, first epoch": taken[f"{name} + float"] + making for name in PIPELINES}
        for name, each in taken.items():
            found.setdefault(name, []).append(each / len(paths))
    return found


def show_rates(kind: str, size_px: int, found: dict[str, list[float]]) -> None:
    print(f"{kind}, {size_px} px: images per second and core; times the notebook: median of rounds [range]")
    for name, each in found.items():
        times = sorted(base / own for base, own in zip(found["notebook"], each, strict=True))
        print(f"  {name:28} {1 / median(each):8.0f}   {median(times):6.2f} [{times[0]:.2f}, {times[-1]:.2f}]")


def workers(paths: Sequence[Path], size_px: int, rounds: int) -> None:
    """Print images per second by the clock and memory of a loader process, of one and two of them."""
    pixels = load_pixels(listing_of(paths), size_px)
    many = list(range(len(paths))) * 4
    for count in (1, 2):
        notebook = DataLoader(
            Notebook([paths[number] for number in many], size_px), BATCH, num_workers=count, persistent_workers=True
        )
        loaders = {name: ours(pixels, size_px, name, count) for name in PIPELINES}
        found: dict[str, list[float]] = {}
        memory: dict[str, list[float]] = {}
        for epoch in range(rounds + 1):  # the first starts the processes
            ways: dict[str, Callable[[], Iterator[Any]]] = {"notebook": lambda loader=notebook: iter(loader)}
            ways |= {
                name: lambda loader=loader, epoch=epoch: loader.training(many, BATCH, epoch + 1, drop_last=False)
                for name, loader in loaders.items()
            }
            for name, run in ways.items():
                before = children()
                taken = seconds(lambda run=run: drain(run()), time.perf_counter)
                if epoch:
                    found.setdefault(name, []).append(len(many) / taken)
                memory.setdefault(name, [own_mib(child) for child in children() - before])
        for name, each in found.items():
            own = f"{max(memory[name]):.0f} MiB of its own" if memory[name] else "memory unknown"
            print(f"  {count} loader process(es), {name:14} {median(each):8.0f} images/s by the clock, {own}")


def children() -> set[int]:
    """Return the processes that this one has started."""
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(word) for word in text.split()}


def own_mib(process: int) -> float:
    """Return the memory that a process shares with no other, in MiB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1024


class Timed:
    """Batches that note how long a training waits for them.

    Args:
        batches: the loader.
    """

    def __init__(self, batches: Batches) -> None:
        self.classes = batches.classes
        self.waited_s = 0.0
        self._batches = batches

    def training(self, *args: Any, **options: Any) -> Iterator[Batch]:
        iterator = self._batches.training(*args, **options)
        while True:
            begun = time.perf_counter()
            batch = next(iterator, None)
            self.waited_s += time.perf_counter() - begun
            if batch is None:
                return
            yield batch


def waiting(paths: Sequence[Path], size_px: int, networks: Sequence[str], pipeline: str, batch_size: int) -> float:
    """Return the share of an epoch of CASS in which it waits for images, without loader processes."""
    fields = {f"pretrain.{arm}": name for arm, name in zip(ARMS, networks, strict=True)}
    fields |= {"pretrain.weights": "random", "pretrain.batch_size": batch_size, "pretrain.epochs": 2}
    trial = with_fields(tiny.BASE, {**fields, "data.image_size_px": size_px, "pretrain.embedding_dim": 1000})
    pixels = load_pixels(listing_of(paths), size_px)
    batches: Any = Timed(ours(pixels, size_px, pipeline))
    arms = nn.ModuleDict({arm: build_arm(trial, arm) for arm in ARMS})
    run = Pretraining(trial, arms, batches, range(len(paths))).run()
    next(run)
    batches.waited_s = 0.0
    return 1 / seconds(lambda: next(run), time.perf_counter) * batches.waited_s


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", type=int, nargs="+", default=[384, 64])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wait", action="store_true")
    options = parser.parse_args()
    prepare_torch(CPU, 1)
    with tempfile.TemporaryDirectory() as scratch:
        for kind, paths in files(options.data, Path(scratch), options.images).items():
            measure(kind, paths, options)


def measure(kind: str, paths: Sequence[Path], options: argparse.Namespace) -> None:
    """Measure one kind of files and print it."""
    for size_px in options.size:
        show_rates(f"{len(paths)} files, {kind}", size_px, rates(paths, size_px, options.rounds))
        with tempfile.TemporaryDirectory() as cache:
            os.environ["CASS_TUNE_CACHE"] = cache
            workers(paths, size_px, options.rounds)
    if options.wait:
        cases = (
            (32, ("test_resnet.r160_in1k", "test_vit.r160_in1k"), paths, BATCH),
            (384, ("resnet50.a1_in1k", "vit_base_patch16_384.augreg_in21k_ft_in1k"), paths[:4], 2),
        )
        for size_px, networks, few, batch_size in cases:
            for pipeline in PIPELINES:
                share = waiting(few, size_px, networks, pipeline, batch_size)
                print(f"  {kind}, {size_px} px, {' + '.join(networks)}, {pipeline}: {share:.1%} of a step waits")


if __name__ == "__main__":
    main()
