"""The parts that detectors on proposals share: input, pyramid, proposals and RoI pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from sparse_rcnn.detector_base import Detector
from sparse_rcnn.faster_rcnn.backbone import PooledFPNBackbone
from sparse_rcnn.faster_rcnn.proposal_network import ProposalNetwork
from sparse_rcnn.faster_rcnn.settings import check_positive
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.normalization import normalized
from sparse_rcnn.roi_pooler import prepared
from sparse_rcnn.structures import Targets

NUM_POOLED_LEVELS = 4  # p2..p5: p6 is for proposals alone

Truth = list[dict[str, Tensor]]
"""Of each image ``boxes`` (M_i, 4) and ``labels`` (M_i,), 1 + class: 0 is background."""


class ProposalDetector(Detector):
    """A detector that classifies and refines the boxes of a region proposal network.

    Args:
        num_classes: K.
        backbone: images (N, 3, H, W) to p2..p6.
        rpn: the maps to proposals.
        roi_pooler: p2..p5 and boxes (N, P, 4) to RoI features (N * P, C, S, S).
        max_detections: of an image (100).
        pixel_mean, pixel_std: of RGB in 0..255.
    """

    size_divisor = 32
    unit_mean: Tensor
    unit_std: Tensor

    def __init__(
        self,
        num_classes: int,
        backbone: PooledFPNBackbone,
        rpn: ProposalNetwork,
        roi_pooler: nn.Module,
        max_detections: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, max_detections=max_detections)
        if rpn.hidden_dim != backbone.hidden_dim:
            raise ValueError(f"hidden_dim is {backbone.hidden_dim} in the backbone and {rpn.hidden_dim} in rpn")
        if rpn.num_levels != len(backbone.strides):
            raise ValueError(f"rpn has anchors of {rpn.num_levels} levels, the backbone has {len(backbone.strides)}")
        self.num_classes, self.max_detections = num_classes, max_detections
        self.backbone = backbone
        self.rpn = rpn
        self.roi_pooler = roi_pooler
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        # In float64 until the end, so that 123.675 becomes the float32 of 0.485.
        self.register_buffer("unit_mean", torch.tensor([v / 255 for v in pixel_mean]).view(3, 1, 1), persistent=False)
        self.register_buffer("unit_std", torch.tensor([v / 255 for v in pixel_std]).view(3, 1, 1), persistent=False)
        # Recompute RoI pooling and the heads in the backward pass: RoI features are most of the memory. Same numbers.
        self.activation_checkpointing = False
        self.card: ModelCard | None = None

    def normalize(self, images: Tensor, image_sizes_hw: Tensor) -> Tensor:
        """Raw images (N, 3, H, W), 0..255, to normalised float32 ones whose padding is zero.

        As torchvision's detectors round: pixels are brought to 0..1 first.
        """
        return normalized(images.float() / 255, image_sizes_hw, self.unit_mean, self.unit_std)

    def pooled_pyramid(self, maps: Sequence[Tensor]) -> Any:
        """The maps that regions are pooled from, as the pooler reads them, for all calls of `on_rois`."""
        return prepared(self.roi_pooler, maps[:NUM_POOLED_LEVELS])

    def on_rois(
        self, head: Callable[[Tensor], tuple[Tensor, Tensor]], pyramid: Any, rois: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Logits and deltas, in float32, of the regions (R_i, 4) of all images, by a head of RoI features.

        Args:
            head: RoI features to logits and deltas.
            pyramid: from `pooled_pyramid`.
            rois: of each image.
        """
        counts = [len(boxes) for boxes in rois]
        # Poolers take as many boxes of each image; where all have the same number nothing is added.
        padded = pad_sequence(list(rois), batch_first=True)
        if padded.shape[1] == 0:
            padded = padded.new_zeros(len(rois), 1, 4)
        rows = torch.arange(padded.shape[1], device=padded.device)
        exists = (rows < torch.tensor(counts, device=padded.device)[:, None]).flatten()
        is_full = all(count == padded.shape[1] for count in counts)

        def run() -> tuple[Tensor, Tensor]:
            pooled = self.roi_pooler(pyramid, padded)
            return head(pooled if is_full else pooled[exists])

        if self.activation_checkpointing and torch.is_grad_enabled():
            logits, deltas = checkpoint(run, use_reentrant=False)
        else:
            logits, deltas = run()
        return logits.float(), deltas.float()

    def truth(self, targets: Targets | None) -> Truth | None:
        """The targets by image in training, and None otherwise.

        Raises:
            ValueError: none in training, whose samples are drawn by them.
        """
        if not self.training:
            return None
        if targets is None:
            raise ValueError("targets: a detector on proposals needs them in training, to sample by; eval() detects")
        return [
            {"boxes": boxes[:count].float(), "labels": labels[:count] + 1}
            for boxes, labels, count in zip(targets.boxes_xyxy_abs, targets.labels, targets.num_per_image, strict=True)
        ]


def sizes_of(image_sizes_hw: Tensor) -> list[tuple[int, int]]:
    """Sizes (N, 2) as torchvision's parts take them."""
    return [(h, w) for h, w in image_sizes_hw.tolist()]
