"""What is added to the feature maps before RoI pooling (paper table 9)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparse_rcnn.roi_pooler import MIN_LEVEL


class NoEncoding(nn.Module):
    """The maps as they are (the paper's default)."""

    def forward(self, maps: Sequence[Tensor], image_sizes_hw: Tensor) -> list[Tensor]:
        """Maps p2.. (N, C, h, w) to the same."""
        return list(maps)


class SineEncoding(nn.Module):
    """Adds DETR's fixed two-dimensional sine encoding to every map (table 9, row 3).

    Half of the channels encode y, half x. A position is that of the pixel's centre relative to its own unpadded
    image, from 0 to 2 pi, so that all levels agree on a place and padding changes nothing.

    Args:
        hidden_dim: C, a multiple of 4.
        temperature: ratio of the longest to the shortest wave length (10000).
    """

    def __init__(self, hidden_dim: int, temperature: float) -> None:
        super().__init__()
        if hidden_dim % 4:
            raise ValueError(f"hidden_dim {hidden_dim} is not a multiple of 4")
        if not temperature > 1:
            raise ValueError(f"temperature must be above 1, got {temperature}")
        self.hidden_dim, self.temperature = hidden_dim, temperature

    def forward(self, maps: Sequence[Tensor], image_sizes_hw: Tensor) -> list[Tensor]:
        """Maps p2.. (N, C, h, w) at strides 4, 8, ... and image sizes (N, 2) to maps of the same shapes."""
        return [m + self.encoding(m, 2 ** (MIN_LEVEL + i), image_sizes_hw).to(m.dtype) for i, m in enumerate(maps)]

    def encoding(self, feature_map: Tensor, stride: int, image_sizes_hw: Tensor) -> Tensor:
        """The encoding (N, C, h, w) of one map, in float32."""
        height, width = feature_map.shape[-2:]
        parts = []
        for axis, length in enumerate((height, width)):
            centers = (torch.arange(length, device=feature_map.device) + 0.5) * stride
            angle = 2 * math.pi * centers / image_sizes_hw[:, axis, None]
            exponent = torch.arange(self.hidden_dim // 4, device=feature_map.device) / (self.hidden_dim // 4)
            waves = angle[..., None] / self.temperature**exponent
            parts.append(torch.stack((waves.sin(), waves.cos()), dim=-1).flatten(-2).transpose(1, 2))
        y, x = parts
        return torch.cat((y[..., :, None].expand(-1, -1, -1, width), x[..., None, :].expand(-1, -1, height, -1)), dim=1)
