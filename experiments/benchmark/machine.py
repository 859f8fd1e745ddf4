"""The machine of a benchmark, and the most that it was measured to do."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from sparse_rcnn.speed import synchronize

SIDES = (256, 512, 1024, 2048, 4096, 8192)  # of the matrices whose product is timed: the first that is long enough
LONG_ENOUGH = 0.05  # seconds: a processor without units for bfloat16 takes minutes for what a GPU does in a millisecond


def machine(device: torch.device) -> dict[str, Any]:
    """Names, numbers of cores and threads, versions, and the measured peaks of a device.

    Peaks are the best of a few passes: ``gflops_fp32`` and ``gflops_bf16`` of a square matrix product,
    ``copy_gb_per_second`` of a copy from memory to memory, reads and writes counted.
    """
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "kind": device.type,
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gflops_fp32": _gflops(torch.float32, device),
        "gflops_bf16": _gflops(torch.bfloat16, device),
        "copy_gb_per_second": _copy_speed(device),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _best(run: Callable[[], Any], device: torch.device, num_passes: int = 4) -> float:
    seconds = []
    for _ in range(num_passes):
        synchronize(device)
        started = perf_counter()
        run()
        synchronize(device)
        seconds.append(perf_counter() - started)
    return min(seconds[1:])


def _gflops(dtype: torch.dtype, device: torch.device) -> float:
    for side in SIDES:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        seconds = _best(partial(torch.matmul, a, b), device)
        if seconds >= LONG_ENOUGH:
            break
    return 2 * side**3 / 1e9 / seconds


def _copy_speed(device: torch.device) -> float:
    source = torch.zeros(1 << 26, device=device)  # 256 MiB: no cache holds it
    target = torch.ones_like(source)
    return 2 * source.numel() * source.element_size() / 1e9 / _best(lambda: target.copy_(source), device)
