"""The learned proposals: boxes and features, and the ways to lay out the boxes before training."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from sparse_rcnn.boxes import cxcywh_to_xyxy, whwh


class BoxInit(Protocol):
    """Where the proposal boxes stand before training: ``num_proposals`` to (P, 4) cxcywh in [0, 1]."""

    def __call__(self, num_proposals: int) -> Tensor: ...


class LearnedProposals(nn.Module):
    """A fixed set of boxes and features, learned as ordinary parameters (paper section 3.2, semantics.md#proposals).

    Args:
        num_proposals: P.
        hidden_dim: C.
        init: the layout of the boxes at the start.
    """

    def __init__(self, num_proposals: int, hidden_dim: int, init: BoxInit) -> None:
        super().__init__()
        if num_proposals < 1:
            raise ValueError(f"num_proposals must be at least 1, got {num_proposals}")
        self.num_proposals, self.hidden_dim = num_proposals, hidden_dim
        self.boxes_cxcywh_norm = nn.Parameter(init(num_proposals))
        self.features: nn.Parameter | None = nn.Parameter(torch.randn(num_proposals, hidden_dim))

    def drop_features(self) -> None:
        """Learn boxes alone, for heads that read no proposal features."""
        self.features = None

    def forward(self, image_sizes_hw: Tensor) -> tuple[Tensor, Tensor | None]:
        """Image sizes (N, 2) to boxes (N, P, 4), absolute xyxy of each unpadded image, and features (N, P, C)."""
        scale = whwh(image_sizes_hw)
        boxes_xyxy_abs = cxcywh_to_xyxy(self.boxes_cxcywh_norm[None] * scale[:, None])
        if self.features is None:
            return boxes_xyxy_abs, None
        # Not len(scale), which would fix the number of images in an exported graph.
        return boxes_xyxy_abs, self.features[None].expand(scale.shape[0], -1, -1)
