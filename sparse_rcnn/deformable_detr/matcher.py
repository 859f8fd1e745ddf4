"""Bipartite matching of queries and ground truth by normalised centre and size."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_rcnn.boxes import cxcywh_to_xyxy, generalized_iou, whwh, xyxy_to_cxcywh
from sparse_rcnn.matcher import Matches, assign_least_cost, check_focal, check_not_negative, focal_class_cost
from sparse_rcnn.structures import Targets


class FocalQueryMatcher:
    """One-to-one assignment of least cost, for all decoder layers and images in one pass.

    The cost of a pair is ``class_cost`` * focal + ``l1_cost`` * L1 of normalised cxcywh + ``giou_cost`` * (-GIoU), in
    float32. Focal cost and surplus targets are Sparse R-CNN's (semantics.md#matching); its L1 is of corners.
    """

    def __init__(
        self, class_cost: float, l1_cost: float, giou_cost: float, focal_alpha: float, focal_gamma: float
    ) -> None:
        check_not_negative(class_cost=class_cost, l1_cost=l1_cost, giou_cost=giou_cost)
        check_focal(focal_alpha, focal_gamma)
        if class_cost == 0 and l1_cost == 0 and giou_cost == 0:
            raise ValueError("class_cost, l1_cost and giou_cost are all 0: nothing to match by")
        self.class_cost, self.l1_cost, self.giou_cost = class_cost, l1_cost, giou_cost
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma

    @torch.no_grad()
    def cost(self, logits: Tensor, boxes_cxcywh_norm: Tensor, targets: Targets, image_sizes_hw: Tensor) -> Tensor:
        """Costs (L, N, Q, M) of logits (L, N, Q, K) and boxes (L, N, Q, 4); padded targets cost anything."""
        class_cost = focal_class_cost(logits, targets.labels, self.focal_alpha, self.focal_gamma)
        boxes = boxes_cxcywh_norm.float()
        wanted = normalized_targets(targets, image_sizes_hw).expand(len(boxes), -1, -1, -1)
        l1_cost = torch.cdist(boxes.flatten(0, 1), wanted.flatten(0, 1), p=1).view_as(class_cost)
        giou = generalized_iou(cxcywh_to_xyxy(boxes)[:, :, :, None], cxcywh_to_xyxy(wanted)[:, :, None])
        return self.class_cost * class_cost + self.l1_cost * l1_cost - self.giou_cost * giou

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes_cxcywh_norm: Tensor, targets: Targets, image_sizes_hw: Tensor) -> Matches:
        """Match logits (L, N, Q, K) and boxes (L, N, Q, 4) of all layers with the targets of N images.

        Raises:
            NonFiniteError: a cost is not finite, that is, logits or boxes of the named layer are not.
        """
        if targets.num_boxes == 0:
            return Matches(*torch.zeros(4, 0, dtype=torch.int64, device=logits.device))
        cost = self.cost(logits, boxes_cxcywh_norm, targets, image_sizes_hw)

        def blame(layer: int, image: int) -> str:
            name = "boxes_cxcywh_norm" if logits[layer, image].isfinite().all() else "logits"
            return f"stage {layer}: {name} of image {image} of the batch hold NaN or infinity"

        return assign_least_cost(cost, targets.num_per_image, blame)


def normalized_targets(targets: Targets, image_sizes_hw: Tensor) -> Tensor:
    """The targets' boxes (N, M, 4) as centre and size over the width and height of the unpadded images."""
    return xyxy_to_cxcywh(targets.boxes_xyxy_abs / whwh(image_sizes_hw)[:, None])
