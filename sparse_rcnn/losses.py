"""The set-prediction loss: matching, focal loss, L1 and GIoU, supervised at every stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_rcnn.boxes import generalized_iou, whwh
from sparse_rcnn.criterion import Criterion, Losses, Share
from sparse_rcnn.matcher import HungarianMatcher, Matches, check_focal, check_not_negative
from sparse_rcnn.precision import exact
from sparse_rcnn.structures import Targets


class SetCriterion(Criterion):
    """Losses of all stages against one-to-one matched ground truth (paper section 3.3, semantics.md#losses).

    Args:
        matcher: assigns proposals to targets.
        class_weight, l1_weight, giou_weight: 2, 5, 2.
        focal_alpha, focal_gamma: 0.25, 2.
    """

    part_names = ("loss_class", "loss_l1", "loss_giou")
    has_stages = True
    output_kind = "stages"

    def __init__(
        self,
        matcher: HungarianMatcher,
        class_weight: float,
        l1_weight: float,
        giou_weight: float,
        focal_alpha: float,
        focal_gamma: float,
    ) -> None:
        super().__init__()
        check_not_negative(class_weight=class_weight, l1_weight=l1_weight, giou_weight=giou_weight)
        check_focal(focal_alpha, focal_gamma)
        self.matcher = matcher
        self.class_weight, self.l1_weight, self.giou_weight = class_weight, l1_weight, giou_weight
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma

    def counts(self, targets: Targets) -> tuple[float, ...]:
        """The number of boxes, by which all sums are divided (semantics.md#losses)."""
        return (targets.num_boxes,)

    def forward(self, output: Sequence[Any], targets: Targets, image_sizes_hw: Tensor, share: Share) -> Losses:
        """Match and compare.

        Args:
            output: of S stages, logits (N, P, K) and boxes (N, P, 4).
            targets: of the N images.
            image_sizes_hw: (N, 2), unpadded.
            share: the boxes of the whole step per process; what the sums are divided by is at least 1.
        """
        num_boxes = max(share[0], 1.0)
        # Under autocast too, matching and losses are float32.
        logits = torch.stack([o.logits for o in output]).float()
        boxes = self._stacked_boxes(output).float()
        with exact(logits.device):
            matches = self.matcher(logits, boxes, targets, image_sizes_hw)
            loss_class = self._class_loss(logits, targets, matches)
            loss_l1, loss_giou = self._box_losses(boxes, targets, image_sizes_hw, matches)
        return Losses(
            {
                "loss_class": self.class_weight / num_boxes * loss_class,
                "loss_l1": self.l1_weight / num_boxes * loss_l1,
                "loss_giou": self.giou_weight / num_boxes * loss_giou,
            }
        )

    def _stacked_boxes(self, output: Sequence[Any]) -> Tensor:
        return torch.stack([o.boxes_xyxy_abs for o in output])

    def _class_loss(self, logits: Tensor, targets: Targets, m: Matches) -> Tensor:
        # As if nothing were matched, and for each match the difference that it makes: a one-hot target would be read,
        # and its branch computed, for every class of every proposal.
        absent = self._absent_loss(logits).flatten(1).sum(1)
        matched = logits[m.stage, m.image, m.proposal, targets.labels[m.image, m.target]]
        present = self.focal_alpha * (1 - matched.sigmoid()) ** self.focal_gamma * F.softplus(-matched)
        return absent.index_add(0, m.stage, present - self._absent_loss(matched))

    def _absent_loss(self, logits: Tensor) -> Tensor:
        """The focal loss of classes that are not there."""
        return (1 - self.focal_alpha) * logits.sigmoid() ** self.focal_gamma * F.softplus(logits)

    def _box_losses(self, boxes: Tensor, targets: Targets, image_sizes_hw: Tensor, m: Matches) -> tuple[Tensor, Tensor]:
        predicted = boxes[m.stage, m.image, m.proposal]
        wanted = targets.boxes_xyxy_abs[m.image, m.target]
        scale = whwh(image_sizes_hw)[m.image]
        l1 = (predicted / scale - wanted / scale).abs().sum(-1)
        giou = 1 - generalized_iou(predicted, wanted)
        zeros = boxes.new_zeros(len(boxes))
        return zeros.index_add(0, m.stage, l1), zeros.index_add(0, m.stage, giou)
