"""RetinaNet: images in, classes and boxes at every anchor out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.detection.retinanet import RetinaNetHead

from sparse_rcnn.class_rows import ClassRows
from sparse_rcnn.detector_base import Detector
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.normalization import normalized
from sparse_rcnn.retinanet.anchors import PyramidAnchors
from sparse_rcnn.retinanet.backbone import RetinaNetBackbone
from sparse_rcnn.retinanet.output import AnchorOutput
from sparse_rcnn.retinanet.postprocess import detections_of_anchors
from sparse_rcnn.structures import Detections, Targets

CLASS_LAYER = "head.classification_head.cls_logits"


class RetinaNet(Detector):
    """The detector of arXiv 1708.02002: focal loss at every anchor of a pyramid, NMS at the end.

    The head is torchvision's: four 3x3 convolutions without norm for the classes and four for the boxes, shared by the
    levels; their last layers start at N(0, 0.01).

    Args:
        num_classes: K.
        backbone: images to p3..p7.
        anchor_sizes, num_scales, aspect_ratios: as in `PyramidAnchors`; 32 to 512, 3, and 1:2, 1:1, 2:1 in the paper.
        prior_probability: of a class at an anchor, before training (0.01).
        tower_weight_std: of the weights of the four convolutions, before training: 0.01 at 256 channels. A convolution
            then passes on std * sqrt(9 * C / 2) = 0.34 of what it gets, and of 64 channels 0.17, 0.0008 after four:
            next to no gradient, and a long plateau at the start.
        score_threshold, num_candidates, nms_threshold, max_detections: as in `detections_of_anchors`; 0.05, 1000, 0.5
            and 100 in the paper.
        pixel_mean, pixel_std: of RGB in 0..255 (semantics.md#input).
    """

    size_divisor = 32
    has_stages = False
    output_kind = "anchors"
    pixel_std: Tensor

    def __init__(
        self,
        num_classes: int,
        backbone: RetinaNetBackbone,
        anchor_sizes: Sequence[float],
        num_scales: int,
        aspect_ratios: Sequence[float],
        prior_probability: float,
        tower_weight_std: float,
        score_threshold: float,
        num_candidates: int,
        nms_threshold: float,
        max_detections: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        for name, number in (
            ("num_classes", num_classes),
            ("num_candidates", num_candidates),
            ("max_detections", max_detections),
        ):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        for name, share in (("score_threshold", score_threshold), ("nms_threshold", nms_threshold)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {share}")
        if not 0 < prior_probability < 1:
            raise ValueError(f"prior_probability must be within 0 and 1, got {prior_probability}")
        if not 0 < tower_weight_std < math.inf:
            raise ValueError(f"tower_weight_std must be a positive number, got {tower_weight_std}")
        self.num_classes, self.max_detections = num_classes, max_detections
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.num_candidates = num_candidates
        self.backbone = backbone
        self.anchors = PyramidAnchors(anchor_sizes, num_scales, aspect_ratios, backbone.strides)
        self.head = RetinaNetHead(backbone.hidden_dim, self.anchors.num_per_cell, num_classes)
        for tower in (self.head.classification_head.conv, self.head.regression_head.conv):
            for module in tower.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, std=tower_weight_std)
        prior_logit = -math.log((1 - prior_probability) / prior_probability)
        nn.init.constant_(self.head.classification_head.cls_logits.bias, prior_logit)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)
        # Recompute the head, which holds most of the activations, in the backward pass. Same numbers.
        self.activation_checkpointing = False
        self.card: ModelCard | None = None

    def class_tensors(self) -> dict[str, ClassRows]:
        names = (f"{CLASS_LAYER}.weight", f"{CLASS_LAYER}.bias")
        return dict.fromkeys(names, ClassRows(num_groups=self.anchors.num_per_cell))

    def detections(self, output: AnchorOutput, image_sizes_hw: Tensor, original_sizes_hw: Tensor) -> list[Detections]:
        return detections_of_anchors(
            output,
            image_sizes_hw,
            original_sizes_hw,
            self.score_threshold,
            self.num_candidates,
            self.nms_threshold,
            self.max_detections,
        )

    def normalize(self, images: Tensor, image_sizes_hw: Tensor) -> Tensor:
        """Raw images (N, 3, H, W), 0..255, to normalised float32 ones whose padding is zero (semantics.md#input)."""
        return normalized(images.float(), image_sizes_hw, self.pixel_mean, self.pixel_std)

    def forward(self, images: Tensor, image_sizes_hw: Tensor, targets: Targets | None = None) -> AnchorOutput:
        """Detect in a padded batch.

        Args:
            images: (N, 3, H, W) uint8 or float, RGB, 0..255, H and W multiples of 32.
            image_sizes_hw: (N, 2) sizes of the unpadded images.
            targets: not used; other detectors sample by them.
        """
        maps = self.backbone(self.normalize(images, image_sizes_hw))
        if self.activation_checkpointing and torch.is_grad_enabled():
            logits, deltas = checkpoint(self._run_head, *maps, use_reentrant=False)
        else:
            logits, deltas = self._run_head(*maps)
        return AnchorOutput(logits, deltas, self.anchors(maps))

    def _run_head(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        output = self.head(list(maps))
        return output["cls_logits"], output["bbox_regression"]
