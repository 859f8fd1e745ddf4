"""The fixed encoding of positions that Deformable DETR adds to its queries."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

EPSILON = 1e-6


class CellCentreSineEncoding(nn.Module):
    """Sine encoding of the centres of cells, relative to the part of a map that holds the image.

    Row i of h valid ones is at (i + 0.5) / h * 2 pi, columns alike. DETR's encoding counts from the cells' far edges
    instead, (i + 1) / h. Half of the channels encode y, the other half x; sine and cosine alternate.

    Args:
        hidden_dim: C, a multiple of 4.
        temperature: ratio of the longest to the shortest wave length (10000).
    """

    def __init__(self, hidden_dim: int, temperature: float) -> None:
        super().__init__()
        if hidden_dim < 1 or hidden_dim % 4:
            raise ValueError(f"hidden_dim {hidden_dim} is not a multiple of 4")
        if not temperature > 1:
            raise ValueError(f"temperature must be above 1, got {temperature}")
        self.hidden_dim, self.temperature = hidden_dim, temperature

    @torch.no_grad()
    def forward(self, padding_mask: Tensor) -> Tensor:
        """A mask (N, h, w) that is True on padding to the encoding (N, C, h, w), in float32."""
        valid = (~padding_mask).float()
        y, x = (self._waves(valid.cumsum(dim), dim) for dim in (1, 2))
        return torch.cat((y, x), dim=3).permute(0, 3, 1, 2)

    def _waves(self, counts: Tensor, dim: int) -> Tensor:
        """Valid cells (N, h, w) up to and with each cell, along a dimension, to waves (N, h, w, C / 2)."""
        last = counts.narrow(dim, counts.shape[dim] - 1, 1)
        angles = (counts - 0.5) / (last + EPSILON) * (2 * math.pi)
        num_features = self.hidden_dim // 2
        pair = torch.arange(num_features, device=counts.device, dtype=torch.float32).div(2, rounding_mode="floor")
        scaled = angles[..., None] / self.temperature ** (2 * pair / num_features)
        return torch.stack((scaled[..., 0::2].sin(), scaled[..., 1::2].cos()), dim=4).flatten(3)
