"""The interface of a detector to training, evaluation, prediction and weights files."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.structures import Detections


class DetectorModule(nn.Module):
    """A detector; ``sparse_rcnn.detector`` is one.

    Called with raw, zero-padded images (N, 3, H, W) and their sizes (N, 2), it gives an output that its criterion and
    its own ``detections`` read. Stages are an optional capability: outputs that are refined one after the other.

    Attributes:
        card: set by ``load_detector`` and by whoever trains the detector; None where nobody did.
        pixel_mean: a buffer, on the detector's device.
        backbone: images to maps; its ``bottom_up`` is the network that pretrained weights are of.
        size_divisor: H and W of a batch are its multiples.
        num_classes: K.
        has_stages: whether the output has several stages.
        proposals, stages: of a detector with stages that starts from learned boxes.
    """

    card: ModelCard | None
    pixel_mean: Tensor
    backbone: Any
    size_divisor: int
    has_stages: bool
    proposals: nn.Module
    stages: nn.ModuleList

    @property
    def num_classes(self) -> int:
        """The number of classes that are told apart."""
        raise NotImplementedError

    @property
    def max_detections(self) -> int:
        """The largest number of detections of an image."""
        raise NotImplementedError

    def detections(self, output: Any, image_sizes_hw: Tensor, original_sizes_hw: Tensor) -> list[Detections]:
        """The detections of each image, in pixels of the original image, on the CPU, best score first.

        Args:
            output: of N images.
            image_sizes_hw, original_sizes_hw: (N, 2) sizes that went in, unpadded, and those of the files.
        """
        raise NotImplementedError

    def stage_detections(
        self, output: Any, image_sizes_hw: Tensor, original_sizes_hw: Tensor
    ) -> list[list[Detections]]:
        """The detections of each image by stage, the last of which is the detector's own."""
        return [self.detections(output, image_sizes_hw, original_sizes_hw)]

    def class_tensors(self) -> set[str]:
        """Names of the tensors that have one row per class; none of a detector that does not say."""
        return set()

    def proposal_tensors(self) -> set[str]:
        """Names of the tensors that have one row per learned proposal or query."""
        return set()
