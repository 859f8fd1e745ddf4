"""How long all rows of a suite take side by side on some GPUs."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

GPUS_PER_ROW = 8  # as the paper trains
NUMBERS_OF_GPUS = (8, 32, 128)
LEAST_GPU_HOURS = 100.0  # of a suite, below which nobody plans


def makespan(hours: Sequence[float], num_slots: int) -> float:
    """Hours until the last of some jobs ends, longest first, each on the slot that is free first.

    At most 4/3 of the best order (Graham 1969).

    Args:
        hours: of each job.
        num_slots: jobs that run at a time.
    """
    slots = [0.0] * num_slots
    for job in sorted(hours, reverse=True):
        heapq.heapreplace(slots, slots[0] + job)
    return max(slots)


def projection(gpu_hours: Sequence[float]) -> str:
    """All rows on 8, 32 and 128 GPUs in a line; empty for a suite of few GPU-hours.

    Args:
        gpu_hours: of each distinct row, one seed.
    """
    if sum(gpu_hours) < LEAST_GPU_HOURS:
        return ""
    hours = [row / GPUS_PER_ROW for row in gpu_hours]
    spans = [f"{_time(makespan(hours, number // GPUS_PER_ROW))} on {number} GPUs" for number in NUMBERS_OF_GPUS]
    suite = f"The {len(hours)} distinct rows of known length, one seed: {sum(gpu_hours):.0f} GPU-hours"
    together = f"With {GPUS_PER_ROW} GPUs a row and the longest rows first: {', '.join(spans)}"
    return f"{suite}. {together}; the longest row alone {_time(max(hours))}."


def _time(hours: float) -> str:
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} hours"
