"""The values that pass between the decoder, the criterion and the selection of detections."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparse_rcnn.boxes import cxcywh_to_xyxy, whwh


@dataclass(frozen=True)
class DecodedQueries:
    """What one decoder layer says: ``logits`` (N, Q, K) and ``boxes_cxcywh_norm`` (N, Q, 4) float32.

    Boxes are centre and size over the width and height of the unpadded image.
    """

    logits: Tensor
    boxes_cxcywh_norm: Tensor

    def boxes_xyxy_abs(self, image_sizes_hw: Tensor) -> Tensor:
        """The boxes (N, Q, 4) as corners in pixels of images of these sizes (N, 2), not clipped to them."""
        return cxcywh_to_xyxy(self.boxes_cxcywh_norm) * whwh(image_sizes_hw)[:, None]
