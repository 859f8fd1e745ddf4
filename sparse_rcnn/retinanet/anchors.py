"""Anchors of a pyramid whose strides are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator


class PyramidAnchors(nn.Module):
    """torchvision's anchors, at fixed strides.

    ``AnchorGenerator`` itself takes the padded size over the size of the map, floored, for the stride. That is less
    where the size of a map was rounded up: for p6 and p7 of 800 x 1120 it is 61 and 114 down, 62 and 124 across,
    instead of 64 and 128, and the anchors drift from the cells. Padding to multiples of 128 would mend it too, at the
    cost of a sixth more pixels for most photos.

    Args:
        sizes: of each level, the square root of the area of its smallest anchors, in pixels.
        num_scales: sizes of a level: size * 2 ** (i / num_scales), truncated to integers as torchvision's are.
        aspect_ratios: height / width, of every size.
        strides: of each level.
    """

    def __init__(
        self, sizes: Sequence[float], num_scales: int, aspect_ratios: Sequence[float], strides: Sequence[int]
    ) -> None:
        super().__init__()
        if len(sizes) != len(strides):
            raise ValueError(f"anchor_sizes needs one size a level, {len(strides)}, got {list(sizes)}")
        if not all(size >= 1 for size in sizes):
            raise ValueError(f"anchor_sizes must be at least 1 pixel, got {list(sizes)}")
        if num_scales < 1:
            raise ValueError(f"num_scales must be at least 1, got {num_scales}")
        if not aspect_ratios or not all(ratio > 0 for ratio in aspect_ratios):
            raise ValueError(f"aspect_ratios must be positive, and at least one, got {list(aspect_ratios)}")
        self.strides = tuple(strides)
        self.num_per_cell = num_scales * len(aspect_ratios)
        scaled = tuple(tuple(int(size * 2 ** (i / num_scales)) for i in range(num_scales)) for size in sizes)
        self._generator = AnchorGenerator(scaled, (tuple(aspect_ratios),) * len(sizes))
        for i, cell in enumerate(self._generator.cell_anchors):
            self.register_buffer(f"cell_{i}", cell, persistent=False)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (N, C, h, w) of each level to its anchors (h * w * A, 4), xyxy in pixels, float32, row by row."""
        device = maps[0].device
        cells = [self.get_buffer(f"cell_{i}").to(device, torch.float32) for i in range(len(self.strides))]
        self._generator.cell_anchors = cells
        grids = [list(m.shape[-2:]) for m in maps]
        anchors: list[Tensor] = self._generator.grid_anchors(grids, [[stride, stride] for stride in self.strides])
        return tuple(anchors)
