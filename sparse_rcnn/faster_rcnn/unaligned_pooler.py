"""RoI pooling as torchvision's released detectors were trained with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from sparse_rcnn.roi_pooler import RoIPooler


class UnalignedRoIAlign(RoIPooler):
    """torchvision's MultiScaleRoIAlign: without the half-pixel shift of the suite's poolers.

    It samples half a cell of the map further to the right and bottom, and boxes smaller than one cell are pooled as one
    cell. A detector that was trained with the one pooler loses accuracy with the other.

    Args:
        output_size: side S of the pooled map (7).
        sampling_ratio: samples per bin and axis (2).
    """

    def forward(self, maps: Sequence[Tensor], boxes_xyxy_abs: Tensor) -> Tensor:
        """Maps p2.. (N, C, h, w) at strides 4, 8, ... and finite boxes (N, P, 4) to (N * P, C, S, S)."""
        named = {str(i): m for i, m in enumerate(maps)}
        # A new one each time: it keeps the scales of the first images that it meets.
        align = MultiScaleRoIAlign(list(named), self.output_size, self.sampling_ratio)
        size_hw = (4 * maps[0].shape[2], 4 * maps[0].shape[3])
        dtype = torch.promote_types(maps[0].dtype, torch.float32)
        named = {name: m.to(dtype) for name, m in named.items()}
        pooled: Tensor = align(named, list(boxes_xyxy_abs.detach().to(dtype)), [size_hw] * len(boxes_xyxy_abs))
        return pooled.to(maps[0].dtype)
