"""The set-prediction loss of Deformable DETR: Sparse R-CNN's, with boxes as centre and size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparse_rcnn.losses import SetCriterion
from sparse_rcnn.matcher import Matches
from sparse_rcnn.query_boxes import QueryBoxes, query_box_losses
from sparse_rcnn.structures import Targets


class DeformableDETRCriterion(SetCriterion):
    """Losses of all decoder layers against one-to-one matched ground truth; every layer is matched on its own.

    It is Sparse R-CNN's for the output of L layers, logits (N, Q, K) and boxes (N, Q, 4) as `QueryBoxes`, with a
    `FocalQueryMatcher`.
    """

    output_kind = "sigmoid_queries"

    def _stacked_boxes(self, output: Sequence[QueryBoxes]) -> Tensor:
        return torch.stack([o.boxes_cxcywh_norm for o in output])

    def _box_losses(self, boxes: Tensor, targets: Targets, image_sizes_hw: Tensor, m: Matches) -> tuple[Tensor, Tensor]:
        return query_box_losses(boxes, targets, image_sizes_hw, m)
