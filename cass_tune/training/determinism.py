"""Settings of torch under which the same trial gives the same numbers on the same kind of device."""

from __future__ import annotations

import os

import torch


def prepare_torch(device: torch.device, threads: int) -> None:
    """Choose deterministic kernels, plain float32 and a fixed number of threads for this process.

    A kernel without a deterministic form is used all the same, with torch's warning in the trial's log.

    Args:
        device: of the trial.
        threads: CPU threads of one operation; 1 and 2 threads give different last digits.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.enable_mem_efficient_sdp(False)  # its backward is not deterministic under warn_only
    if device.type == "cuda":
        torch.cuda.init()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
