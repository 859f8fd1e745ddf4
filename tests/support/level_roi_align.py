"""RoI pooling by torchvision's RoIAlign, level by level: another way to the numbers of the suite's pooler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from sparse_rcnn.roi_pooler import assign_levels


def level_roi_align(
    maps: Sequence[Tensor], boxes_xyxy_abs: Tensor, output_size: int = 7, sampling_ratio: int = 2
) -> Tensor:
    """Maps p2.. (N, C, h, w) at strides 4, 8, ... and finite boxes (N, P, 4) to (N * P, C, S, S)."""
    boxes = boxes_xyxy_abs.detach()
    levels = assign_levels(boxes, 2, 1 + len(maps)).flatten()
    image = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])
    rois = torch.cat((image[:, None].to(boxes.dtype), boxes.flatten(0, 1)), dim=1)
    pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], output_size, output_size)
    for level, feature_map in enumerate(maps, 2):
        index = (levels == level).nonzero()[:, 0]
        part = roi_align(feature_map, rois[index], output_size, 1 / 2**level, sampling_ratio, aligned=True)
        pooled = pooled.index_copy(0, index, part)
    return pooled
