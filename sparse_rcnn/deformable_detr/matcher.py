"""Bipartite matching of queries and ground truth by normalised centre and size."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_rcnn.boxes import cxcywh_to_xyxy, generalized_iou, pairwise_l1
from sparse_rcnn.matcher import HungarianMatcher, focal_class_cost
from sparse_rcnn.query_boxes import normalized_targets
from sparse_rcnn.structures import Targets


class FocalQueryMatcher(HungarianMatcher):
    """One-to-one assignment of least cost, for all decoder layers and images in one pass.

    It is Sparse R-CNN's but for the boxes (L, N, Q, 4): the cost of a pair is ``class_cost`` * focal + ``l1_cost`` * L1
    of normalised cxcywh + ``giou_cost`` * (-GIoU), in float32, where Sparse R-CNN's L1 is of corners.
    """

    box_name = "boxes_cxcywh_norm"

    @torch.no_grad()
    def cost(self, logits: Tensor, boxes: Tensor, targets: Targets, image_sizes_hw: Tensor) -> Tensor:
        """Costs (L, N, Q, M) of logits (L, N, Q, K) and boxes (L, N, Q, 4); padded targets cost anything."""
        class_cost = focal_class_cost(logits, targets.labels, self.focal_alpha, self.focal_gamma)
        boxes = boxes.float()
        wanted = normalized_targets(targets, image_sizes_hw)
        l1_cost = pairwise_l1(boxes, wanted)
        giou = generalized_iou(cxcywh_to_xyxy(boxes)[:, :, :, None], cxcywh_to_xyxy(wanted)[None, :, None])
        return self.class_cost * class_cost + self.l1_cost * l1_cost - self.giou_cost * giou
