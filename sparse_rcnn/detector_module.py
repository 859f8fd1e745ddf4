"""The interface of a detector to training, evaluation, prediction and weights files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from sparse_rcnn.class_rows import ClassRows
from sparse_rcnn.errors import UserError
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.structures import Detections


class DetectorModule(nn.Module):
    """A detector: images in, an output that its criterion and its own ``detections`` read.

    Called as ``detector(images, image_sizes_hw, targets)`` with raw, zero-padded images (N, 3, H, W), their sizes
    (N, 2) and, in training, their `Targets`: a detector that samples by them does so within its forward pass, others
    ignore them. Stages are an optional capability: outputs that are refined one after the other, decoder layers
    included.

    Attributes:
        card: set by ``load_detector`` and by the trainer of the detector; None otherwise.
        pixel_mean: a buffer, on the detector's device.
        backbone: images to maps; its ``bottom_up`` is the network that pretrained weights are of.
        size_divisor: H and W of a batch are its multiples; 1 pads to the largest image of the batch alone.
        has_stages: whether the output has several stages.
        output_kind: the name of the kind of output; a criterion of the same kind reads it. Empty: any may.
        num_classes: K.
        max_detections: the largest number of detections of an image.
        activation_checkpointing: recompute parts of the forward pass in the backward pass: less memory, same numbers.
    """

    card: ModelCard | None
    pixel_mean: Tensor
    backbone: Any
    size_divisor: int
    has_stages: bool
    output_kind: str = ""
    num_classes: int
    max_detections: int
    activation_checkpointing: bool

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

    def stage_boxes(self, output: Any, image_sizes_hw: Tensor, original_sizes_hw: Tensor) -> list[list[Detections]]:
        """The boxes of each image by stage, each with its best class, for pictures: box i of a stage becomes box i of
        the next, so they are not in the order of their scores.

        A detector without stages gives its detections, as one stage.
        """
        return [self.detections(output, image_sizes_hw, original_sizes_hw)]

    def start_boxes(self, image_sizes_hw: Tensor, original_sizes_hw: Tensor) -> Tensor | None:
        """The learned boxes (N, P, 4) that the first stage refines, in pixels of the original images; None without."""
        return None

    def recording_responses(self) -> AbstractContextManager[Sequence[Tensor]]:
        """Collect how much each stage's head leaves of the positions of its RoI features, (N, P, h, w) a stage.

        The forward pass within the context fills the list, which stays empty where a detector has no such head.
        """
        return nullcontext([])

    def forward_shapes(self, images: Tensor, image_sizes_hw: Tensor) -> Any:
        """The forward pass as far as shapes alone decide it, on the meta device, to count its FLOPs.

        Parts that depend on values (sampling, NMS) take their largest size.
        """
        return self(images, image_sizes_hw)

    def graph_outputs(self, output: Any, image_sizes_hw: Tensor, outputs: str) -> dict[str, Tensor]:
        """Named tensors of fixed sizes for an exported graph (``export.py``), from an output of one image.

        Args:
            output: of the forward pass.
            image_sizes_hw: (1, 2), in whose pixels boxes are given.
            outputs: ``detections`` (``boxes_xyxy_abs``, ``scores``, ``labels``, best first) or ``stages``.

        Raises:
            UserError: the detector has none; says why.
        """
        raise UserError(
            f"a {type(self).__name__} cannot be exported: the number of its detections depends on values (NMS), or its "
            "fixed outputs are not written; Sparse R-CNN can"
        )

    def head_modules(self) -> list[nn.Module]:
        """The repeated modules behind the backbone, stages or layers, each called on its own, for torch.compile; empty
        where a detector has none.
        """
        return []

    def class_tensors(self) -> Mapping[str, ClassRows]:
        """Names of the tensors that have rows of classes, and which they are; empty where a detector names none."""
        return {}

    def proposal_tensors(self) -> set[str]:
        """Names of the tensors that have one row per learned proposal or query."""
        return set()
