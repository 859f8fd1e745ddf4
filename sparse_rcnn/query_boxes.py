"""Boxes of queries: centre and size over those of the unpadded image, as DETR and Deformable DETR have them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparse_rcnn.boxes import cxcywh_to_xyxy, generalized_iou, whwh, xyxy_to_cxcywh
from sparse_rcnn.matcher import Matches
from sparse_rcnn.structures import Targets


@dataclass(frozen=True)
class QueryBoxes:
    """Class logits (N, Q, ...) and boxes of the queries of one decoder layer.

    Shapes: ``boxes_cxcywh_norm`` (N, Q, 4) float32, over the width and height of the unpadded image, each within 0
    and 1.
    """

    logits: Tensor
    boxes_cxcywh_norm: Tensor

    def boxes_xyxy_abs(self, sizes_hw: Tensor) -> Tensor:
        """The boxes (N, Q, 4) in pixels of images of the sizes (N, 2); they are not clipped to them."""
        return cxcywh_to_xyxy(self.boxes_cxcywh_norm) * whwh(sizes_hw)[:, None]


def normalized_targets(targets: Targets, image_sizes_hw: Tensor) -> Tensor:
    """The boxes (N, M, 4) of targets as (cx, cy, w, h) over the width and height of the unpadded images (N, 2)."""
    return xyxy_to_cxcywh(targets.boxes_xyxy_abs.float()) / whwh(image_sizes_hw)[:, None]


def query_box_losses(
    boxes_cxcywh_norm: Tensor, targets: Targets, image_sizes_hw: Tensor, matches: Matches
) -> tuple[Tensor, Tensor]:
    """L1 and 1 - GIoU of matched boxes (L, N, Q, 4), each summed to (L,)."""
    m = matches
    predicted = boxes_cxcywh_norm[m.stage, m.image, m.proposal]
    wanted = normalized_targets(targets, image_sizes_hw)[m.image, m.target]
    l1 = (predicted - wanted).abs().sum(-1)
    giou = 1 - generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
    zeros = boxes_cxcywh_norm.new_zeros(len(boxes_cxcywh_norm))
    return zeros.index_add(0, m.stage, l1), zeros.index_add(0, m.stage, giou)
