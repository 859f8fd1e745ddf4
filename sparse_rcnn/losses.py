"""The set-prediction loss: matching, focal loss, L1 and GIoU, supervised at every stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from sparse_rcnn.boxes import generalized_iou, whwh
from sparse_rcnn.matcher import HungarianMatcher, Matches, check_focal, check_not_negative
from sparse_rcnn.structures import StageOutput, Targets


@dataclass(frozen=True)
class Losses:
    """Weighted losses: ``loss_class``, ``loss_l1`` and ``loss_giou``, each (S,), one entry per stage."""

    loss_class: Tensor
    loss_l1: Tensor
    loss_giou: Tensor

    @property
    def total(self) -> Tensor:
        """The scalar that is minimised: the sum over parts and stages."""
        return self.loss_class.sum() + self.loss_l1.sum() + self.loss_giou.sum()

    def stacked(self) -> Tensor:
        """(3, S), detached: class, L1, GIoU. One tensor to read back, whenever somebody wants to."""
        return torch.stack((self.loss_class, self.loss_l1, self.loss_giou)).detach()


class SetCriterion(nn.Module):
    """Losses of all stages against one-to-one matched ground truth (paper section 3.3, semantics.md#losses).

    Args:
        matcher: assigns proposals to targets.
        class_weight, l1_weight, giou_weight: 2, 5, 2.
        focal_alpha, focal_gamma: 0.25, 2.
    """

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

    def forward(
        self, outputs: Sequence[StageOutput], targets: Targets, image_sizes_hw: Tensor, num_boxes: float
    ) -> Losses:
        """Match and compare.

        Args:
            outputs: of S stages, logits (N, P, K) and boxes (N, P, 4).
            targets: of the N images.
            image_sizes_hw: (N, 2), unpadded.
            num_boxes: what the sums are divided by, at least 1 (see ``engine.normalizer``).
        """
        # Under autocast too, matching and losses are float32.
        logits = torch.stack([o.logits for o in outputs]).float()
        boxes = torch.stack([o.boxes_xyxy_abs for o in outputs]).float()
        with torch.autocast(logits.device.type, enabled=False):
            matches = self.matcher(logits, boxes, targets, image_sizes_hw)
            loss_class = self._class_loss(logits, targets, matches)
            loss_l1, loss_giou = self._box_losses(boxes, targets, image_sizes_hw, matches)
        return Losses(
            self.class_weight / num_boxes * loss_class,
            self.l1_weight / num_boxes * loss_l1,
            self.giou_weight / num_boxes * loss_giou,
        )

    def _class_loss(self, logits: Tensor, targets: Targets, m: Matches) -> Tensor:
        one_hot = torch.zeros_like(logits)
        one_hot[m.stage, m.image, m.proposal, targets.labels[m.image, m.target]] = 1
        loss = sigmoid_focal_loss(logits, one_hot, self.focal_alpha, self.focal_gamma, reduction="none")
        return loss.flatten(1).sum(1)

    def _box_losses(
        self, boxes_xyxy_abs: Tensor, targets: Targets, image_sizes_hw: Tensor, m: Matches
    ) -> tuple[Tensor, Tensor]:
        predicted = boxes_xyxy_abs[m.stage, m.image, m.proposal]
        wanted = targets.boxes_xyxy_abs[m.image, m.target]
        scale = whwh(image_sizes_hw)[m.image]
        l1 = (predicted / scale - wanted / scale).abs().sum(-1)
        giou = 1 - generalized_iou(predicted, wanted)
        zeros = boxes_xyxy_abs.new_zeros(len(boxes_xyxy_abs))
        return zeros.index_add(0, m.stage, l1), zeros.index_add(0, m.stage, giou)
