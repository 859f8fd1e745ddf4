"""The loss of Faster R-CNN: proposals and regions, each compared with its sample."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparse_rcnn.criterion import Criterion, Losses, Share
from sparse_rcnn.faster_rcnn.losses import anchor_losses, roi_losses
from sparse_rcnn.matcher import check_not_negative
from sparse_rcnn.structures import Targets


class FasterRCNNCriterion(Criterion):
    """Cross-entropies and smooth L1 distances, all of weight 1 (arXiv 1506.01497, equation 1).

    A micro-batch's means over its sample count by its part of the images of the step. They are the means over the whole
    step where all images have as large a sample, which an image with few proposals lacks; and how a step is cut decides
    which numbers its samples are drawn with, so that a step is independent of how it is cut in expectation alone.

    Args:
        smooth_l1_beta: of both box losses: 0 is L1 as Detectron2 has it, torchvision has 1 / 9.
    """

    part_names = ("loss_objectness", "loss_rpn_box", "loss_class", "loss_box")
    has_stages = False
    output_kind = "regions"

    def __init__(self, smooth_l1_beta: float) -> None:
        super().__init__()
        check_not_negative(smooth_l1_beta=smooth_l1_beta)
        self.smooth_l1_beta = smooth_l1_beta

    def counts(self, targets: Targets) -> tuple[float, ...]:
        """The number of images."""
        return (len(targets),)

    def forward(self, output: Any, targets: Targets, image_sizes_hw: Tensor, share: Share) -> Losses:
        """Compare the samples that the detector drew.

        Args:
            output: a `FasterRCNNOutput` of the detector in training, which holds what is wanted of it.
            targets: of the N images.
            image_sizes_hw: not used.
            share: the images of the whole step per process.
        """
        assert output.anchors is not None, "the output of a detector in evaluation has no sample"
        parts = (*anchor_losses(output.anchors, self.smooth_l1_beta), *roi_losses(output.rois, self.smooth_l1_beta))
        weight = len(targets) / share[0]
        return Losses({name: weight * part[None] for name, part in zip(self.part_names, parts, strict=True)})
