"""The choice of detections among boxes that all classes share."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import batched_nms, remove_small_boxes

MIN_SIDE = 1e-2  # in pixels, as in torchvision's detectors


def select_regions(
    boxes_xyxy_abs: Tensor, probabilities: Tensor, score_threshold: float, nms_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor]:
    """The regions (D,) and classes (D,) of the detections of an image, best score first: NMS for each class.

    Args:
        boxes_xyxy_abs: (R, 4).
        probabilities: (R, K), without that of background.
        score_threshold: detections have a higher score.
        nms_threshold: the IoU above which the weaker of two detections of a class goes.
        max_detections: the most that remain.
    """
    regions, labels = (probabilities > score_threshold).nonzero().unbind(1)
    has_area = remove_small_boxes(boxes_xyxy_abs[regions], MIN_SIDE)
    regions, labels = regions[has_area], labels[has_area]
    kept = batched_nms(boxes_xyxy_abs[regions], probabilities[regions, labels], labels, nms_threshold)
    kept = kept[:max_detections]
    return regions[kept], labels[kept]
