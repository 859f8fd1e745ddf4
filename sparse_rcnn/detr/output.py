"""The output of a decoder layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparse_rcnn.boxes import cxcywh_to_xyxy, whwh


@dataclass(frozen=True)
class QueryOutput:
    """Class logits and boxes of the object queries.

    Shapes: ``logits`` (N, Q, K + 1), the last of which is 'no object'; ``boxes_cxcywh_norm`` (N, Q, 4) float32, over
    the width and height of the unpadded image, each within 0 and 1.
    """

    logits: Tensor
    boxes_cxcywh_norm: Tensor

    def boxes_xyxy_abs(self, sizes_hw: Tensor) -> Tensor:
        """The boxes (N, Q, 4) in pixels of images of the sizes (N, 2); they are not clipped to them."""
        return cxcywh_to_xyxy(self.boxes_cxcywh_norm) * whwh(sizes_hw)[:, None]

    @property
    def class_probabilities(self) -> Tensor:
        """(N, Q, K): the softmax over all logits, without 'no object'."""
        return self.logits.float().softmax(-1)[..., :-1]
