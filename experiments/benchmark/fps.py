"""Frames per second as the paper means them: one image at a time, warm, with and without reading the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import torch

from experiments.benchmark.measure import TOTAL
from experiments.benchmark.report import Row
from sparse_rcnn.data.batching import collate
from sparse_rcnn.data.coco import Sample
from sparse_rcnn.data.image import read_image
from sparse_rcnn.data.transforms import EvalTransform
from sparse_rcnn.detector_module import DetectorModule
from sparse_rcnn.errors import UserError
from sparse_rcnn.eval_mode import eval_mode
from sparse_rcnn.precision import autocast

NUM_WARM_UP = 3


@torch.no_grad()
def fps_rows(
    model: DetectorModule, paths: Sequence[Path], precision: str, device: torch.device, setting: str
) -> list[Row]:
    """Seconds by image: reading and resizing, and from the padded image to detections on the host.

    Args:
        model: with a card, whose size of evaluation is used.
        paths: of images, each measured once after a few of them that do not count.
        precision: ``fp32`` or ``bf16``.
        setting: name of the rows.

    Raises:
        UserError: no image, or a model without a card.
        DataError: an image cannot be read.
    """
    if not paths:
        raise UserError("--images holds no image to measure on")
    if model.card is None:
        raise UserError("the detector has no card, which says the size of its images")
    transform = EvalTransform(model.card.short_side, model.card.max_long_side)
    reading: list[float] = []
    detecting: list[float] = []
    with eval_mode(model):
        for i, path in enumerate([*paths[:NUM_WARM_UP], *paths]):
            started = perf_counter()
            image = read_image(path)
            size_hw = (image.shape[-2], image.shape[-1])
            empty = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
            sample = Sample(transform(image), *empty, i, size_hw)
            batch = collate([sample], model.size_divisor)
            read = perf_counter()
            moved = batch.to(device)
            with autocast(precision, device):
                output = model(moved.images, moved.image_sizes_hw)
            model.detections(output, moved.image_sizes_hw, moved.original_sizes_hw)  # brings them to the host
            done = perf_counter()
            if i >= len(paths[:NUM_WARM_UP]):
                reading.append(read - started)
                detecting.append(done - read)
    both = [a + b for a, b in zip(reading, detecting, strict=True)]
    return [
        Row("fps", setting, "read", reading),
        Row("fps", setting, "detect", detecting),
        Row("fps", setting, TOTAL, both),
    ]


def summary(rows: Sequence[Row]) -> str:
    """Frames per second in a line, with and without reading."""
    medians = {row.part: row.median for row in rows}
    return (
        f"{1 / medians['detect']:.2f} frames per second from the padded image to its detections, "
        f"{1 / medians[TOTAL]:.2f} with reading and resizing ({len(rows[0].seconds)} images, one at a time)"
    )
