"""Which cells of feature maps lie on the padding of their image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def image_padding_mask(image_sizes_hw: Tensor, padded_hw: tuple[int, int]) -> Tensor:
    """Unpadded sizes (N, 2) to a mask (N, H, W) that is True on padding."""
    height, width = padded_hw
    rows = torch.arange(height, device=image_sizes_hw.device) < image_sizes_hw[:, :1]
    columns = torch.arange(width, device=image_sizes_hw.device) < image_sizes_hw[:, 1:]
    return ~(rows[:, :, None] & columns[:, None, :])


def level_padding_mask(padding_mask: Tensor, shape_hw: tuple[int, int]) -> Tensor:
    """The mask (N, H, W) of images to that (N, h, w) of a map: the nearest pixel by the ratio of sizes."""
    return F.interpolate(padding_mask[:, None].float(), size=shape_hw, mode="nearest")[:, 0].bool()


def valid_ratio_wh(padding_mask: Tensor) -> Tensor:
    """The share of a map's width and height that holds the image: a mask (N, h, w) to (N, 2)."""
    valid = (~padding_mask).float()
    return torch.stack((valid[:, 0].mean(1), valid[:, :, 0].mean(1)), dim=1)
