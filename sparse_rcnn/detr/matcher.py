"""The matching of object queries and ground truth, for all decoder layers and images in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_rcnn.boxes import cxcywh_to_xyxy, generalized_iou, pairwise_l1
from sparse_rcnn.matcher import Matches, assign_least_cost, blame, check_not_negative
from sparse_rcnn.query_boxes import normalized_targets
from sparse_rcnn.structures import Targets


class SoftmaxMatcher:
    """One-to-one assignment of least cost with the class costs of a softmax (arXiv 2005.12872, section 3.1).

    The cost of a pair is ``class_cost`` * (-probability of the label) + ``l1_cost`` * L1 of the normalised
    (cx, cy, w, h) + ``giou_cost`` * (-GIoU), in float32. With more targets than queries the surplus targets stay
    unmatched.

    Args:
        class_cost, l1_cost, giou_cost: 1, 5, 2.
    """

    def __init__(self, class_cost: float, l1_cost: float, giou_cost: float) -> None:
        check_not_negative(class_cost=class_cost, l1_cost=l1_cost, giou_cost=giou_cost)
        if class_cost == 0 and l1_cost == 0 and giou_cost == 0:
            raise ValueError("class_cost, l1_cost and giou_cost are all 0: nothing to match by")
        self.class_cost, self.l1_cost, self.giou_cost = class_cost, l1_cost, giou_cost

    @torch.no_grad()
    def cost(self, logits: Tensor, boxes_cxcywh_norm: Tensor, targets: Targets, image_sizes_hw: Tensor) -> Tensor:
        """Costs (L, N, Q, M) of logits (L, N, Q, K + 1) and boxes (L, N, Q, 4); padded targets cost anything."""
        num_layers, _, num_queries, _ = logits.shape
        wanted = normalized_targets(targets, image_sizes_hw)
        boxes = boxes_cxcywh_norm.float()
        labels = targets.labels[None, :, None, :].expand(num_layers, -1, num_queries, -1)
        probability = logits.float().softmax(-1).gather(3, labels)
        giou = generalized_iou(cxcywh_to_xyxy(boxes)[:, :, :, None], cxcywh_to_xyxy(wanted)[None, :, None])
        return self.l1_cost * pairwise_l1(boxes, wanted) - self.class_cost * probability - self.giou_cost * giou

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes_cxcywh_norm: Tensor, targets: Targets, image_sizes_hw: Tensor) -> Matches:
        """Match logits (L, N, Q, K + 1) and boxes (L, N, Q, 4) of all layers with the targets of N images.

        Returns:
            Pairs whose ``stage`` is the decoder layer and whose ``proposal`` is the query.

        Raises:
            NonFiniteError: a cost is not finite, that is, logits or boxes of the named layer are not.
        """
        if targets.num_boxes == 0:
            return Matches(*torch.zeros(4, 0, dtype=torch.int64, device=logits.device))
        cost = self.cost(logits, boxes_cxcywh_norm, targets, image_sizes_hw)
        named = {"logits": logits, "boxes_cxcywh_norm": boxes_cxcywh_norm}
        return assign_least_cost(cost, targets.num_per_image, lambda s, n: blame(named, f"decoder layer {s}", s, n))
