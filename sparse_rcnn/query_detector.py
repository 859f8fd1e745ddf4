"""The common parts of DETR and Deformable DETR: their input, and the boxes of their queries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparse_rcnn.detector_base import Detector
from sparse_rcnn.normalization import normalized
from sparse_rcnn.query_boxes import QueryBoxes, best_class_of_queries
from sparse_rcnn.structures import Detections


class QueryDetector(Detector):
    """A detector whose decoder layers each give a class and a box to every query of a learned table.

    A batch is padded to its largest image alone, as the authors do: what is found in an image changes with its padding.

    Args:
        pixel_mean, pixel_std: of RGB in 0..255 (semantics.md#input).
    """

    size_divisor = 1
    has_stages = True
    pixel_std: Tensor
    unit_mean: Tensor
    unit_std: Tensor

    def __init__(self, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)
        # In float64 until the end, so that 123.675 becomes the float32 of 0.485.
        self.register_buffer("unit_mean", torch.tensor([v / 255 for v in pixel_mean]).view(3, 1, 1), persistent=False)
        self.register_buffer("unit_std", torch.tensor([v / 255 for v in pixel_std]).view(3, 1, 1), persistent=False)
        self.card = None

    def proposal_tensors(self) -> set[str]:
        return {"query_embed.weight"}

    def stage_boxes(
        self, output: Sequence[QueryBoxes], image_sizes_hw: Tensor, original_sizes_hw: Tensor
    ) -> list[list[Detections]]:
        return [best_class_of_queries(layer, original_sizes_hw) for layer in output]

    def normalize(self, images: Tensor, image_sizes_hw: Tensor) -> Tensor:
        """Raw images (N, 3, H, W), 0..255, to normalised float32 ones whose padding is zero.

        As the authors round: pixels are brought to 0..1 first. In 0..255, as ``SparseRCNN.normalize`` has it, the
        difference is 5e-7, and 7e-5 in the logits of six layers, several times the noise of the reference.
        """
        return normalized(images.float() / 255, image_sizes_hw, self.unit_mean, self.unit_std)
