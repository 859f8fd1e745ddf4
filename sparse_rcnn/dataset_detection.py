"""Run a detector over a data set and keep what every stage finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from sparse_rcnn.detection_table import DetectionTable
from sparse_rcnn.detector_module import DetectorModule
from sparse_rcnn.distributed import World
from sparse_rcnn.eval_mode import eval_mode
from sparse_rcnn.precision import autocast
from sparse_rcnn.structures import Batch


@torch.no_grad()
def detect(
    model: DetectorModule,
    batches: Iterable[Batch],
    category_ids: Sequence[int],
    world: World,
    precision: str,
    progress: Callable[[int], None] | None = None,
    last_stage_only: bool = False,
) -> list[DetectionTable] | None:
    """Detections of every stage on a data set, gathered on rank 0 (None on the others).

    Args:
        model: the detector.
        batches: this rank's share.
        category_ids: of the labels.
        world: who takes part.
        precision: ``fp32`` or ``bf16``.
        progress: told the number of images of each batch that is done.
        last_stage_only: give the detector's own output alone, a list of one table.
    """
    ids = np.asarray(category_ids, dtype=np.int64)
    parts: list[list[DetectionTable]] = []
    with eval_mode(model):
        for batch in batches:
            moved = batch.to(world.device, non_blocking=True)
            with autocast(precision, world.device):
                output = model(moved.images, moved.image_sizes_hw)
            sizes_hw = (moved.image_sizes_hw, moved.original_sizes_hw)
            stages = (
                [model.detections(output, *sizes_hw)] if last_stage_only else model.stage_detections(output, *sizes_hw)
            )
            parts = parts or [[] for _ in stages]
            for stage_parts, found in zip(parts, stages, strict=True):
                stage_parts += [
                    DetectionTable.of_image(image_id, detections, ids)
                    for image_id, detections in zip(batch.image_ids, found, strict=True)
                ]
            if progress is not None:
                progress(len(batch))
    gathered = world.gather([DetectionTable.concatenate(p) for p in parts])
    if gathered is None:
        return None
    num_stages = max(len(tables) for tables in gathered)  # a rank without images has no stages
    return [DetectionTable.concatenate([t[s] for t in gathered if t]) for s in range(num_stages)]
