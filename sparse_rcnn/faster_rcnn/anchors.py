"""Anchors of every cell of a pyramid, at the strides of its maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList


class StridedAnchors(AnchorGenerator):
    """torchvision's anchors at fixed strides, in float32.

    torchvision takes the padded size divided by that of the map, rounded down, for the stride. With 800 x 1120 pixels
    p6 has 13 x 18 cells, and its anchors would be 61 pixels apart along one axis and 62 along the other, while the
    cells are 64 apart: p6 is every other cell of p5, the first included. With fixed strides a batch needs no more
    padding than the pyramid does.

    Args:
        sizes: of each level, the square root of the area of its anchors in pixels.
        aspect_ratios: height / width.
        strides: of the levels; None takes torchvision's quotient, for detectors that were trained with it.
    """

    def __init__(self, sizes: Sequence[float], aspect_ratios: Sequence[float], strides: Sequence[int] | None) -> None:
        if not sizes or not aspect_ratios or min(*sizes, *aspect_ratios) <= 0:
            raise ValueError(
                f"sizes and aspect_ratios must be positive numbers, got {list(sizes)} and {list(aspect_ratios)}"
            )
        if strides is not None and len(strides) != len(sizes):
            raise ValueError(f"sizes has {len(sizes)} levels, strides has {len(strides)}")
        super().__init__(tuple((size,) for size in sizes), (tuple(aspect_ratios),) * len(sizes))
        self.strides = None if strides is None else list(strides)

    @property
    def num_per_cell(self) -> int:
        """Anchors of a cell, the same on all levels."""
        num_per_cell: int = self.num_anchors_per_location()[0]
        return num_per_cell

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Anchors (A, 4) of each image, as xyxy in pixels, level by level and row by row: one tensor for all images."""
        grids = [m.shape[-2:] for m in feature_maps]
        if self.strides is None:
            height, width = image_list.tensors.shape[-2:]
            strides = [[height // h, width // w] for h, w in grids]
        else:
            strides = [[stride, stride] for stride in self.strides]
        # Not in the maps' type: bfloat16 would round a coordinate of 700 pixels by two.
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        return [torch.cat(self.grid_anchors(grids, strides))] * len(image_list.image_sizes)
