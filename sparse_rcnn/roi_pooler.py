"""RoI features from a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align


def assign_levels(boxes_xyxy_abs: Tensor, min_level: int, max_level: int) -> Tensor:
    """Pyramid level of each box (..., 4): floor(4 + log2(sqrt(area) / 224 + 1e-8)), clamped (spec 5).

    A box whose width and height have different signs has a negative area and belongs to no level: -1.
    """
    x1, y1, x2, y2 = boxes_xyxy_abs.unbind(-1)
    area = (x2 - x1) * (y2 - y1)
    level = torch.floor(4 + torch.log2(area.clamp(min=0).sqrt() / 224 + 1e-8)).clamp(min_level, max_level)
    return torch.where(area < 0, -1, level).to(torch.int64)


class MultiLevelRoIAlign(nn.Module):
    """RoIAlign on the pyramid level that fits the size of each box (spec 5). Boxes get no gradient.

    Args:
        output_size: side of the pooled map (7).
        sampling_ratio: samples per bin and axis (2).
    """

    min_level = 2

    def __init__(self, output_size: int, sampling_ratio: int) -> None:
        super().__init__()
        if output_size < 1 or sampling_ratio < 1:
            raise ValueError(
                f"output_size and sampling_ratio must be at least 1, got {output_size} and {sampling_ratio}"
            )
        self.output_size, self.sampling_ratio = output_size, sampling_ratio

    def forward(self, maps: Sequence[Tensor], boxes_xyxy_abs: Tensor) -> Tensor:
        """Maps p2.. (N, C, h, w) at strides 4, 8, ... and boxes (N, P, 4) to (N * P, C, S, S)."""
        boxes = boxes_xyxy_abs.detach()
        num_images, num_proposals = boxes.shape[:2]
        levels = assign_levels(boxes, self.min_level, self.min_level + len(maps) - 1).flatten()
        image_index = torch.arange(num_images, device=boxes.device).repeat_interleave(num_proposals)
        rois = torch.cat((image_index[:, None].to(boxes.dtype), boxes.flatten(0, 1)), dim=1)
        size = self.output_size
        pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], size, size)
        for i, feature_map in enumerate(maps):
            index = (levels == self.min_level + i).nonzero()[:, 0]
            stride = 2 ** (self.min_level + i)
            part = roi_align(
                feature_map, rois[index].to(feature_map.dtype), size, 1 / stride, self.sampling_ratio, aligned=True
            )
            pooled = pooled.index_copy(0, index, part.to(pooled.dtype))
        return pooled
