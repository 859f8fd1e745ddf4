"""The feature levels: maps of the backbone, brought to one width, and a coarser one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparse_rcnn.backbone import SmallNet

NUM_GROUPS = 32  # of the group norm


class BackboneLevels(nn.Module):
    """The last three maps of a bottom-up network, at strides 8, 16 and 32.

    Args:
        bottom_up: images (N, 3, H, W) to four maps at strides 4, 8, 16 and 32, of ``out_channels`` channels.
    """

    def __init__(self, bottom_up: nn.Module) -> None:
        super().__init__()
        if isinstance(bottom_up, SmallNet):
            # Of a map that is not read: a parameter without a gradient would stop distributed training.
            bottom_up.out_norms[0] = nn.Identity()
        self.bottom_up = bottom_up
        channels: Any = bottom_up.out_channels
        self.out_channels: list[int] = list(channels)[1:]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (N, 3, H, W) of any size to three maps; sizes are ceil(size / stride)."""
        maps: list[Tensor] = self.bottom_up(images)
        return maps[1:]


class LevelNorm(nn.GroupNorm):
    """Group norm that takes a map of a single cell too, whose groups may have one number each."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class LevelProjection(nn.Module):
    """Brings maps to C channels, and makes coarser levels of them.

    Each map has a 1x1 convolution and a group norm. The first further level is a 3x3 convolution of stride 2 on the
    last map itself, not on its projection; the next ones are made from the level before.

    Args:
        in_channels: of the maps.
        hidden_dim: C, a multiple of 32.
        num_levels: how many there are in the end, at least as many as maps.
    """

    def __init__(self, in_channels: Sequence[int], hidden_dim: int, num_levels: int) -> None:
        super().__init__()
        if hidden_dim < 1 or hidden_dim % NUM_GROUPS:
            raise ValueError(f"hidden_dim {hidden_dim} is not a multiple of {NUM_GROUPS}, the groups of its norm")
        if num_levels < len(in_channels):
            raise ValueError(f"num_levels must be at least {len(in_channels)}, the backbone's maps, got {num_levels}")
        self.num_levels = num_levels
        convolutions = [nn.Conv2d(channels, hidden_dim, 1) for channels in in_channels]
        channels = in_channels[-1]
        for _ in range(num_levels - len(in_channels)):
            convolutions.append(nn.Conv2d(channels, hidden_dim, 3, stride=2, padding=1))
            channels = hidden_dim
        self.levels = nn.ModuleList(nn.Sequential(c, LevelNorm(NUM_GROUPS, hidden_dim)) for c in convolutions)
        for convolution in convolutions:
            nn.init.xavier_uniform_(convolution.weight)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (N, C_i, h, w), fine to coarse, to ``num_levels`` maps (N, C, h, w)."""
        projected: list[Tensor] = []
        for i, level in enumerate(self.levels):
            source = maps[i] if i < len(maps) else maps[-1] if i == len(maps) else projected[-1]
            projected.append(level(source))
        return projected
