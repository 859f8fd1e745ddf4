"""Boxes of queries: centre and size over those of the unpadded image, as DETR and Deformable DETR have them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_rcnn.boxes import cxcywh_to_xyxy, generalized_iou, whwh, xyxy_to_cxcywh
from sparse_rcnn.finite import finite_on_host
from sparse_rcnn.matcher import Matches
from sparse_rcnn.structures import Detections, Targets


@dataclass(frozen=True)
class QueryBoxes:
    """Class logits (N, Q, ...) and boxes of the queries of one decoder layer.

    Shapes: ``boxes_cxcywh_norm`` (N, Q, 4) float32, over the width and height of the unpadded image, each within 0
    and 1.
    """

    logits: Tensor
    boxes_cxcywh_norm: Tensor

    @property
    def class_probabilities(self) -> Tensor:
        """(N, Q, K) in float32, each class on its own."""
        return self.logits.float().sigmoid()

    def boxes_xyxy_abs(self, sizes_hw: Tensor) -> Tensor:
        """The boxes (N, Q, 4) in pixels of images of the sizes (N, 2); they are not clipped to them."""
        return cxcywh_to_xyxy(self.boxes_cxcywh_norm) * whwh(sizes_hw)[:, None]


@torch.no_grad()
def best_class_of_queries(output: QueryBoxes, original_sizes_hw: Tensor) -> list[Detections]:
    """Each query's box with its best class, for each image, in the order of the queries, on the CPU.

    Args:
        output: of the N images.
        original_sizes_hw: (N, 2) sizes to scale to.

    Raises:
        NonFinitePredictionError: logits or boxes are not finite.
    """
    scores, labels = output.class_probabilities.max(-1)
    boxes = output.boxes_xyxy_abs(original_sizes_hw)
    packed = torch.cat((boxes, scores[..., None], labels[..., None].float()), dim=2)
    packed = finite_on_host("detections", packed, logits=output.logits, boxes=output.boxes_cxcywh_norm)
    return [Detections(rows[:, :4], rows[:, 4], rows[:, 5].to(torch.int64)) for rows in packed]


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
