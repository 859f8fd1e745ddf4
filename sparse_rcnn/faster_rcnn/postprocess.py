"""Detections of regions of interest in pixels of the original image."""

from __future__ import annotations

from torch import Tensor, minimum

from sparse_rcnn.boxes import whwh
from sparse_rcnn.structures import Detections


def to_original(
    boxes_xyxy_abs: list[Tensor],
    scores: list[Tensor],
    labels: list[Tensor],
    image_sizes_hw: Tensor,
    original_sizes_hw: Tensor,
) -> list[Detections]:
    """Boxes of each image (D, 4) in resized pixels, with scores and classes (D,), as detections on the CPU."""
    limits = whwh(original_sizes_hw)
    scales = limits / whwh(image_sizes_hw)
    columns = zip(boxes_xyxy_abs, scores, labels, scales, limits, strict=True)
    return [Detections(minimum(boxes * scale, limit).cpu(), s.cpu(), y.cpu()) for boxes, s, y, scale, limit in columns]
