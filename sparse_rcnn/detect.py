"""Run a detector over a data set and keep what every stage finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sparse_rcnn.distributed import World
from sparse_rcnn.inference import select_detections
from sparse_rcnn.structures import Batch, Detections

PRECISIONS = ("fp32", "bf16")


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context a forward pass runs in: nothing for ``fp32``, autocast for ``bf16``.

    Raises:
        ValueError: another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation and every module of it back to its own mode at the end, also on errors."""
    was_training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training:
            module.training = training


@dataclass(frozen=True)
class DetectionTable:
    """Detections of many images in columns: a fraction of the memory of as many dictionaries.

    Shapes: ``image_ids``, ``category_ids`` (D,) int64, ids of the data set; ``boxes_xywh_abs`` (D, 4) and
    ``scores`` (D,) float64, in pixels of the original images.
    """

    image_ids: npt.NDArray[np.int64]
    category_ids: npt.NDArray[np.int64]
    boxes_xywh_abs: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def of_image(cls, image_id: int, detections: Detections, category_ids: npt.NDArray[np.int64]) -> DetectionTable:
        """The detections of one image, on the CPU; ``category_ids`` (K,) are those of the labels."""
        boxes = detections.boxes_xyxy_abs.double().numpy()
        return cls(
            np.full(len(detections), image_id, dtype=np.int64),
            category_ids[detections.labels.numpy()],
            np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1),
            detections.scores.double().numpy(),
        )

    @classmethod
    def concatenate(cls, tables: Sequence[DetectionTable]) -> DetectionTable:
        if not tables:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
        columns = zip(*(vars(t).values() for t in tables), strict=True)
        return cls(*(np.concatenate(c) for c in columns))

    def to_coco(self) -> list[dict[str, Any]]:
        """As COCO results, ready for JSON."""
        rows = zip(
            self.image_ids.tolist(),
            self.category_ids.tolist(),
            self.boxes_xywh_abs.tolist(),
            self.scores.tolist(),
            strict=True,
        )
        return [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in rows]


@torch.no_grad()
def detect(
    model: nn.Module,
    batches: Iterable[Batch],
    category_ids: Sequence[int],
    world: World,
    precision: str,
    progress: Callable[[int], None] | None = None,
    last_stage_only: bool = False,
) -> list[DetectionTable] | None:
    """Detections of every stage on a data set, gathered on rank 0 (None on the others).

    Args:
        model: puts out one ``StageOutput`` per stage.
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
                outputs = model(moved.images, moved.image_sizes_hw)
            if last_stage_only:
                outputs = outputs[-1:]
            parts = parts or [[] for _ in outputs]
            for stage_parts, output in zip(parts, outputs, strict=True):
                found = select_detections(output, moved.image_sizes_hw, moved.original_sizes_hw)
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
