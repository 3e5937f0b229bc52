"""How fast one trial is on this device, and what each part of that is worth, in one run.

    make gpu-bench            that is: python -m tests.benchmarks.gpu
    python -m tests.benchmarks.gpu --device cpu --cnn test_resnet.r160_in1k --vit test_vit.r160_in1k --size 32

Measured are: the products of large matrices (the peak); the ladder from the notebook's loop to this package's own
training, at each batch; each network alone; evaluation by the size of its batch; how often a step waits for the
device; 1, 2, 4, 8 trials at once on it; and whether results differ between precisions by more than chance. Figures of
one run are to be compared with one another. Written as JSON (`--out`) and printed.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cass_tune.devices import Gpu, auto
from cass_tune.environment import device_name
from tests.benchmarks.gpu.equality import compared
from tests.benchmarks.gpu.measuring import arms_alone, evaluation, peaks, rungs, synchronisations
from tests.benchmarks.gpu.packing import together

PARTS = ("ladder", "arms", "evaluation", "synchronisations", "packing", "equality")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; their defaults are the paper's networks on a GPU."""
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--cnn", default="resnet50.a1_in1k")
    parser.add_argument("--vit", default="vit_base_patch16_384.augreg_in21k_ft_in1k")
    parser.add_argument("--size", type=int, default=384, help="height and width of the images, in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--compile-batches", type=int, nargs="*", default=[16], help="at which torch.compile is tried")
    parser.add_argument("--evaluation", type=int, nargs="+", default=[16, 64, 256], help="batches; trials use 64")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--matrix", type=int, default=8192, help="rows and columns of the matrices of the peak")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=min(8, (os.cpu_count() or 2) - 1))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8], help="trials at once")
    parser.add_argument("--root", default=_brain_mri(), help="brain_mri's folder; without one, built-in images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=10, help="of each phase of the trials whose results are compared")
    parser.add_argument("--equality-size", type=int, default=64, help="of their images, in pixels")
    parser.add_argument("--label-fraction", type=float, default=1.0)
    parser.add_argument("--out", default="results/gpu_bench.json")
    return parser.parse_args(argv)


def _brain_mri() -> str | None:
    folder = Path(os.environ.get("CASS_TUNE_TEST_DATA", "../shared/data")) / "brain_mri"
    return str(folder) if folder.is_dir() else None


def precisions_of(device: str) -> tuple[list[str], str]:
    """Return the precisions that a device has, and the narrow one that is measured in detail."""
    if device == "cpu":
        return ["fp32", "bf16"], "bf16"
    gpu = Gpu(torch.cuda.get_device_name(), torch.cuda.get_device_capability())
    narrow = auto([gpu])
    return [name for name in ("fp32", "tf32", "bf16", "fp16") if gpu.has(name)], narrow


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is asked for, write and print it."""
    options = parse(argv)
    precisions, narrow = precisions_of(options.device)
    found: dict[str, Any] = {
        "device": device_name(options.device, options.threads),
        "torch": torch.__version__,
        "options": vars(options),
    }
    print(f"{found['device']}, torch {torch.__version__}; {options.cnn}, {options.vit}, {options.size} px", flush=True)
    needed = [*precisions, *([] if "tf32" in precisions else ["tf32"])]  # on a CPU tf32 is fp32
    found["peak"] = peaks(options, needed)
    print("peak:", ", ".join(f"{name} {value / 1e12:.3g} TFLOP/s" for name, value in found["peak"].items()), flush=True)
    work = {
        "ladder": lambda: rungs(options, narrow, found["peak"]),
        "arms": lambda: arms_alone(options, precisions, found["peak"]),
        "evaluation": lambda: evaluation(options, narrow),
        "synchronisations": lambda: synchronisations(options, narrow),
        "packing": lambda: (together(options, narrow, count) for count in options.processes),
        "equality": lambda: compared(options, precisions),
    }
    for part in options.parts:
        print(f"\n{part}", flush=True)
        found[part] = list(_shown(work[part]()))
        path = Path(options.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1))  # what is there counts, should the rest not end
    return 0


def _shown(rows: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    for row in rows:
        print("  " + "  ".join(f"{name} {_text(value)}" for name, value in row.items()), flush=True)
        yield row


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    raise SystemExit(main())
