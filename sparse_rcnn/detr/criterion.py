"""DETR's set-prediction loss: matching, weighted cross-entropy, L1 and GIoU, at every decoder layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparse_rcnn.boxes import cxcywh_to_xyxy, generalized_iou
from sparse_rcnn.detr.matcher import SoftmaxMatcher, normalized_targets
from sparse_rcnn.detr.output import QueryOutput
from sparse_rcnn.matcher import Matches, check_not_negative
from sparse_rcnn.structures import Targets


@dataclass(frozen=True)
class StepShare:
    """Counts of a whole step, over all its micro-batches, and over all processes divided by their number.

    The losses of a micro-batch are sums over it that are divided by the counts of the step: those of the micro-batches
    of a process add up, and the mean over processes, which distributed training takes of gradients, is the gradient of
    the whole step.

    Attributes:
        num_boxes: ground-truth boxes.
        num_images: images.
        num_matchable: the boxes that find a query: at most Q per image.
    """

    num_boxes: float
    num_images: float
    num_matchable: float

    @classmethod
    def of(cls, micro_batches: Sequence[Targets], num_queries: int) -> StepShare:
        """The counts of one process, before they are summed over processes."""
        counts = [count for targets in micro_batches for count in targets.num_per_image]
        return cls(sum(counts), len(counts), sum(min(count, num_queries) for count in counts))


@dataclass(frozen=True)
class DETRLosses:
    """Weighted losses: ``loss_ce``, ``loss_bbox`` and ``loss_giou``, each (L,), one entry per decoder layer."""

    loss_ce: Tensor
    loss_bbox: Tensor
    loss_giou: Tensor

    @property
    def total(self) -> Tensor:
        """The scalar that is minimised: the sum over parts and layers."""
        return self.loss_ce.sum() + self.loss_bbox.sum() + self.loss_giou.sum()

    def stacked(self) -> Tensor:
        """(3, L), detached: class, L1, GIoU."""
        return torch.stack((self.loss_ce, self.loss_bbox, self.loss_giou)).detach()


class DETRCriterion(nn.Module):
    """Losses of all decoder layers against one-to-one matched ground truth (arXiv 2005.12872, section 3.1).

    The cross-entropy over the K + 1 classes of all queries is a mean weighted by class: a matched query weighs 1,
    another ``no_object_weight``. The authors take that mean over each process alone. Here its divisor is the weight of
    the whole step (``StepShare``), which is the same for one process and one micro-batch, and makes a step independent
    of how it is split.

    Args:
        matcher: assigns queries to targets.
        class_weight, l1_weight, giou_weight: 1, 5, 2.
        no_object_weight: 0.1.
    """

    def __init__(
        self,
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
        self.matcher = matcher
        self.class_weight, self.l1_weight, self.giou_weight = class_weight, l1_weight, giou_weight
        self.no_object_weight = no_object_weight

    def forward(
        self, outputs: Sequence[QueryOutput], targets: Targets, image_sizes_hw: Tensor, share: StepShare
    ) -> DETRLosses:
        """Match and compare.

        Args:
            outputs: of L layers, logits (N, Q, K + 1) and boxes (N, Q, 4).
            targets: of the N images.
            image_sizes_hw: (N, 2), unpadded.
            share: the counts of the whole step; as for its boxes, at least 1 is divided by.

        Raises:
            NonFiniteError: logits or boxes of an image with targets are not finite.
        """
        # Under autocast too, matching and losses are float32.
        logits = torch.stack([o.logits for o in outputs]).float()
        boxes = torch.stack([o.boxes_cxcywh_norm for o in outputs]).float()
        with torch.autocast(logits.device.type, enabled=False):
            matches = self.matcher(logits, boxes, targets, image_sizes_hw)
            loss_ce = self._class_loss(logits, targets, matches)
            loss_bbox, loss_giou = self._box_losses(boxes, targets, image_sizes_hw, matches)
        num_boxes = max(share.num_boxes, 1.0)
        num_unmatched = share.num_images * logits.shape[2] - share.num_matchable
        return DETRLosses(
            self.class_weight * loss_ce / (share.num_matchable + self.no_object_weight * num_unmatched),
            self.l1_weight / num_boxes * loss_bbox,
            self.giou_weight / num_boxes * loss_giou,
        )

    def _class_loss(self, logits: Tensor, targets: Targets, m: Matches) -> Tensor:
        no_object = logits.shape[-1] - 1
        classes = torch.full(logits.shape[:-1], no_object, device=logits.device)
        classes[m.stage, m.image, m.proposal] = targets.labels[m.image, m.target]
        weights = torch.ones(len(classes), *classes.shape[1:], device=logits.device)
        weights = weights.masked_fill(classes == no_object, self.no_object_weight)
        negative_log = -logits.log_softmax(-1).gather(-1, classes[..., None])[..., 0]
        return (weights * negative_log).flatten(1).sum(1)

    def _box_losses(
        self, boxes_cxcywh_norm: Tensor, targets: Targets, image_sizes_hw: Tensor, m: Matches
    ) -> tuple[Tensor, Tensor]:
        predicted = boxes_cxcywh_norm[m.stage, m.image, m.proposal]
        wanted = normalized_targets(targets, image_sizes_hw)[m.image, m.target]
        l1 = (predicted - wanted).abs().sum(-1)
        giou = 1 - generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        zeros = boxes_cxcywh_norm.new_zeros(len(boxes_cxcywh_norm))
        return zeros.index_add(0, m.stage, l1), zeros.index_add(0, m.stage, giou)
