"""Where a padded batch has no image, at the resolution of its pixels and of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def padding_mask(image_sizes_hw: Tensor, height: int, width: int) -> Tensor:
    """Image sizes (N, 2) to a boolean mask (N, height, width), True on the padding at the right and bottom."""
    rows = torch.arange(height, device=image_sizes_hw.device) >= image_sizes_hw[:, :1]
    columns = torch.arange(width, device=image_sizes_hw.device) >= image_sizes_hw[:, 1:]
    return rows[:, :, None] | columns[:, None, :]


def at_resolution(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask (N, H, W) at the size of a feature map: cell i takes pixel floor(i * H / height)."""
    # By the ratio of the sizes and not by the stride: a map is ceil(H / stride) high.
    return F.interpolate(mask[:, None].float(), size=(height, width), mode="nearest")[:, 0].bool()
