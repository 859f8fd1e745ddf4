"""RetinaNet's loss: anchors matched by IoU, focal loss of the classes, L1 of the boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou, sigmoid_focal_loss

from sparse_rcnn.criterion import Criterion, Losses, Share
from sparse_rcnn.matcher import check_focal, check_not_negative
from sparse_rcnn.precision import exact
from sparse_rcnn.retinanet.output import AnchorOutput
from sparse_rcnn.retinanet.postprocess import BOX_CODER
from sparse_rcnn.structures import Targets


class RetinaNetCriterion(Criterion):
    """Losses of every anchor against the box that it matches (arXiv 1708.02002, section 4.1).

    An anchor belongs to the box of largest IoU from ``foreground_iou`` on, to the background below ``background_iou``,
    and is left out of the loss in between; the best anchors of a box belong to a box in any case. As in torchvision
    each image is divided by the number of its foreground anchors, and the losses are the mean over the images.
    (Detectron2 divides by a running mean of that number.) What anchors in the padding cost is part of it.

    Args:
        foreground_iou, background_iou: 0.5 and 0.4.
        class_weight, l1_weight: 1, 1.
        focal_alpha, focal_gamma: 0.25, 2.
    """

    part_names = ("loss_class", "loss_l1")
    has_stages = False
    output_kind = "anchors"

    def __init__(
        self,
        foreground_iou: float,
        background_iou: float,
        class_weight: float,
        l1_weight: float,
        focal_alpha: float,
        focal_gamma: float,
    ) -> None:
        super().__init__()
        if not 0 < background_iou <= foreground_iou <= 1:
            raise ValueError(
                f"foreground_iou must be at least background_iou, and both between 0 and 1, got {foreground_iou} and "
                f"{background_iou}"
            )
        check_not_negative(class_weight=class_weight, l1_weight=l1_weight)
        check_focal(focal_alpha, focal_gamma)
        self.class_weight, self.l1_weight = class_weight, l1_weight
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.matcher = Matcher(foreground_iou, background_iou, allow_low_quality_matches=True)

    def counts(self, targets: Targets) -> tuple[float, ...]:
        """The number of images, over which the losses are a mean."""
        return (len(targets),)

    def forward(self, output: AnchorOutput, targets: Targets, image_sizes_hw: Tensor, share: Share) -> Losses:
        """Match and compare.

        Args:
            output: logits (N, A, K), deltas (N, A, 4) and their anchors.
            targets: of the N images.
            image_sizes_hw: (N, 2), not used.
            share: the images of the whole step per process.
        """
        (num_images,) = share
        # Under autocast too, matching and losses are float32.
        logits, deltas = output.logits.float(), output.deltas.float()
        anchors = output.anchors_xyxy_abs
        with exact(logits.device):
            matches = self.match(anchors, targets)
            is_foreground = matches >= 0
            divisor = is_foreground.sum(1).clamp(min=1)
            image, anchor = is_foreground.nonzero(as_tuple=True)
            target = matches[image, anchor]
            one_hot = torch.zeros_like(logits)
            one_hot[image, anchor, targets.labels[image, target]] = 1
            focal = sigmoid_focal_loss(logits, one_hot, self.focal_alpha, self.focal_gamma, reduction="none").sum(2)
            loss_class = focal.masked_fill(matches == Matcher.BETWEEN_THRESHOLDS, 0.0).sum(1) / divisor
            wanted = BOX_CODER.encode_single(targets.boxes_xyxy_abs[image, target], anchors[anchor])
            l1 = (deltas[image, anchor] - wanted).abs().sum(1)
            loss_l1 = deltas.new_zeros(len(deltas)).index_add(0, image, l1) / divisor
        return Losses(
            {
                "loss_class": self.class_weight / num_images * loss_class.sum(0, keepdim=True),
                "loss_l1": self.l1_weight / num_images * loss_l1.sum(0, keepdim=True),
            }
        )

    @torch.no_grad()
    def match(self, anchors_xyxy_abs: Tensor, targets: Targets) -> Tensor:
        """The target (N, A) that each anchor matches; -1 for the background, -2 for an anchor that does not count.

        Image by image: the IoU of the boxes of a batch, padded to the most of an image, with 200 000 anchors would be
        the largest tensor of a step.
        """
        matches = []
        for boxes, count in zip(targets.boxes_xyxy_abs, targets.num_per_image, strict=True):
            if count == 0:
                shape = (len(anchors_xyxy_abs),)
                none = Matcher.BELOW_LOW_THRESHOLD
                matches.append(torch.full(shape, none, dtype=torch.int64, device=anchors_xyxy_abs.device))
            else:
                matches.append(self.matcher(box_iou(boxes[:count], anchors_xyxy_abs)))
        return torch.stack(matches)
