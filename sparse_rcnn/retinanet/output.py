"""The output of RetinaNet."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnchorOutput:
    """Classes and boxes of all anchors, level by level, row by row, anchor by anchor.

    Shapes: ``logits`` (N, A, K) and ``deltas`` (N, A, 4) from anchor to box; ``level_anchors_xyxy_abs`` has the anchors
    (A_l, 4) of each level, in pixels of the resized image, float32. The A_l sum up to A.
    """

    logits: Tensor
    deltas: Tensor
    level_anchors_xyxy_abs: tuple[Tensor, ...]

    @property
    def anchors_xyxy_abs(self) -> Tensor:
        """(A, 4), of all levels."""
        return torch.cat(self.level_anchors_xyxy_abs)

    @property
    def num_per_level(self) -> list[int]:
        return [len(anchors) for anchors in self.level_anchors_xyxy_abs]
