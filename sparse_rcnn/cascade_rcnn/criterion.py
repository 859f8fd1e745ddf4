"""The loss of Cascade R-CNN: proposals, and the regions of each stage."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparse_rcnn.criterion import Losses, Share
from sparse_rcnn.faster_rcnn.criterion import FasterRCNNCriterion
from sparse_rcnn.faster_rcnn.losses import anchor_losses, roi_losses
from sparse_rcnn.structures import Targets


class CascadeRCNNCriterion(FasterRCNNCriterion):
    """Cross-entropies and smooth L1 distances, all of weight 1, at every stage.

    The losses of proposals, which come before the stages, are in the entry of the first one. Micro-batches add up as
    those of `FasterRCNNCriterion` do: exactly up to the samples that are drawn.

    Args:
        smooth_l1_beta: of all box losses: 0 is L1 as Detectron2 has it.
    """

    has_stages = True
    output_kind = "cascade"

    def forward(self, output: Any, targets: Targets, image_sizes_hw: Tensor, share: Share) -> Losses:
        """Compare the samples that the detector drew.

        Args:
            output: a `CascadeOutput` of the detector in training, which holds what is wanted of it.
            targets: of the N images.
            image_sizes_hw: not used.
            share: the images of the whole step per process.
        """
        assert output.anchors is not None, "the output of a detector in evaluation has no sample"
        of_anchors = anchor_losses(output.anchors, self.smooth_l1_beta)
        of_stages = [roi_losses(stage, self.smooth_l1_beta) for stage in output.stages]
        none = torch.zeros_like(of_anchors[0])
        columns = [
            *([part, *[none] * (len(of_stages) - 1)] for part in of_anchors),
            *(list(parts) for parts in zip(*of_stages, strict=True)),
        ]
        weight = len(targets) / share[0]
        return Losses({name: weight * torch.stack(parts) for name, parts in zip(self.part_names, columns, strict=True)})
