"""The predictions of a stage: classes, and one box for all of them."""

from __future__ import annotations

from torch import Tensor, nn


class ClassAgnosticPredictor(nn.Module):
    """Two linear layers with the names of torchvision's FastRCNNPredictor.

    Args:
        in_channels: of the features of a region.
        num_classes: K; there are K + 1 logits, background first.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes + 1)
        self.bbox_pred = nn.Linear(in_channels, 4)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (R, C) to logits (R, K + 1) and deltas (R, 4)."""
        return self.cls_score(features), self.bbox_pred(features)
