"""The fixed spatial encoding of a padded feature map."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MaskSineEncoding(nn.Module):
    """DETR's sine encoding, counted over the cells that are not padding.

    A cell has the coordinates y and x, the cumulative counts of valid cells down its column and along its row, from 1,
    over the last count of the column or row, times 2 pi. Half of the channels encode y, half x, as interleaved sines
    and cosines. Unlike ``sparse_rcnn.positional_encoding.SineEncoding``, which takes the centres of the cells in the
    unpadded image, this is the encoding of the released models.

    Args:
        hidden_dim: C, a multiple of 4.
        temperature: ratio of the longest to the shortest wave length (10000).
    """

    offset = 0.0  # of a cell's place from its far edge, in cells

    def __init__(self, hidden_dim: int, temperature: float) -> None:
        super().__init__()
        if hidden_dim < 4 or hidden_dim % 4:
            raise ValueError(f"hidden_dim must be a positive multiple of 4, got {hidden_dim}")
        if not temperature > 1:
            raise ValueError(f"temperature must be above 1, got {temperature}")
        self.hidden_dim, self.temperature = hidden_dim, temperature

    def forward(self, mask: Tensor) -> Tensor:
        """A mask (N, h, w), True on padding, to the encoding (N, C, h, w) in float32."""
        valid = ~mask
        y = valid.cumsum(1, dtype=torch.float32)
        x = valid.cumsum(2, dtype=torch.float32)
        y = (y - self.offset) / (y[:, -1:, :] + 1e-6) * (2 * math.pi)
        x = (x - self.offset) / (x[:, :, -1:] + 1e-6) * (2 * math.pi)
        return torch.cat((self._waves(y), self._waves(x)), dim=3).permute(0, 3, 1, 2)

    def _waves(self, angle: Tensor) -> Tensor:
        """Angles (N, h, w) to (N, h, w, C / 2): even channels are sines, odd ones the cosines of the same waves."""
        num_features = self.hidden_dim // 2
        exponent = torch.arange(0, num_features, 2, dtype=torch.float32, device=angle.device) / num_features
        waves = angle[..., None] / self.temperature**exponent
        return torch.stack((waves.sin(), waves.cos()), dim=-1).flatten(-2)
