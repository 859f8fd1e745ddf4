"""Faster R-CNN: images in, classes and boxes of proposals out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads

from sparse_rcnn.class_rows import ClassRows
from sparse_rcnn.faster_rcnn.backbone import PooledFPNBackbone
from sparse_rcnn.faster_rcnn.output import FasterRCNNOutput, RoIOutput
from sparse_rcnn.faster_rcnn.postprocess import to_original
from sparse_rcnn.faster_rcnn.proposal_detector import ProposalDetector, sizes_of
from sparse_rcnn.faster_rcnn.proposal_network import ProposalNetwork
from sparse_rcnn.faster_rcnn.settings import check_box_weights, check_fractions, check_positive
from sparse_rcnn.finite import check_finite
from sparse_rcnn.structures import Detections, Targets


class FasterRCNN(ProposalDetector):
    """The detector of arXiv 1506.01497 on the feature pyramid of arXiv 1612.03144.

    The names of its parameters are torchvision's but for the backbone (``faster_rcnn.torchvision_names``).

    Args:
        num_classes: K.
        backbone: images (N, 3, H, W) to p2..p6.
        rpn: the maps to proposals.
        roi_pooler: p2..p5 and boxes (N, P, 4) to RoI features (N * P, C, S, S).
        dim_fc: width of the two layers of the head (1024).
        roi_iou: a proposal with at least this IoU with a box is an object (0.5), others are background.
        num_sampled_rois: of an image, among proposals and boxes (512).
        object_fraction: of them, at most (0.25).
        box_weights: of the deltas of x, y, w and h (10, 10, 5, 5).
        score_threshold: detections have a higher score (0.05).
        nms_threshold: the IoU above which the weaker of two detections of a class goes (0.5).
        max_detections: of an image (100).
        pixel_mean, pixel_std: of RGB in 0..255.
    """

    has_stages = False
    output_kind = "regions"

    def __init__(
        self,
        num_classes: int,
        backbone: PooledFPNBackbone,
        rpn: ProposalNetwork,
        roi_pooler: nn.Module,
        dim_fc: int,
        roi_iou: float,
        num_sampled_rois: int,
        object_fraction: float,
        box_weights: Sequence[float],
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__(num_classes, backbone, rpn, roi_pooler, max_detections, pixel_mean, pixel_std)
        check_positive(dim_fc=dim_fc, num_sampled_rois=num_sampled_rois)
        check_fractions(
            roi_iou=roi_iou,
            object_fraction=object_fraction,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
        )
        output_size = int(roi_pooler.output_size)  # type: ignore[arg-type]
        self.roi_heads = RoIHeads(
            None,  # the pooler is this detector's own
            TwoMLPHead(backbone.hidden_dim * output_size**2, dim_fc),
            FastRCNNPredictor(dim_fc, num_classes + 1),
            roi_iou,
            roi_iou,
            num_sampled_rois,
            object_fraction,
            check_box_weights(box_weights),
            score_threshold,
            nms_threshold,
            max_detections,
        )

    def class_tensors(self) -> dict[str, ClassRows]:
        names = self.roi_heads.box_predictor.state_dict()
        return {
            f"roi_heads.box_predictor.{name}": ClassRows(num_before=1, rows_per_class=4 if "bbox_pred" in name else 1)
            for name in names
        }

    def forward(self, images: Tensor, image_sizes_hw: Tensor, targets: Targets | None = None) -> FasterRCNNOutput:
        """Detect in a padded batch.

        In training the anchors and the regions that the losses read are drawn from PyTorch's global generator.

        Args:
            images: (N, 3, H, W) uint8 or float, RGB, 0..255, H and W multiples of 32.
            image_sizes_hw: (N, 2) sizes of the unpadded images.
            targets: needed in training.

        Raises:
            NonFiniteError: a prediction of which boxes are made is not finite.
        """
        truth = self.truth(targets)
        maps = self.backbone(self.normalize(images, image_sizes_hw))
        rois, anchors = self.rpn(images, maps, sizes_of(image_sizes_hw), truth)
        labels, wanted_deltas = None, None
        if truth is not None:
            rois, _, labels, wanted_deltas = self.roi_heads.select_training_samples(rois, truth)
            labels, wanted_deltas = torch.cat(labels), torch.cat(wanted_deltas)
        logits, deltas = self.on_rois(self._head, self.pooled_pyramid(maps), rois)
        return FasterRCNNOutput(RoIOutput(tuple(rois), logits, deltas, labels, wanted_deltas), anchors)

    def _head(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        return logits, deltas

    @torch.no_grad()
    def detections(
        self, output: FasterRCNNOutput, image_sizes_hw: Tensor, original_sizes_hw: Tensor
    ) -> list[Detections]:
        rois = output.rois
        check_finite("detections", self.training, logits=rois.logits, deltas=rois.deltas)
        boxes, scores, labels = self.roi_heads.postprocess_detections(
            rois.logits, rois.deltas, list(rois.boxes_xyxy_abs), sizes_of(image_sizes_hw)
        )
        return to_original(boxes, scores, [y - 1 for y in labels], image_sizes_hw, original_sizes_hw)

    def forward_shapes(self, images: Tensor, image_sizes_hw: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and deltas of as many proposals as an image may have in evaluation."""
        maps = self.backbone(self.normalize(images, image_sizes_hw))
        self.rpn.head(maps)
        boxes = maps[0].new_empty(len(images), self.rpn.num_post_nms_testing, 4)
        return self._head(self.roi_pooler(maps[:4], boxes))
