"""The outputs of detectors that classify regions of interest."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SampledAnchors:
    """The predictions for the anchors that a training step samples, of all images of a batch.

    Shapes: ``objectness`` (A,), logits; ``labels`` (A,), 1.0 for an object and 0.0 for background; ``deltas`` and
    ``wanted_deltas`` (B, 4), of the B anchors with an object.
    """

    objectness: Tensor
    labels: Tensor
    deltas: Tensor
    wanted_deltas: Tensor


@dataclass(frozen=True)
class RoIOutput:
    """Regions of interest, of all images of a batch in their order, and the predictions for them.

    Shapes, of R regions in total: ``boxes_xyxy_abs``, for each image (R_i, 4) in pixels of the resized image, detached;
    ``logits`` (R, K + 1), background first; ``deltas`` (R, 4 * (K + 1)), or (R, 4) where they are the same for all
    classes. In training ``labels`` (R,), 0 for background and 1 + class otherwise, and ``wanted_deltas`` (R, 4), of
    which the rows of background mean nothing.
    """

    boxes_xyxy_abs: tuple[Tensor, ...]
    logits: Tensor
    deltas: Tensor
    labels: Tensor | None
    wanted_deltas: Tensor | None

    @property
    def num_per_image(self) -> list[int]:
        return [len(boxes) for boxes in self.boxes_xyxy_abs]


@dataclass(frozen=True)
class FasterRCNNOutput:
    """One output of regions, and in training the sampled anchors of the proposal network."""

    rois: RoIOutput
    anchors: SampledAnchors | None
