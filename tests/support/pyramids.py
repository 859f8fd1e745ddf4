"""Small pyramids, and boxes of every kind to pool from them."""

from __future__ import annotations

import torch
from torch import Tensor

SIDE = 128  # of the image: maps of 32, 16, 8 and 4 pixels


def maps_of(
    num_images: int = 2, num_channels: int = 3, side: int = SIDE, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(num_images, num_channels, side // s, side // s + 1) for s in (4, 8, 16, 32)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def boxes_of_every_kind() -> Tensor:
    """Usual, large, tiny, empty, inverted, outside, at the rim: (2, 12, 4), some on every level."""
    boxes = [
        [10.0, 20, 60, 70],  # p2
        [3.0, 5, 160, 120],  # p3
        [-100.0, -60, 200, 190],  # p4
        [-300.0, -200, 400, 500],  # p5
        [20.5, 30.25, 21.0, 30.5],
        [40.0, 40, 40, 40],  # a point
        [40.0, 10, 40, 90],  # a line
        [70.0, 20, 30, 80],  # negative width: no level
        [30.0, 80, 70, 20],  # negative height: no level
        [90.0, 80, 20, 10],  # both negative: a positive area
        [500.0, 500, 560, 540],  # outside
        [-4.0, -4, 2, 128],  # across the rim
    ]
    one = torch.tensor(boxes, dtype=torch.float64)
    return torch.stack((one, one.flip(0) + 1.3))
