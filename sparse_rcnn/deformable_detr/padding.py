"""The share of a feature map that holds its image."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_ratio_wh(padding_mask: Tensor) -> Tensor:
    """The share of a map's width and height that holds the image: a mask (N, h, w) to (N, 2)."""
    valid = (~padding_mask).float()
    return torch.stack((valid[:, 0].mean(1), valid[:, :, 0].mean(1)), dim=1)
