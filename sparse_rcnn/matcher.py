"""Bipartite matching of proposals and ground truth, for all stages and images in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sparse_rcnn.boxes import generalized_iou, pairwise_l1, whwh
from sparse_rcnn.structures import Targets


class NonFiniteError(FloatingPointError):
    """A tensor of the training step holds NaN or infinity; the message names the stage and the tensor."""


@dataclass(frozen=True)
class Matches:
    """Matched pairs of all stages and images, flat: four int64 tensors of one length L on the model's device.

    Pair i joins proposal ``proposal[i]`` and target ``target[i]`` of image ``image[i]`` at stage ``stage[i]``;
    pairs are sorted by stage, image, proposal.
    """

    stage: Tensor
    image: Tensor
    proposal: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.stage)


class HungarianMatcher:
    """One-to-one assignment of least cost (paper section 3.3, semantics.md#matching).

    The cost of a pair is ``class_cost`` * focal + ``l1_cost`` * L1 of the normalised corners + ``giou_cost`` *
    (-GIoU), in float32. With more targets than proposals the surplus targets stay unmatched (semantics.md#matching).
    """

    box_name = "boxes_xyxy_abs"  # of the boxes that it compares, for messages

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
    def cost(self, logits: Tensor, boxes: Tensor, targets: Targets, image_sizes_hw: Tensor) -> Tensor:
        """Costs (S, N, P, M) of logits (S, N, P, K) and boxes (S, N, P, 4); padded targets cost anything."""
        class_cost = focal_class_cost(logits, targets.labels, self.focal_alpha, self.focal_gamma)

        scale = whwh(image_sizes_hw)[:, None]
        boxes = boxes.float()
        l1_cost = pairwise_l1(boxes / scale, targets.boxes_xyxy_abs / scale)
        giou = generalized_iou(boxes[:, :, :, None], targets.boxes_xyxy_abs[None, :, None])
        return self.class_cost * class_cost + self.l1_cost * l1_cost - self.giou_cost * giou

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes: Tensor, targets: Targets, image_sizes_hw: Tensor) -> Matches:
        """Match logits (S, N, P, K) and boxes (S, N, P, 4) of all stages with the targets of N images.

        Raises:
            NonFiniteError: a cost is not finite, that is, logits or boxes of the named stage are not.
        """
        device = logits.device
        if targets.num_boxes == 0:
            return Matches(*torch.zeros(4, 0, dtype=torch.int64, device=device))
        named = {"logits": logits, self.box_name: boxes}
        cost = self.cost(logits, boxes, targets, image_sizes_hw)
        return assign_least_cost(cost, targets.num_per_image, lambda s, n: blame(named, f"stage {s}", s, n))


def assign_least_cost(cost: Tensor, num_per_image: Sequence[int], blame: Callable[[int, int], str]) -> Matches:
    """The assignment of least cost of each stage and image.

    Args:
        cost: (S, N, P, M).
        num_per_image: the number of targets of each image, at most M; the costs of others are not used.
        blame: from a stage and an image, whose costs are not finite, to the message of the error.

    Raises:
        NonFiniteError: a cost is not finite.
    """
    # The one copy from the device in a training step.
    on_host = cost.cpu().numpy()
    pairs = []
    for s in range(on_host.shape[0]):
        for n, num_targets in enumerate(num_per_image):
            block = on_host[s, n, :, :num_targets]
            if not np.isfinite(block).all():
                raise NonFiniteError(blame(s, n))
            proposal, target = linear_sum_assignment(block)
            pairs.append(np.stack((np.full_like(proposal, s), np.full_like(proposal, n), proposal, target)))
    flat = torch.from_numpy(np.concatenate(pairs, axis=1).astype(np.int64))
    return Matches(*flat.to(cost.device, non_blocking=True))


def check_not_negative(**values: float) -> None:
    """Refuse a negative weight, or one that is not finite, by its name."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number of at least 0, got {value}")


def check_focal(focal_alpha: float, focal_gamma: float) -> None:
    """Refuse what makes no focal loss: alpha is a share, gamma an exponent that weakens easy examples."""
    check_not_negative(focal_gamma=focal_gamma)
    if not 0 <= focal_alpha <= 1:
        raise ValueError(f"focal_alpha must be between 0 and 1, got {focal_alpha}")


def focal_class_cost(logits: Tensor, labels: Tensor, focal_alpha: float, focal_gamma: float) -> Tensor:
    """The class cost (S, N, P, M) of logits (S, N, P, K) and labels (N, M), in float32 (semantics.md#matching)."""
    # Of the classes of the targets alone: most images have fewer objects than there are classes.
    index = labels[None, :, None, :].expand(logits.shape[0], -1, logits.shape[2], -1)
    p = logits.float().gather(3, index).sigmoid_()
    alpha, gamma = focal_alpha, focal_gamma
    negative = (1 - alpha) * p**gamma * -(1 - p + 1e-8).log()
    positive = alpha * (1 - p) ** gamma * -(p + 1e-8).log()
    return positive - negative


def blame(tensors: Mapping[str, Tensor], where: str, stage: int, image: int) -> str:
    """The message for a matching cost that is not finite: which of the tensors (S, N, ...) is, or else the last."""
    for name, tensor in tensors.items():
        if not tensor[stage, image].isfinite().all():
            return f"{where}: {name} of image {image} of the batch hold NaN or infinity"
    return f"{where}: {name} of image {image} of the batch overflow the matching cost"
