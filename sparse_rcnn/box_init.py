"""Layouts of the proposal boxes before training (paper table 5): each gives (P, 4) cxcywh relative to the image."""

from __future__ import annotations

import torch
from torch import Tensor


class ImageInit:
    """Every box is the whole image (the paper's default)."""

    def __call__(self, num_proposals: int) -> Tensor:
        return torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(num_proposals, 1)


class CenterInit:
    """Every box lies at the centre of the image.

    Args:
        size: its width and height, relative to the image (0.1).
    """

    def __init__(self, size: float) -> None:
        if not 0 < size <= 1:
            raise ValueError(f"size must be above 0 and at most 1, got {size}")
        self.size = size

    def __call__(self, num_proposals: int) -> Tensor:
        return torch.tensor([0.5, 0.5, self.size, self.size]).repeat(num_proposals, 1)


class GridInit:
    """A regular grid that covers the image without overlap.

    The paper names G-CNN, whose grid overlaps at several scales, and says no more; the plainest reading is one scale
    of P boxes. Rows are as many as the rounded root of P; where P is no product of rows and columns, the lower rows
    hold one box more, and every row fills the width.
    """

    def __call__(self, num_proposals: int) -> Tensor:
        num_rows = round(num_proposals**0.5)
        boxes = []
        for row in range(num_rows):
            num_columns = (num_proposals + row) // num_rows  # these sum up to P
            for column in range(num_columns):
                center = [(column + 0.5) / num_columns, (row + 0.5) / num_rows]
                boxes.append([*center, 1 / num_columns, 1 / num_rows])
        return torch.tensor(boxes)


class RandomInit:
    """Centre, width and height drawn from one Gaussian, limited to the image.

    The paper gives no mean and deviation: YAML states ours. Centres end within the image, sizes within
    ``min_size`` and 1, so that no box starts without an area.

    Args:
        mean: of all four coordinates, relative to the image.
        std: their standard deviation.
        min_size: the smallest width and height.
    """

    def __init__(self, mean: float, std: float, min_size: float) -> None:
        if not (0 <= mean <= 1 and std >= 0 and 0 < min_size <= 1):
            raise ValueError(
                "mean must be within 0 and 1, std at least 0, min_size above 0 and at most 1, "
                f"got {mean}, {std} and {min_size}"
            )
        self.mean, self.std, self.min_size = mean, std, min_size

    def __call__(self, num_proposals: int) -> Tensor:
        drawn = self.mean + self.std * torch.randn(num_proposals, 4)
        low = torch.tensor([0.0, 0.0, self.min_size, self.min_size])
        return drawn.clamp(max=1.0).maximum(low)
