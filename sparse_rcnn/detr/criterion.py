"""DETR's set-prediction loss: matching, weighted cross-entropy, L1 and GIoU, at every decoder layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparse_rcnn.criterion import Criterion, Losses, Share
from sparse_rcnn.detr.matcher import SoftmaxMatcher
from sparse_rcnn.detr.output import QueryOutput
from sparse_rcnn.matcher import Matches, check_not_negative
from sparse_rcnn.precision import exact
from sparse_rcnn.query_boxes import query_box_losses
from sparse_rcnn.structures import Targets


class DETRCriterion(Criterion):
    """Losses of all decoder layers against one-to-one matched ground truth (arXiv 2005.12872, section 3.1).

    The cross-entropy over the K + 1 classes of all queries is a mean weighted by class: a matched query weighs 1,
    another ``no_object_weight``. The authors take that mean over each process alone. Here its divisor is the weight of
    the whole step per process, which is the same for one process and one micro-batch, and makes a step independent of
    how it is split.

    Args:
        num_queries: Q of the detector, at most so many boxes of an image find a query.
        matcher: assigns queries to targets.
        class_weight, l1_weight, giou_weight: 1, 5, 2.
        no_object_weight: 0.1.
    """

    part_names = ("loss_class", "loss_l1", "loss_giou")
    has_stages = True
    output_kind = "softmax_queries"

    def __init__(
        self,
        num_queries: int,
        matcher: SoftmaxMatcher,
        class_weight: float,
        l1_weight: float,
        giou_weight: float,
        no_object_weight: float,
    ) -> None:
        super().__init__()
        check_not_negative(class_weight=class_weight, l1_weight=l1_weight, giou_weight=giou_weight)
        check_not_negative(no_object_weight=no_object_weight)
        if no_object_weight == 0:
            raise ValueError("no_object_weight must be above 0: a step without boxes would have nothing to divide by")
        if num_queries < 1:
            raise ValueError(f"num_queries must be at least 1, got {num_queries}")
        self.num_queries = num_queries
        self.matcher = matcher
        self.class_weight, self.l1_weight, self.giou_weight = class_weight, l1_weight, giou_weight
        self.no_object_weight = no_object_weight

    def counts(self, targets: Targets) -> tuple[float, ...]:
        """The number of boxes, that of images, and that of the boxes that find a query."""
        matched = sum(min(count, self.num_queries) for count in targets.num_per_image)
        return (targets.num_boxes, len(targets), matched)

    def forward(self, output: Sequence[QueryOutput], targets: Targets, image_sizes_hw: Tensor, share: Share) -> Losses:
        """Match and compare.

        Args:
            output: of L layers, logits (N, Q, K + 1) and boxes (N, Q, 4).
            targets: of the N images.
            image_sizes_hw: (N, 2), unpadded.
            share: ``counts`` of the whole step per process; L1 and GIoU are divided by at least 1.

        Raises:
            ValueError: the detector has another number of queries.
            NonFiniteError: logits or boxes of an image with targets are not finite.
        """
        num_boxes, num_images, num_matched = share
        num_boxes = max(num_boxes, 1.0)
        # Under autocast too, matching and losses are float32.
        logits = torch.stack([o.logits for o in output]).float()
        if logits.shape[2] != self.num_queries:
            raise ValueError(f"num_queries of the criterion is {self.num_queries}, of the detector {logits.shape[2]}")
        boxes = torch.stack([o.boxes_cxcywh_norm for o in output]).float()
        with exact(logits.device):
            matches = self.matcher(logits, boxes, targets, image_sizes_hw)
            loss_class = self._class_loss(logits, targets, matches)
            loss_l1, loss_giou = query_box_losses(boxes, targets, image_sizes_hw, matches)
        num_unmatched = num_images * self.num_queries - num_matched
        weight = num_matched + self.no_object_weight * num_unmatched
        return Losses(
            {
                "loss_class": self.class_weight / weight * loss_class,
                "loss_l1": self.l1_weight / num_boxes * loss_l1,
                "loss_giou": self.giou_weight / num_boxes * loss_giou,
            }
        )

    def _class_loss(self, logits: Tensor, targets: Targets, m: Matches) -> Tensor:
        no_object = logits.shape[-1] - 1
        classes = torch.full(logits.shape[:-1], no_object, device=logits.device)
        classes[m.stage, m.image, m.proposal] = targets.labels[m.image, m.target]
        weights = torch.ones(len(classes), *classes.shape[1:], device=logits.device)
        weights = weights.masked_fill(classes == no_object, self.no_object_weight)
        negative_log = -logits.log_softmax(-1).gather(-1, classes[..., None])[..., 0]
        return (weights * negative_log).flatten(1).sum(1)
