"""The feature pyramid of two-stage detectors: p2..p5, and p6 by max pooling for proposals."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool


class PooledFPNBackbone(nn.Module):
    """A bottom-up network and torchvision's feature pyramid on its four maps, with every other cell of p5 as p6.

    Args:
        bottom_up: images to maps at strides 4, 8, 16 and 32, with ``out_channels``.
        hidden_dim: channels of all maps that leave.
    """

    strides = (4, 8, 16, 32, 64)

    def __init__(self, bottom_up: nn.Module, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.bottom_up = bottom_up
        channels: Any = bottom_up.out_channels
        self.fpn = FeaturePyramidNetwork(channels, hidden_dim, extra_blocks=LastLevelMaxPool())

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (N, 3, H, W), H and W multiples of 32, to p2..p6, each (N, hidden_dim, h, w)."""
        maps = self.bottom_up(images)
        return list(self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps))).values())
