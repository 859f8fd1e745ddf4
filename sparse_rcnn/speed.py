"""Frames per second of a detector, measured as the paper's are: one image at a time, warm."""

from __future__ import annotations

from time import perf_counter

import torch

from sparse_rcnn.detector_module import DetectorModule
from sparse_rcnn.eval_mode import eval_mode
from sparse_rcnn.precision import autocast
from sparse_rcnn.structures import Batch

NUM_WARM_UP = 5


@torch.no_grad()
def frames_per_second(
    model: DetectorModule, batch: Batch, precision: str, num_repeats: int = 30, max_seconds: float = 5.0
) -> float:
    """Median speed of a batch of one image on the model's device, from the padded image to detections on the host.

    Reading and resizing the image are not in it, as in the published numbers.

    Args:
        batch: of one image.
        precision: ``fp32`` or ``bf16``.
        num_repeats: timed passes, after a few that are not.
        max_seconds: stop earlier than ``num_repeats`` where they take longer.
    """
    if len(batch) != 1:
        raise ValueError(f"frames_per_second measures one image at a time, got a batch of {len(batch)}")
    device = next(model.parameters()).device
    moved, seconds = batch.to(device), []
    with eval_mode(model):
        begun = perf_counter()
        for i in range(NUM_WARM_UP + num_repeats):
            synchronize(device)
            started = perf_counter()
            with autocast(precision, device):
                output = model(moved.images, moved.image_sizes_hw)
            model.detections(output, moved.image_sizes_hw, moved.original_sizes_hw)  # brings them to the host
            if i >= NUM_WARM_UP:
                seconds.append(perf_counter() - started)
            if seconds and perf_counter() - begun > max_seconds:
                break
    return 1 / sorted(seconds)[len(seconds) // 2]


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; a CPU has done its work already."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
